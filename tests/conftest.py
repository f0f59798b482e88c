import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads cost more than they bring

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@dataclass(frozen=True)
class World:
    """A drawn world of a few pictures in the benchmarks' layouts, its store of regions, and tiny models with random weights."""

    data: Path
    regions: Path
    models: Path  # answers, grounding, matching, pretrained: a folder each

    @property
    def captions(self) -> Path:
        return self.data / "dataset_scenes.json"

    def picture(self, number: int = 0) -> Path:
        return sorted((self.data / "images").glob("*train*g"))[number]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Read it, never write into it."""
    from uniter.configuration_uniter import UniterConfig
    from uniter.modeling_uniter import UniterForAnswers, UniterForGrounding, UniterForMatching, UniterForPreTraining
    from uniter.pipeline import SHIPPED
    from uniter.processing_uniter import UniterProcessor, Vocabulary
    from uniter.regions.extract import extract
    from uniter.regions.store import Store
    from uniter.scenes.write import make
    from uniter.tasks.base import load

    folder = tmp_path_factory.mktemp("world")
    data, regions, models = folder / "data", folder / "regions", folder / "models"
    make(data, {"train": 8, "val": 4}, progress=False)
    extract(data / "images", regions, progress=False)
    store = Store(regions)
    processor = UniterProcessor(Vocabulary.find(SHIPPED.parent / "vocab.txt"))
    numbers = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": len(processor.vocabulary),
        "max_position_embeddings": 80,
        "initializer_range": 0.2,
        "region_feature_size": store.feature_size,
        "num_region_classes": store.num_classes,
        "detector": store.detector,
    }
    heads = {
        "answers": (UniterForAnswers, load("vqa")(data, least=1).config()),
        "grounding": (UniterForGrounding, {}),
        "matching": (UniterForMatching, {}),
        "pretrained": (UniterForPreTraining, {}),
    }
    for name, (kind, labels) in heads.items():
        torch.manual_seed(0)
        kind(UniterConfig(**numbers, **labels)).save_pretrained(models / name)
        processor.save_pretrained(models / name)
    return World(data, regions, models)
