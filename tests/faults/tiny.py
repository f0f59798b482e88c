"""A run of seconds: random regions, a sentence for each picture, and a model of a few thousand numbers."""

import json
from pathlib import Path

import numpy as np

from uniter.recipe import PretrainRecipe, parse_recipe
from uniter.regions import Regions
from uniter.regions.store import StoreWriter

WORDS = ["the", "red", "green", "blue", "big", "small", "circle", "square", "triangle", "is", "above", "below"]
FEATURES, CLASSES, REGIONS = 64, 5, 6


def make_data(folder: Path, images: int = 40, shard_images: int = 1, features: int = FEATURES) -> Path:
    """`folder/store` of so many images and `folder/captions.json` with two sentences for each."""
    random = np.random.Generator(np.random.Philox(key=images))
    records = []
    with StoreWriter(folder / "store", "random", shard_images=shard_images) as writer:
        for number in range(images):
            name = f"{number:05d}.jpg"
            low = random.uniform(0, 50, (REGIONS, 2))
            boxes = np.concatenate([low, low + random.uniform(5, 50, (REGIONS, 2))], 1).astype(np.float32)
            probs = random.dirichlet(np.ones(CLASSES), REGIONS).astype(np.float32)
            vectors = random.standard_normal((REGIONS, features)).astype(np.float32)
            writer.add(name, Regions(vectors, boxes, 100, 100, probs))
            sentences = [{"raw": " ".join(random.choice(WORDS, 6))} for _ in range(2)]
            records.append({"filename": name, "split": "train", "sentences": sentences})
    (folder / "captions.json").write_text(json.dumps({"dataset": "tiny", "images": records}), encoding="utf-8")
    return folder


def recipe_text(captions: object, regions: object, steps: int = 12, features: int = FEATURES) -> str:
    """A recipe over them."""
    return f"""
kind: pretrain
model:
  size: tiny
  config: {{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}}
vocabulary: scenes
sources: [{{captions: {json.dumps(str(captions))}, regions: {json.dumps(str(regions))}}}]
objectives: {{mlm: 1, itm: 1, mrfr: 1, mrckl: 1}}
train: {{steps: {steps}, tokens: 96, learning_rate: 1.0e-3, device: cpu, threads: 1, save_every: 4, warmup: 0}}
"""


def recipe(captions: object, regions: object, *overrides: str, steps: int = 12) -> PretrainRecipe:
    """The recipe, read."""
    found = parse_recipe(recipe_text(captions, regions, steps), overrides)
    assert isinstance(found, PretrainRecipe)
    return found
