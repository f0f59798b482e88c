import pytest

from uniter.regions.detectors import SmallDetector, load_detector


@pytest.fixture(scope="session")
def detector() -> SmallDetector:
    return load_detector("scenes", "cpu")
