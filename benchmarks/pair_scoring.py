"""How fast every text is scored with every image: a slice of Flickr30K's size. `python benchmarks/pair_scoring.py`.

Prints pairs a second of processor time, one thread, and what a whole test set would take. The slice is two texts with
100 images, whose numbers of regions are evenly spaced among those of a larger set.
"""

import argparse
import time

import numpy as np
import torch

from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import UniterForMatching
from uniter.pair_scoring import score_all
from uniter.regions import Regions
from uniter.tasks.base import Precision, measuring

SETS = {"Flickr30K, 1,000 x 5,000": 5_000_000, "COCO, 5,000 x 25,010": 125_050_000}


def drawn_sizes(images: int) -> np.ndarray:
    """Numbers of regions, 11 to 100 with mean 36, evenly spaced among those of 1,000 images."""
    many = np.sort(np.clip(np.exp(np.random.default_rng(0).normal(3.51, 0.46, 1000)), 11, 100).astype(np.int64))
    return many[((np.arange(images) + 0.5) * len(many) / images).astype(int)]


def pairs_a_second(
    model: UniterForMatching, texts: int = 2, images: int = 100, precision: Precision = "float32", tokens: int = 2048
) -> float:
    """Pairs a second of processor time of one pass over a slice."""
    draw = np.random.default_rng(0)
    words = [draw.integers(106, model.config.vocab_size, 11 + 3 * number) for number in range(texts)]
    sizes = drawn_sizes(images)
    features = np.maximum(draw.standard_normal((100, model.config.region_feature_size)), 0).astype(np.float16)
    boxes = np.tile(np.array([[0, 0, 320, 240]], np.float32), (100, 1))
    seen = [Regions(features[:size], boxes[:size], 640, 480) for size in sizes]
    with measuring(model, precision):
        score_all(model, words[:1], sizes[:1], seen.__getitem__)  # whatever is made once
        began = time.process_time()
        scores = score_all(model, words, sizes, seen.__getitem__, tokens)
        return scores.size / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = UniterForMatching(UniterConfig.of_size("base")).eval()
    speed = pairs_a_second(model, options.texts, options.images, options.precision)
    print(f"{speed:.1f} pairs a second of processor time")
    for name, pairs in SETS.items():
        print(f"{name}: {pairs / speed / 3600:.1f} hours of one core")


if __name__ == "__main__":
    main()
