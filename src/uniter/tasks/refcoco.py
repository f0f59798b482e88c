"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg, scenes): which region is meant. Spec: the published code's RE task."""

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniter.modeling_uniter import UniterForGrounding
from uniter.processing_uniter import Pair
from uniter.tasks.base import Batch, Task, field, images_by_id, read_json, with_interval

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression: its text, its image's name and size in pixels, and the box meant (pixels x1 y1 x2 y2)."""

    sent_id: int
    text: str
    image: str
    box: Box


class _DataOnly(pickle.Unpickler):
    """Reads plain containers, strings and numbers, and refuses everything that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def read_pickle(path: Path) -> Any:
    """The plain data in a pickle.

    Raises:
        ValueError: missing, damaged, or holding anything but containers, strings and numbers.
    """
    try:
        return _DataOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not opened, a refs file holds plain data only ({error}); it could run code, get the file from its makers"
        ) from None
    except Exception as error:
        raise ValueError(f"{path}: damaged ({error}); download it again") from None


class RefCOCO(Task):
    """Which region an expression means, among the regions at hand.

    Target: the region that covers the true box best, if their overlap is at least 0.5, else none (no loss). Prediction:
    the box of the highest region, with the true box beside it. Options:

        refs: file name of the references (`refs(unc).p`, `refs(umd).p`); the first found if left out.
    """

    name = "refcoco"
    model = UniterForGrounding
    monitor = "accuracy"
    options = {"refs": "refs(*).p"}  # noqa: RUF012

    def examples(self, split: str) -> list[Expression]:
        """The expressions of a split (train, val, testA, testB, test) in the file's order."""
        path = self.file(self.settings["refs"])
        instances_path = self.file("instances.json")
        instances = read_json(instances_path, dict)
        boxes = {a["id"]: a["bbox"] for a in field(instances, "annotations", instances_path)}
        files = {i["id"]: i["file_name"] for i in field(instances, "images", instances_path)}
        refs = read_pickle(path)
        if not isinstance(refs, list):
            raise ValueError(f"{path}: expected a list of references, got a {type(refs).__name__}")
        names = images_by_id(list(self.regions)) if self.regions is not None else {}
        found = []
        for ref in refs:
            if field(ref, "split", path) != split:
                continue
            if ref["ann_id"] not in boxes:
                raise ValueError(
                    f"{instances_path}: no annotation {ref['ann_id']}, which {path.name} refers to: do they belong together?"
                )
            x, y, w, h = boxes[ref["ann_id"]]
            file_name = files.get(ref["image_id"], ref.get("file_name", ""))
            known = self.regions is None or file_name in self.regions
            image = file_name if known else names.get(ref["image_id"], file_name)
            found += [
                Expression(s["sent_id"], s["sent"], image, (x, y, x + w, y + h))
                for s in ref["sentences"]
                if s["sent"].strip()
            ]
        if not found:
            raise ValueError(
                f"{path}: no expressions in split {split!r}; it has {', '.join(sorted({r['split'] for r in refs}))}"
            )
        return found

    def pairs(self, example: Expression) -> list[Pair]:
        """The expression and its image's regions."""
        return [Pair(example.text, self.seen(example.image))]

    def target(self, examples: Sequence[Expression]) -> Tensor:
        """(examples,) the region meant, -1 where none covers the true box."""
        labels = []
        for example in examples:
            overlap = overlaps(self.seen(example.image).boxes, example.box)
            labels.append(int(overlap.argmax()) if overlap.max() >= 0.5 else -1)
        return torch.tensor(labels)

    def decode(self, output: Any, examples: Sequence[Expression], batch: Batch) -> list[dict[str, Any]]:
        """The box of each expression's highest region."""
        best = output.logits.argmax(1).tolist()
        return [
            {"sent_id": e.sent_id, "pred_box": _xywh(self.seen(e.image).boxes[i]), "tgt_box": _xywh(e.box)}
            for e, i in zip(examples, best, strict=True)
        ]

    def score(self, predictions: Sequence[dict[str, Any]], examples: Sequence[Expression]) -> dict[str, float]:
        """Accuracy at an overlap above 0.5 with its 95% interval, and, with regions at hand, the best that they allow."""
        by_id = {prediction["sent_id"]: prediction["pred_box"] for prediction in predictions}
        missing = [example.sent_id for example in examples if example.sent_id not in by_id]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(examples)} expressions have no prediction, the first is sent_id {missing[0]}"
            )
        right = []
        for example in examples:
            x, y, w, h = by_id[example.sent_id]
            right.append(100.0 * float(overlaps(np.array([[x, y, x + w, y + h]]), example.box)[0] > 0.5))
        found = with_interval("accuracy", right)
        if self.regions is not None:
            within = [overlaps(self.seen(e.image).boxes, e.box).max() > 0.5 for e in examples]
            found["upper_bound"] = 100.0 * float(np.mean(within))
        return found

    def perfect(self, examples: Sequence[Expression]) -> list[dict[str, Any]]:
        """The true boxes."""
        return [{"sent_id": e.sent_id, "pred_box": _xywh(e.box), "tgt_box": _xywh(e.box)} for e in examples]


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def overlaps(boxes: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """(R,) intersection over union with one box by the published rule, in pixels.

    Args:
        boxes: (R, 4) x1 y1 x2 y2.
        box: x1 y1 x2 y2.

    The last pixel counts as inside: the intersection's right edge is x + w - 1 and its width right - left + 1, zero unless the
    boxes strictly overlap; the union has no such +1.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    x1, y1, x2, y2 = box
    left, top = np.maximum(boxes[:, 0], x1), np.maximum(boxes[:, 1], y1)
    right, bottom = np.minimum(boxes[:, 2] - 1, x2 - 1), np.minimum(boxes[:, 3] - 1, y2 - 1)
    inside = np.where((left < right) & (top < bottom), (right - left + 1) * (bottom - top + 1), 0.0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) + (x2 - x1) * (y2 - y1) - inside
    return inside / np.maximum(areas, 1e-9)
