"""Small hand-made folders in the benchmarks' exact public layouts, with random regions: one maker for each task."""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import UniterPreTrainedModel
from uniter.processing_uniter import SPECIAL_PIECES, UniterProcessor, Vocabulary
from uniter.regions import Regions
from uniter.regions.store import StoreWriter
from uniter.tasks.base import Task, load

FEATURES = 12
COLOURS = ["red", "green", "blue", "yellow", "black", "white", "pink", "grey"]
WORDS = [
    "!",
    ".",
    ",",
    "?",
    "'",
    "a",
    "an",
    "the",
    "is",
    "are",
    "there",
    "what",
    "how",
    "many",
    "colour",
    "of",
    "left",
    "right",
    "big",
    "small",
    "dog",
    "cat",
    "man",
    "one",
    "two",
    "yes",
    "no",
]
WIDTH, HEIGHT = 640.0, 480.0


@dataclass
class Case:
    """A task's folder and what goes with it.

    Args:
        name: the task's.
        data: the folder of public files.
        regions: image name -> regions.
        options: of the task, so that so little data is enough.
        files: the files that the training split needs, the JSON ones first.
        image: name of an image that the training split shows.
    """

    name: str
    data: Path
    regions: dict[str, Regions]
    files: list[str]
    image: str
    options: dict[str, Any] = field(default_factory=dict)
    lines: bool = False  # the files hold a JSON record a line, whatever their ending

    def task(self, **options: Any) -> Task:
        """The task over this folder, with its regions and the small processor."""
        return load(self.name)(self.data, self.regions, processor(), **{**self.options, **options})


def processor() -> UniterProcessor:
    """A processor that knows a few words and all letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [*SPECIAL_PIECES, *WORDS, *COLOURS, *letters, *(f"##{letter}" for letter in letters)]
    return UniterProcessor(Vocabulary(tuple(dict.fromkeys(pieces))))


def random_regions(seed: int, count: int) -> Regions:
    """`count` regions of at least 20 pixels a side."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform([0, 0], [WIDTH - 220, HEIGHT - 220], (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 220, (count, 2))], 1).astype(np.float32)
    return Regions(rng.standard_normal((count, FEATURES)).astype(np.float32), boxes, WIDTH, HEIGHT)


def write_store(folder: Path, regions: Mapping[str, Regions]) -> Path:
    """The same regions as a store on disk (float16 features)."""
    with StoreWriter(folder, detector="random") as writer:
        for name, value in regions.items():
            writer.add(name, value)
    return folder


