"""Regions of images: what they are, where they are kept, and how they are found."""

from importlib import import_module
from typing import TYPE_CHECKING

from uniter.regions.regions import Regions as Regions
from uniter.regions.regions import concatenate as concatenate

if TYPE_CHECKING:
    from uniter.regions.detectors import Detector as Detector
    from uniter.regions.detectors import load_detector as load_detector
    from uniter.regions.formats import open_regions as open_regions
    from uniter.regions.importing import import_regions as import_regions
    from uniter.regions.pictures import open_picture as open_picture
    from uniter.regions.small import SmallDetector as SmallDetector
    from uniter.regions.source import RegionSource as RegionSource
    from uniter.regions.store import Store as Store
    from uniter.regions.store import StoreWriter as StoreWriter

_HOME = {
    "Detector": "detectors",
    "SmallDetector": "small",
    "load_detector": "detectors",
    "open_picture": "pictures",
    "open_regions": "formats",
    "import_regions": "importing",
    "RegionSource": "source",
    "Store": "store",
    "StoreWriter": "store",
}


def __getattr__(name: str) -> object:  # torch is imported only when a detector is asked for
    if name in _HOME:
        return getattr(import_module(f"uniter.regions.{_HOME[name]}"), name)
    raise AttributeError(f"module 'uniter.regions' has no attribute {name!r}")
