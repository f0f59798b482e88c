"""References in the layouts of RefCOCO, RefCOCO+ and RefCOCOg: one a thing, with the expressions that mean it."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniter.files import write_bytes, write_json
from uniter.scenes.appearance import by_looks
from uniter.scenes.elaborate import elaborate
from uniter.scenes.expressions import referring
from uniter.scenes.words import tokens
from uniter.scenes.world import SHAPES, Scene

REFERENCES = 4
"""Of each picture, how many expressions of a kind there are (at most)."""

ROOM = 16
"""Ids of questions and things are the image's id times this, and a number."""

_OBJECTS = ("moon", "arrow", "house", "tree", "cup")


@dataclass(frozen=True)
class Kind:
    """A kind of expressions.

    Args:
        folder: in the world's folder; empty: itself.
        file: of the references, beside `instances.json`.
        write: the expressions of a scene, with the position of the thing that each means.
        sides: whether test is two splits, testA and testB.
    """

    folder: str
    file: str
    write: Callable[[Scene, int, int], list[tuple[str, int]]]
    sides: bool = False


KINDS = {
    "references": Kind("", "refs(scenes).p", referring),
    "references_refcoco+": Kind("refcoco+", "refs(unc).p", by_looks, sides=True),
    "references_refcocog": Kind("refcocog", "refs(umd).p", elaborate),
}


def write_references(out: Path, scenes: list[Scene], seed: int) -> dict[str, int]:
    """Write each kind's references and `instances.json`.

    Args:
        out: the world's folder.
        scenes: all pictures.
        seed: the world's seed.

    Returns:
        How many expressions there are of each of `KINDS`.
    """
    annotations = {
        (scene.image_id, position): _annotation(scene, position, thing.shape, thing.box)
        for scene in scenes
        for position, thing in enumerate(scene.things)
    }
    images = [
        {"id": scene.image_id, "file_name": scene.file_name, "height": scene.height, "width": scene.width}
        for scene in scenes
    ]
    categories = [{"id": number + 1, "name": shape, "supercategory": "shape"} for number, shape in enumerate(SHAPES)]
    content = {"images": images, "annotations": list(annotations.values()), "categories": categories}
    numbers = {}
    for name, kind in KINDS.items():
        (out / kind.folder).mkdir(exist_ok=True)
        write_json(out / kind.folder / "instances.json", content)
        references = _references(kind, scenes, seed, annotations)
        write_bytes(out / kind.folder / kind.file, pickle.dumps(references, protocol=2))
        numbers[name] = sum(len(reference["sentences"]) for reference in references)
    return numbers


def _references(
    kind: Kind, scenes: list[Scene], seed: int, annotations: dict[tuple[int, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    references: list[dict[str, Any]] = []
    sent_id = 0
    for scene in scenes:
        said: dict[int, list[str]] = {}
        for text, position in kind.write(scene, seed, REFERENCES):
            said.setdefault(position, []).append(text)
        for position, texts in said.items():
            about = annotations[scene.image_id, position]
            sentences = []
            for text in texts:
                words = tokens(text)
                sentences.append({"tokens": words, "raw": text, "sent_id": sent_id, "sent": " ".join(words)})
                sent_id += 1
            references.append(
                {
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                    "file_name": scene.file_name,
                    "ann_id": about["id"],
                    "ref_id": len(references),
                    "image_id": scene.image_id,
                    "split": side(scene) if kind.sides else scene.split,
                    "sentences": sentences,
                    "category_id": about["category_id"],
                }
            )
    return references


def side(scene: Scene) -> str:
    """A picture's split where test has two sides: testA where most things are geometric figures, testB elsewhere.

    As in RefCOCO, where a picture is of people or of other things; the other splits stay what they are.
    """
    if scene.split != "test":
        return scene.split
    objects = sum(thing.shape in _OBJECTS for thing in scene.things)
    return "testB" if 2 * objects >= len(scene.things) else "testA"


def _annotation(scene: Scene, position: int, shape: str, box: tuple[float, ...]) -> dict[str, Any]:
    width, height = box[2] - box[0], box[3] - box[1]
    return {
        "id": scene.image_id * ROOM + position + 1,
        "image_id": scene.image_id,
        "category_id": SHAPES.index(shape) + 1,
        "bbox": [box[0], box[1], width, height],
        "area": width * height,
        "iscrowd": 0,
    }
