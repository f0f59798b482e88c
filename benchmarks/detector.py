"""Measure a detector on held-out drawn scenes and write docs/results/detector.md.

    python benchmarks/detector.py

One processor core: about a minute.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
import torchvision

from machine import processor
from uniter.regions.detectors import load_detector
from uniter.regions.small import SmallDetector
from uniter.scenes.draw import draw
from uniter.scenes.world import make_scene, scene_truth


def measure(detector: SmallDetector, split: str, pictures: int, seed: int = 0) -> dict[str, float]:
    """Numbers on the first pictures of a split, in percent unless the name says otherwise."""
    things = found = regions = 0
    seconds = 0.0
    right = dict.fromkeys(("shape", "colour", "size", "texture"), 0)
    for index in range(pictures):
        scene = make_scene(seed, split, index)
        truth, image = scene_truth(scene), draw(scene)
        started = time.perf_counter()
        seen, attributes = detector.detect_with_attributes([image])[0]
        seconds += time.perf_counter() - started
        assert seen.class_probs is not None
        overlap = torchvision.ops.box_iou(torch.from_numpy(truth["boxes"]), torch.from_numpy(seen.boxes)).numpy()
        best = overlap.argmax(1)
        hit = overlap.max(1) >= 0.5
        things, found, regions = things + len(hit), found + int(hit.sum()), regions + len(seen)
        said = {name: attributes[name][best].argmax(1) for name in ("colour", "size", "texture")}
        said["shape"] = seen.class_probs[best, 1:].argmax(1)
        for name, values in said.items():
            right[name] += int((values == truth[f"{name}s"])[hit].sum())
    numbers = {"things": things, "recall": 100 * found / things}
    numbers |= {name: 100 * count / max(found, 1) for name, count in right.items()}
    return numbers | {"regions a picture": regions / pictures, "ms a picture": 1000 * seconds / pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="scenes")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/detector.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = load_detector(options.detector, "cpu")
    detector.detect([draw(make_scene(options.seed, "val", 0))])  # the first picture pays for set-up
    rows = {split: measure(detector, split, options.pictures, options.seed) for split in ("test", "novel")}
    columns = list(rows["test"])
    table = [f"| split | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    table += [
        f"| {split} | " + " | ".join(f"{row[c]:.0f}" if c == "things" else f"{row[c]:.1f}" for c in columns) + " |"
        for split, row in rows.items()
    ]
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    versions |= {"torchvision": torchvision.__version__, "NumPy": np.__version__}
    text = f"""# The shipped detector on held-out scenes

Recall: things that a region overlaps with at IoU 0.5 or more, in percent. Shape, colour, size and texture: how often
the best region of such a thing has them right, in percent. The split `novel` shows pairs of colour and shape that no
training picture has. The first {options.pictures} pictures of each split, seed {options.seed}.

{chr(10).join(table)}

- command: `python benchmarks/detector.py --pictures {options.pictures} --seed {options.seed}`
- detector: `{detector.fingerprint}`
- machine: {processor()}, one thread
- versions: {", ".join(f"{name} {version}" for name, version in versions.items())}
"""
    print("\n".join(table))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)


if __name__ == "__main__":
    main()
