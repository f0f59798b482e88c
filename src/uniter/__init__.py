"""UNITER: one joint representation of images and text, from pixels to submission file."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Loaded when first asked for, so that `import uniter` is quick.
_HOMES = {
    "Uniter": "pipeline",
    "UniterConfig": "configuration_uniter",
    "UniterModel": "modeling_uniter",
    "UniterForPreTraining": "modeling_uniter",
    "UniterForAnswers": "modeling_uniter",
    "UniterForChoice": "modeling_uniter",
    "UniterForGrounding": "modeling_uniter",
    "UniterForMatching": "modeling_uniter",
    "UniterForPairs": "modeling_uniter",
    "UniterProcessor": "processing_uniter",
    "Pair": "processing_uniter",
    "Segment": "processing_uniter",
    "Regions": "regions.regions",
    "Store": "regions.store",
    "extract": "regions.extract",
}
__all__ = [
    "Pair",
    "Regions",
    "Segment",
    "Store",
    "Uniter",
    "UniterConfig",
    "UniterForAnswers",
    "UniterForChoice",
    "UniterForGrounding",
    "UniterForMatching",
    "UniterForPairs",
    "UniterForPreTraining",
    "UniterModel",
    "UniterProcessor",
    "__version__",
    "extract",
]

if TYPE_CHECKING:
    from uniter.configuration_uniter import UniterConfig
    from uniter.modeling_uniter import (
        UniterForAnswers,
        UniterForChoice,
        UniterForGrounding,
        UniterForMatching,
        UniterForPairs,
        UniterForPreTraining,
        UniterModel,
    )
    from uniter.pipeline import Uniter
    from uniter.processing_uniter import Pair, Segment, UniterProcessor
    from uniter.regions.extract import extract
    from uniter.regions.regions import Regions
    from uniter.regions.store import Store


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"uniter.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'uniter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
