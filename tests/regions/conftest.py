import pytest

from uniter.regions.detectors import load_detector
from uniter.regions.small import SmallDetector


@pytest.fixture(scope="session")
def detector() -> SmallDetector:
    return load_detector("scenes", "cpu")