def tiny_config(**settings) -> UniterConfig:
    """A model of 32 numbers and two layers, without dropout; weights large enough to tell inputs apart."""
    size = {
        "vocab_size": len(processor().vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "region_feature_size": FEATURES,
        "num_region_classes": 7,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
    }
    return UniterConfig.of_size("tiny", **{**size, **settings})


def tiny_model(task: Task, seed: int = 0, **settings) -> UniterPreTrainedModel:
    """A random model with the task's head."""
    torch.manual_seed(seed)
    return task.model(tiny_config(**task.config(), **settings))


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def coco_name(split: str, image_id: int) -> str:
    """COCO's name of an image."""
    return f"COCO_{split}2014_{image_id:012d}.jpg"


# ---------------------------------------------------------------- a maker for each task


def karpathy(folder: Path, images: int = 8, captions: int = 2, name: str = "dataset_flickr30k.json") -> Case:
    """Karpathy's JSON: 8 training and 4 validation images with two captions each."""
    records, regions, sentid = [], {}, 0
    for number in range(images + images // 2):
        file_name = f"{1000 + number}.jpg"
        regions[file_name] = random_regions(number, 3 + number % 5)
        sentences = []
        for k in range(captions):
            raw = f"{'A' if k else 'The'} {COLOURS[number % 8]} dog is {'left of' if k else 'a'} {COLOURS[number // 2 % 8]} cat."
            words = raw.lower().strip(".").split()
            sentences.append({"tokens": words, "raw": raw, "imgid": number, "sentid": sentid})
            sentid += 1
        split = "train" if number < images else "val"
        record = {"sentids": [s["sentid"] for s in sentences], "imgid": number, "sentences": sentences}
        records.append(record | {"split": split, "filename": file_name})
    write(folder / name, {"images": records, "dataset": "flickr30k"})
    return Case("retrieval", folder, regions, [name], "1000.jpg")


def vqa_v2(folder: Path, questions: int = 12) -> Case:
    """VQA v2: OpenEnded questions and annotations of train2014 and val2014; ten people a question."""
    regions = {}
    for split, first in (("train", 100), ("val", 200)):
        asked, answered = [], []
        for k in range(questions):
            image_id = first + k // 2
            regions.setdefault(coco_name(split, image_id), random_regions(image_id, 3 + image_id % 5))
            ids = {"image_id": image_id, "question_id": image_id * 1000 + k % 2}
            text = f"What colour is the {'dog' if k % 2 else 'big cat'}?"
            answer, other = COLOURS[k % 3], COLOURS[(k + 1) % 3]
            said = [answer] * 7 + [other] * 3
            people = [
                {"answer": a, "answer_confidence": "yes", "answer_id": number + 1} for number, a in enumerate(said)
            ]
            asked.append(ids | {"question": text})
            about = {"question_type": "what color is the", "multiple_choice_answer": answer, "answer_type": "other"}
            answered.append(ids | about | {"answers": people})
        head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": f"{split}2014"}
        write(folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json", head | {"questions": asked})
        write(folder / f"v2_mscoco_{split}2014_annotations.json", head | {"annotations": answered})
    files = ["v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"]
    return Case("vqa", folder, regions, files, coco_name("train", 100), {"least": 1})


def refer(folder: Path, images: int = 6) -> Case:
    """RefCOCO: refs(unc).p (protocol 2, as published) and COCO's instances.json; two references an image."""
    annotations, files, refs, regions, sent_id = [], [], [], {}, 0
    for image_id in range(1, images + images // 2 + 1):
        file_name = coco_name("train", image_id)
        regions[file_name] = found = random_regions(image_id, 3 + image_id % 5)
        files.append({"id": image_id, "file_name": file_name, "width": int(WIDTH), "height": int(HEIGHT)})
        for k in range(2):
            x1, y1, x2, y2 = (round(float(v), 2) for v in found.boxes[k])
            about = {"id": image_id * 10 + k, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            annotations.append(about | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
            sentences = []
            for text in (f"{COLOURS[image_id % 8]} {'dog' if k else 'cat'}", f"the {'left' if k else 'right'} one"):
                sentences.append({"tokens": text.split(), "raw": text.title(), "sent_id": sent_id, "sent": text})
                sent_id += 1
            refs.append(
                {
                    "sent_ids": [s["sent_id"] for s in sentences],
                    "file_name": file_name.replace(".jpg", f"_{about['id']}.jpg"),
                    "ann_id": about["id"],
                    "ref_id": len(refs),
                    "image_id": image_id,
                    "split": "train" if image_id <= images else "val",
                    "sentences": sentences,
                    "category_id": 1,
                }
            )
    write(folder / "instances.json", {"images": files, "annotations": annotations, "categories": []})
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return Case("refcoco", folder, regions, ["instances.json", "refs(unc).p"], coco_name("train", 1))


def phrases(folder: Path, images: int = 8) -> Case:
    """Phrases of captions with boxes as fractions: a JSON record a picture, two phrases a picture, one of two boxes."""
    regions: dict[str, Regions] = {}
    for split, first, count in (("train", 0, images), ("val", 20, images // 2)):
        records = []
        for number in range(first, first + count):
            name = f"{1000 + number}_ab.jpg"
            regions[name] = found = random_regions(number, 3 + number % 5)
            shares = (found.boxes[:3] / [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist()
            one, other = f"A {COLOURS[number % 8]} dog", f"two {COLOURS[number // 2 % 8]} cats"
            sentence = f"{one} is left of {other} there ."
            said = [{"start": 0, "end": len(one), "phrase": one, "chain": 10 * number}]
            said.append({"start": sentence.index(other), "end": 0, "phrase": other, "chain": 10 * number + 1})
            said.append({"start": 0, "end": 5, "phrase": "there", "chain": 0})  # of nothing in the picture
            chains = ([10 * number], [10 * number + 1], [10 * number + 1])
            boxes = [{"chains": c, "types": ["animals"], "box": b} for c, b in zip(chains, shares, strict=True)]
            about = {"file": name, "size": [int(WIDTH), int(HEIGHT)], "captions": [sentence], "boxes": boxes}
            records.append(about | {"phrases": [{"sentence": sentence, "phrases": said}]})
        write_lines(folder / f"{split}.jsonl", records)
    return Case("phrases", folder, regions, ["train.jsonl"], "1000_ab.jpg", lines=True)


def snli_ve(folder: Path, sentences: int = 12) -> Case:
    """SNLI-VE: a JSON record a line in the file of each split, two sentences an image, and an undecided one."""
    regions = {}
    for split, first in (("train", 1000), ("dev", 2000)):
        records = []
        for k in range(sentences):
            image = f"{first + k // 2}"
            regions.setdefault(f"{image}.jpg", random_regions(first + k // 2, 3 + k // 2 % 5))
            caption = f"{image}.jpg#{k % 2}"
            label = ("entailment", "neutral", "contradiction")[k % 3]
            records.append(
                {
                    "Flickr30K_ID": image,
                    "annotator_labels": [label] * 4 + ["neutral"],
                    "captionID": caption,
                    "gold_label": label if k != 5 else "-",
                    "pairID": f"{caption}r1{label[0]}",
                    "sentence1": "A man is there.",
                    "sentence1_binary_parse": "( ( A man ) ( is there ) )",
                    "sentence1_parse": "(ROOT)",
                    "sentence2": f"The {COLOURS[k % 8]} {'dog' if k % 2 else 'cat'} is {'small' if k % 3 else 'big'}.",
                    "sentence2_binary_parse": "( )",
                    "sentence2_parse": "(ROOT)",
                }
            )
        write_lines(folder / f"snli_ve_{split}.jsonl", records)
    return Case("snli_ve", folder, regions, ["snli_ve_train.jsonl"], "1000.jpg")


def write_lines(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def nlvr2(folder: Path, sentences: int = 3) -> Case:
    """NLVR2: a JSON record a line; each sentence is said of two pairs of images, and true of every other."""
    regions = {}
    for split, first in (("train", 10), ("dev", 20)):
        records = []
        for k in range(2 * sentences):
            pair = f"{split}-{first + k // 2}-{k % 2}"
            for side in range(2):
                name = f"{pair}-img{side}.png"
                regions[name] = random_regions(100 * first + 2 * k + side, 3 + (k + side) % 4)
            text = f"There are {'two' if k // 2 % 2 else 'one'} {COLOURS[k // 2]} {'dog' if k % 3 else 'cat'}."
            records.append(
                {
                    "validation": {"5": str(k % 2 == 0)},
                    "sentence": text,
                    "left_url": "https://example.org/left.jpg",
                    "right_url": "https://example.org/right.jpg",
                    "writer": 5,
                    "synset": "cat.n.01",
                    "query": "two cats",
                    "identifier": f"{pair}-{k // 2 % 2}",
                    "label": str(k % 2 == 0),
                    **({"directory": k % 2} if split == "train" else {}),
                }
            )
        write_lines(folder / f"{split}.json", records)
    return Case("nlvr2", folder, regions, ["train.json"], "train-10-0-img0.png", lines=True)


def nlvr_record(number: int, **changes: Any) -> dict[str, Any]:
    """A record of NLVR's public files; sentence `number // 2` is said of two pictures."""
    thing = {"y_loc": 10 * number % 80, "type": "circle", "color": "Yellow", "x_loc": 5, "size": 20}
    boxes = [[thing], [thing, thing], [{**thing, "color": "#0099ff", "type": "square"}]]
    return {
        "sentence": f"There {'is a' if number % 3 else 'are two'} {COLOURS[number // 2 % 8]} one.",
        "label": ("true", "false")[number % 2],
        "identifier": f"{100 + number // 2}-{number % 2}",
        "directory": str(number % 4),
        "evals": {"r0": "true"},
        "structured_rep": boxes,
        **changes,
    }


def nlvr(folder: Path, examples: int = 6) -> Case:
    """NLVR: a JSON record a line, six pictures an example; those of dev lie in folders as published, the others flat."""
    regions = {}
    for split, first in (("train", 0), ("dev", 20)):
        records = [nlvr_record(first + k) for k in range(examples)]
        write_lines(folder / f"{split}.json", records)
        for k, record in enumerate(records):
            for order in range(6):
                folder_of = "" if split == "train" else f"dev/images/{record['directory']}/"
                name = f"{folder_of}{split}-{record['identifier']}-{order}.png"
                regions[name] = random_regions(100 * (first + k) + order, 3 + (k + order) % 4)
    return Case("nlvr", folder, regions, ["train.json"], "train-100-0-0.png", lines=True)


OWN = {"own_labels": "label", "own_answers": "answer", "own_boxes": "box", "own_captions": None}


def own_lines(name: str, lines: int = 12) -> tuple[list[dict[str, Any]], dict[str, Regions]]:
    """One's own data for a task: two lines an image, and the images' regions; of 12 lines the last four are val."""
    records, regions = [], {}
    for number in range(lines):
        image = f"pictures/{number // 2}.jpg"
        found = regions.setdefault(image, random_regions(number // 2, 3 + number // 2 % 5))
        said = {
            "label": ("calm", "busy", "odd")[number % 3],
            "answer": COLOURS[number % 4],
            "box": [round(float(value), 1) for value in found.boxes[number % 2]],
        }
        record = {
            "image": image,
            "text": f"the {COLOURS[number % 8]} {'dog' if number % 2 else 'cat'}, is it {number}?",
        }
        record |= {OWN[name]: said[OWN[name]]} if OWN[name] else {}
        records.append(record | {"split": "train" if number < lines * 2 // 3 else "val"})
    return records, regions


def own(name: str) -> Callable[[Path], "Case"]:
    """The maker of one's own data as JSON lines."""

    def make(folder: Path) -> Case:
        records, regions = own_lines(name)
        write_lines(folder / "mine.jsonl", records)
        return Case(name, folder, regions, ["mine.jsonl"], "pictures/0.jpg", lines=True)

    return make


def vcr_record(split: str, number: int, objects: int = 4) -> dict[str, Any]:
    """A question of VCR's public files, with references to people (objects 0 and 2) and to a dog (object 1)."""
    names = (["person", "dog", "person", "cat"] * objects)[:objects]
    colour = lambda k: COLOURS[(number + k) % len(COLOURS)]
    picture = f"movie_{number // 2}/scene_{split}_00.01.{number // 2:02}.5@0"
    return {
        "movie": "a movie",
        "objects": names,
        "interesting_scores": [0, 1],
        "answer_likelihood": "likely",
        "img_fn": f"{picture}.jpg",
        "metadata_fn": f"{picture}.json",
        "answer_orig": "1 is left .",
        "question_orig": "What is 1 ?",
        "rationale_orig": "2 is big .",
        "question": ["what", "colour", "is", [0, 2], "right", "of", [1], "?"],
        "question_match_iter": number,
        "answer_match_iter": [0, 1, 2, 3],
        "answer_choices": [[[k % 3], "is", colour(k), "."] for k in range(4)],
        "answer_sources": [0, 1, 2, 3],
        "answer_label": number % 4,
        "rationale_choices": [["there", "is", "one", colour(k + 1), [2], "'s", "dog"] for k in range(4)],
        "rationale_sources": [0, 1, 2, 3],
        "rationale_label": (number // 2 + 1) % 4,
        "img_id": f"{split}-{number // 2}",
        "question_number": number % 2,
        "annot_id": f"{split}-{number}",
        "match_fold": f"{split}-0",
        "match_index": number,
    }


def vcr(folder: Path, questions: int = 6) -> Case:
    """VCR: a JSON record a line; annotated regions under the published names, detected ones by the pictures' own."""
    regions = {}
    for split in ("train", "val"):
        records = [vcr_record(split, number) for number in range(questions)]
        write_lines(folder / f"{split}.jsonl", records)
        for number, record in enumerate(records):
            stem = record["img_fn"].split("/")[1].removesuffix(".jpg")
            regions[f"vcr_gt_{split}_{stem}.npz"] = random_regions(number // 2 + 500, len(record["objects"]))
            regions[record["img_fn"]] = random_regions(
                number // 2 + (700 if split == "val" else 600), 3 + number // 2 % 2 * 2
            )
    return Case("vcr", folder, regions, ["train.jsonl"], vcr_record("train", 0)["img_fn"])


MAKERS: dict[str, Callable[[Path], Case]] = {
    "retrieval": karpathy,
    "vqa": vqa_v2,
    "refcoco": refer,
    "phrases": phrases,
    "snli_ve": snli_ve,
    "nlvr2": nlvr2,
    "nlvr": nlvr,
    **{name: own(name) for name in OWN},
    "vcr": vcr,
}


def make_case(name: str, folder: Path) -> Case:
    """The case of a task.

    Raises:
        AssertionError: the task has no maker yet.
    """
    assert name in MAKERS, f"task {name!r} has no fixture: add a maker for it to MAKERS in tests/fixtures.py"
    folder.mkdir(parents=True, exist_ok=True)
    return MAKERS[name](folder)


# ---------------------------------------------------------------- text databases

META = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 91]}


def write_text_database(folder: Path, records: Mapping[str, dict[str, Any]], **files: Any) -> Path:
    """A text database in the published layout; other JSON files beside it by name, without .json.

    Args:
        folder: to make.
        records: id -> record; `img_fname` also goes into txt2img.json and img2txts.json.
        files: content of JSON files; None leaves one out.
    """
    import lmdb
    import lz4.frame
    import msgpack

    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 20, lock=False) as environment, environment.begin(write=True) as put:
        for name, record in records.items():
            put.put(name.encode(), lz4.frame.compress(msgpack.packb(record, use_bin_type=True)))
    txt2img = {name: record["img_fname"] for name, record in records.items() if "img_fname" in record}
    img2txts: dict[str, list[str]] = {}
    for name, image in txt2img.items():
        img2txts.setdefault(str(image), []).append(name)
    lengths = {name: len(record.get("input_ids", ())) for name, record in records.items()}
    usual = {"id2len": lengths, "txt2img": txt2img, "img2txts": img2txts, "meta": META}
    for name, content in {**usual, **files}.items():
        if content is not None:
            write(folder / f"{name}.json", content)
    return folder
