"""A detector of one's own: pictures with boxes in, a detector and how much it finds out."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from uniter.files import read_json, write_json
from uniter.regions.choosing import read_name, refuse_rest, take_settings
from uniter.regions.coco import AnnotatedPictures, read_coco
from uniter.regions.detectors import Detector, load_detector
from uniter.regions.faster_rcnn import FasterRCNNDetector
from uniter.regions.measuring import Things, average_precision, found_share
from uniter.regions.training import DetectorTraining, Learner, train_detector

log = logging.getLogger(__name__)
SETTINGS, RESULT, CHECKPOINT = "training.json", "result.json", "checkpoint.pt"
# A network of tens of millions of trained weights moves more slowly than a small one from nothing.
RATES = {"small": 2e-3, "torchvision": 1e-4}


@dataclass(frozen=True)
class OwnDetector:
    """What a training left.

    Args:
        folder: `load_detector` reads it.
        numbers: of `measure`, on the pictures held out.
    """

    folder: Path
    numbers: dict[str, float]


def train_own(
    boxes: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    model: str = "small",
    val_boxes: str | os.PathLike | None = None,
    val_images: str | os.PathLike | None = None,
    val_share: float = 0.1,
    training: DetectorTraining | None = None,
    rate: float | None = None,
    device: str | None = None,
    tell: Callable[[str], None] = print,
    log_every: int = 50,
) -> OwnDetector:
    """Train a detector on one's own boxes and measure it on pictures held out.

    Started again after a kill it continues, and comes out with the same weights; a finished one is not trained again.

    Args:
        boxes: COCO JSON file of the boxes to train on.
        images: the folder of its pictures.
        out: the folder of the detector, new or of the same training.
        model: `small`, or `torchvision:NAME...` for a Faster R-CNN, which starts from the weights in its name; settings
            may follow, such as `small,long_side=400-400,regions=10-40`.
        val_boxes: COCO JSON file of the boxes to measure on, with the same categories; without it a share of the
            pictures is held out.
        val_images: the folder of its pictures; `images` if left out.
        val_share: the share that is held out without `val_boxes`.
        training: how to train.
        rate: the highest learning rate; by the model if left out.
        device: where to compute; the first GPU if there is one.
        tell: is told of the progress.
        log_every: steps from one telling to the next.

    Raises:
        ValueError: a file or setting is wrong, or the folder holds something else.
    """
    import torch

    out, device = Path(out), device or ("cuda" if torch.cuda.is_available() else "cpu")
    pictures = read_coco(boxes, images)
    held = None if val_boxes is None else read_coco(val_boxes, val_images or images, like=pictures)
    kind = read_name(model)[0].partition(":")[0]
    if kind not in RATES:
        raise ValueError(f"there is no model {model!r} to train: give small, or torchvision:NAME of a Faster R-CNN")
    training = replace(training or DetectorTraining(), rate=rate or RATES[kind])
    said = {"boxes": str(boxes), "images": str(images), "val_boxes": None if val_boxes is None else str(val_boxes)}
    said |= {"val_images": None if val_images is None else str(val_images), "val_share": val_share, "model": model}
    said |= asdict(training)
    _claim(out, said)
    for part in filter(None, (pictures, held)):
        for what, count in part.counted.items():
            log.warning("%d %s", count, what)
    if held is None:
        pictures, held = pictures.split(val_share, training.seed)
    if (out / RESULT).is_file():
        return OwnDetector(out, read_json(out / RESULT)["numbers"])
    # only a share of the updates is lost to a kill
    training = replace(training, save_every=min(training.save_every, max(1, training.steps // 5)))
    tell(f"{len(pictures)} pictures to train on, {len(held)} to measure on, {len(pictures.class_names) - 1} classes")
    learner = make_learner(model, pictures, training, device)
    detector = train_detector(pictures, learner, training, out, out / CHECKPOINT, tell, log_every, said)
    numbers = measure(detector, held)
    write_json(out / RESULT, {"fingerprint": detector.fingerprint, "numbers": numbers}, indent=1)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return OwnDetector(out, numbers)


def _claim(out: Path, said: dict[str, Any]) -> None:
    """Refuse a folder that holds something else than this training."""
    if (out / SETTINGS).is_file():
        before = read_json(out / SETTINGS)
        changed = [name for name in said if before.get(name) != json.loads(json.dumps(said[name]))]
        if changed:
            raise ValueError(
                f"{out} holds a training with another {changed[0]}: {before.get(changed[0])!r} there, "
                f"{said[changed[0]]!r} here; choose another folder, or the old setting to go on"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty and holds no training of a detector: choose a new or empty folder")
    write_json(out / SETTINGS, said, indent=1)


def make_learner(model: str, pictures: AnnotatedPictures, training: DetectorTraining, device: str = "cpu") -> Learner:
    """What trains a model on these pictures' classes.

    Raises:
        ValueError: there is no such model or setting.
    """
    name, given = read_name(model)
    if name == "small":
        from uniter.regions.small import SmallDetectorConfig
        from uniter.regions.small_training import SmallLearner

        config = SmallDetectorConfig(pictures.class_names, pictures.attributes)
        if "long_side" in given:
            config = replace(config, long_side=_pair(given.pop("long_side"), "long_side", model))
        if "regions" in given:
            config = replace(config, regions=_pair(given.pop("regions"), "regions", model))
        numbers = ("feature_size", "proposals", "threshold", "overlap")
        numeric = {key: given.pop(key) for key in numbers if key in given}
        config = take_settings(config, numeric, model)
        refuse_rest(given, ("long_side", "regions", *numbers), "small")
        return SmallLearner(config, training.seed, training.mixed, device)
    from uniter.regions.faster_rcnn_training import FasterRCNNLearner

    if pictures.attributes:
        log.warning("attributes (%s) are left out: only the small model learns them", ", ".join(pictures.attributes))
    start = load_detector(model, device)
    assert isinstance(start, FasterRCNNDetector)
    return FasterRCNNLearner(start, pictures.class_names, "@" not in name, training.seed, training.mixed)


def _pair(text: str, name: str, model: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdigit() and high.isdigit() and 0 < int(low) <= int(high)):
        raise ValueError(f"{model}: {name} is two numbers such as 192-320, got {text!r}")
    return int(low), int(high)


def measure(detector: Detector, pictures: AnnotatedPictures) -> dict[str, float]:
    """How much of what is in pictures a detector finds, by the regions that a model would be shown.

    Args:
        detector: of the same classes as the pictures, by name.
        pictures: with their boxes.

    Returns:
        In percent: average precision `mAP` (COCO's: over overlaps 0.5 to 0.95 and the classes that occur) and `mAP_50`
        (at 0.5), of each box its most probable class; `recall_50`, the share of things that a region overlaps with at
        0.5 or more. Also numbers of `pictures`, `things`, `regions` a picture.

    Raises:
        ValueError: the classes differ.
    """
    if detector.class_names != pictures.class_names:
        raise ValueError(
            f"the detector's classes ({', '.join(detector.class_names[1:6])}, ...) are not those of the boxes "
            f"({', '.join(pictures.class_names[1:6])}, ...)"
        )
    truths, founds = [entry.things for entry in pictures.entries], []
    for place in range(len(pictures)):
        regions = detector.detect([pictures.open(place)])[0]
        assert regions.class_probs is not None and regions.scores is not None
        founds.append(Things(regions.boxes, regions.class_probs[:, 1:].argmax(1) + 1, regions.scores))
    precision = 100 * average_precision(truths, founds, len(pictures.class_names))
    found, things = found_share(truths, founds)
    return {
        "mAP": float(np.nanmean(precision)) if things else float("nan"),
        "mAP_50": float(np.nanmean(precision[:, 0])) if things else float("nan"),
        "recall_50": 100 * found / max(things, 1),
        "pictures": len(pictures),
        "things": things,
        "regions": sum(len(seen.boxes) for seen in founds) / max(len(pictures), 1),
    }
