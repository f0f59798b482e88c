"""Train the small detector on NLVR's pictures, measure it on held-out ones, and write docs/results/nlvr_detector.md.

    python benchmarks/nlvr_detector.py --data NLVR --out runs/nlvr-detector

NLVR is the folder of the benchmark's files (Suhr et al. 2017): `train.jsonl` and `dev.jsonl` with `structured_rep`, and
`images-train.zip` and `images-dev.zip`. Pictures and boxes are written beside the detector, never into the project.
`--coco-only` writes them and stops: then `uniter detector train` can be used on them.

The classes are colour and shape together, since a model is shown a detector's classes and not its attributes, and NLVR's
sentences speak of both; `box` is the grey square that things lie in, of which the sentences speak too. Colour, shape and
size are attributes beside that, so that each is in the feature by itself. One processor core: ten minutes.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

from machine import processor
from uniter.files import write_text
from uniter.real.nlvr_files import CLASSES, MODEL, write_boxes
from uniter.regions.coco import AnnotatedPictures, read_coco
from uniter.regions.detectors import Detector
from uniter.regions.measuring import overlaps
from uniter.regions.own_detector import train_own
from uniter.regions.small import SmallDetector
from uniter.regions.training import DetectorTraining


def look_closer(detector: Detector, pictures: AnnotatedPictures) -> dict[str, float]:
    """Of the things and of the boxes the share found at 0.5, how many of the found are named right; milliseconds."""
    assert isinstance(detector, SmallDetector)
    box = detector.class_names.index("box")
    counts = dict.fromkeys(("things", "found", "class", *pictures.attributes, "boxes", "boxes found", "pictures"), 0)
    seconds = 0.0
    for place, entry in enumerate(pictures.entries):
        image, started = pictures.open(place), time.perf_counter()
        regions, attributes = detector.detect_with_attributes([image])[0]
        seconds += time.perf_counter() - started
        assert regions.class_probs is not None
        shared = overlaps(entry.things.boxes, regions.boxes)
        best, hit, thing = shared.argmax(1), shared.max(1) >= 0.5, entry.things.classes != box
        counts["things"] += int(thing.sum())
        counts["found"] += int((hit & thing).sum())
        counts["boxes"] += int((~thing).sum())
        counts["boxes found"] += int((hit & ~thing).sum())
        counts["pictures"] += bool(hit.all())
        said = regions.class_probs[best, 1:].argmax(1) + 1
        counts["class"] += int((said == entry.things.classes)[hit & thing].sum())
        for name in pictures.attributes:
            counts[name] += int((attributes[name][best].argmax(1) == entry.attributes[name])[hit & thing].sum())
    found = {"things": counts["things"], "things found": 100 * counts["found"] / counts["things"]}
    found["boxes found"] = 100 * counts["boxes found"] / counts["boxes"]
    found["pictures with all found"] = 100 * counts["pictures"] / len(pictures)
    found |= {f"{name} right": 100 * counts[name] / counts["found"] for name in ("class", *pictures.attributes)}
    return found | {"ms a picture": 1000 * seconds / len(pictures)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of NLVR's files")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures, boxes and detector")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--train-pictures", type=int, default=6000)
    parser.add_argument("--dev-pictures", type=int, default=1978)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--coco-only", action="store_true", help="write pictures and boxes, then stop")
    parser.add_argument("--report", type=Path, default=Path("docs/results/nlvr_detector.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures = options.out / "coco"
    train = write_boxes(options.data, "train", options.train_pictures, pictures)
    dev = write_boxes(options.data, "dev", options.dev_pictures, pictures)
    if options.coco_only:
        print(train, dev)
        return
    started = time.time()
    training = DetectorTraining(options.steps, batch=8, save_every=200)
    tell = lambda text: print(text, flush=True)
    own = train_own(
        train, pictures / "images", options.out / "detector", options.model, dev, training=training, tell=tell
    )
    minutes = (time.time() - started) / 60
    detector = SmallDetector.load(own.folder)
    held = read_coco(dev, pictures / "images")
    numbers = {**own.numbers, **look_closer(detector, held)}
    rows = [
        f"| {name} | {value:.0f} |" if name in ("pictures", "things") else f"| {name} | {value:.2f} |"
        for name, value in numbers.items()
    ]
    table = "\n".join(["| on dev | |", "|---|---:|", *rows])
    print(table)
    text = f"""# The small detector on NLVR's pictures

Trained on pictures of NLVR's training split with the boxes of its `structured_rep`, measured on pictures of dev, spread
over all examples and orders of the boxes. Classes: {", ".join(CLASSES)}. `mAP`: COCO's average precision over overlaps
0.5 to 0.95 of the regions as a model is shown them; `recall_50`, `things found`, `boxes found`: the share that a region
overlaps with at IoU 0.5 or more (of everything, of the things, of the grey boxes); `right`: of the found things, how many
the best region names right. Percent, but for the counts, `regions` a picture and milliseconds.

{table}

- command: `python benchmarks/nlvr_detector.py --data NLVR --out runs/nlvr-detector --steps {options.steps} --model {options.model} --train-pictures {options.train_pictures} --dev-pictures {options.dev_pictures}`
- training and its measurement: {minutes:.1f} minutes (shared machine), {options.steps} updates of 8 pictures
- detector: `{detector.fingerprint}`
- machine: {processor()}, {options.threads} thread{"s" if options.threads > 1 else ""}
- versions: Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}
"""
    write_text(options.report, text)


if __name__ == "__main__":
    main()
