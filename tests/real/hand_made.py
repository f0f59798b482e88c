"""A tiny folder in the layout of the real data, made by hand: a few pictures, captions, phrases, rows and sentences."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ["red", "green", "blue", "black"]
THINGS = ["dog", "cat", "man"]
LEFTS = (0, 150, 300)
PERMUTATIONS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def flickr8k(folder: Path, counts: dict[str, int]) -> None:
    """Captions, phrases, boxes and regions; a picture's features say its colour and its thing."""
    number = 0
    for split, count in counts.items():
        records, features, boxes, probs, detected = [], [], [], [], []
        for _ in range(count):
            colour, thing = COLOURS[number % 4], THINGS[number % 3]
            captions = [f"A {colour} {thing} runs .", f"There is a {thing} that is {colour} ."]
            phrase = {"start": 0, "end": 4 + len(colour + thing), "phrase": f"A {colour} {thing}", "chain": number + 1}
            box = [0.0, 0.0, 0.5, 0.5]
            record = {"file": f"{100 + number}_{number:x}.jpg", "size": [200, 100], "captions": captions}
            record["phrases"] = [{"sentence": captions[0], "phrases": [phrase]}]
            records.append(record | {"boxes": [{"chains": [number + 1], "types": ["animals"], "box": box}]})
            random = np.random.default_rng(number)
            rows = random.standard_normal((3, 6)).astype(np.float16)
            rows[:, :4], rows[:, 4], rows[:, 5] = 0, 4 * (number % 3 == 0), 4 * (number % 3 == 1)
            rows[:, number % 4] = 4
            features.append(rows)
            boxes.append(np.array([[0, 0, 1, 1], box, [0.5, 0.5, 1, 1]], np.float32))
            probs.append(np.full((3, 4), 0.25, np.float16))
            detected.append([0, 1, 1])
            number += 1
        write_lines(folder / f"{split}.jsonl", records)
        np.savez(
            folder / f"regions-{split}.npz",
            files=np.array([record["file"] for record in records]),
            num_regions=np.full(count, 3),
            features=np.concatenate(features),
            boxes=np.concatenate(boxes),
            class_probs=np.concatenate(probs),
            detected=np.concatenate(detected).astype(np.uint8),
        )


def snli_ve(folder: Path, name: str, files: list[str]) -> None:
    labels = ("entailment", "neutral", "contradiction")
    rows = [
        {"pairID": f"{file}#{k}", "file": file, "hypothesis": f"a {THINGS[k]} is there", "label": labels[(n + k) % 3]}
        for n, file in enumerate(files)
        for k in range(3)
    ]
    write_lines(folder / f"{name}.jsonl", rows)


def nlvr(folder: Path, split: str, examples: int, first: int) -> None:
    """Sentences and drawn pictures of all six orders."""
    records = []
    with_pictures = io.BytesIO()
    with zipfile.ZipFile(with_pictures, "w") as packed:
        for number in range(first, first + examples):
            side, colour = (10, 20, 30)[number % 3], ("#0099ff", "Black", "Yellow")[number % 3]
            thing = {"x_loc": 20, "y_loc": 30, "type": "square", "color": colour, "size": side}
            boxes = [[thing], [thing | {"x_loc": 60}], []]
            record = {"sentence": f"There is a {COLOURS[number % 4]} square", "identifier": f"{number}-0"}
            record |= {"label": ("true", "false")[number % 2], "directory": str(number), "structured_rep": boxes}
            records.append(record | {"permutations": PERMUTATIONS})
            for k, order in enumerate(PERMUTATIONS):
                image = Image.new("RGB", (400, 100), "white")
                draw = ImageDraw.Draw(image)
                for left, place in zip(LEFTS, order, strict=True):
                    draw.rectangle([left, 0, left + 99, 99], fill="#d2d2d2")
                    for one in boxes[place]:
                        x, y = left + one["x_loc"], one["y_loc"]
                        draw.rectangle([x, y, x + side - 1, y + side - 1], fill=colour.lower())
                written = io.BytesIO()
                image.save(written, "WEBP", lossless=True)
                packed.writestr(f"{split}-{number}-0-{k}.webp", written.getvalue())
    write_lines(folder / f"{split}.jsonl", records)
    (folder / f"images-{split}.zip").write_bytes(with_pictures.getvalue())


def make(folder: Path) -> Path:
    """The whole folder."""
    for name in ("flickr8k", "snli_ve", "nlvr"):
        (folder / name).mkdir(parents=True)
    flickr8k(folder / "flickr8k", {"train": 24, "dev": 6, "test": 5})
    files = [f"{100 + number}_{number:x}.jpg" for number in range(30)]
    snli_ve(folder / "snli_ve", "train", files)
    snli_ve(folder / "snli_ve", "test", [f"{100 + number}_{number:x}.jpg" for number in range(30, 35)])
    nlvr(folder / "nlvr", "train", 12, 0)
    nlvr(folder / "nlvr", "dev", 3, 20)
    nlvr(folder / "nlvr", "test", 2, 30)
    return folder
