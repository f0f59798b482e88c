"""A folder laid out as the published recipes name it, tiny: text databases and public files, regions, weights."""

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

import fixtures
from uniter.modeling_uniter import UniterForPreTraining
from uniter.processing_uniter import PERSONS
from uniter.regions import Regions

CLASSES = 7
ANSWERS = fixtures.COLOURS[:3]


def write_everything(root: Path) -> None:
    """`models/`, `data/` and `data/regions/` of every published recipe."""
    write_models(root / "models")
    data = root / "data"
    stores: dict[str, dict[str, Regions]] = {}
    numbered("coco_train2014", 1, 24, stores)
    numbered("coco_val2014", 201, 24, stores)
    for part, first in (("vg", 401), ("gcc_train", 501), ("gcc_val", 601), ("sbu", 701)):
        numbered(part, first, 12, stores)
    write_captions(data, stores)
    write_answers(data / "vqa", stores)
    write_stories(data / "vcr", stores)
    for folder, references in (("refcoco", "refs(unc).p"), ("refcoco+", "refs(unc).p"), ("refcocog", "refs(umd).p")):
        case = fixtures.make_case("refcoco", data / folder)
        (data / folder / "refs(unc).p").rename(data / folder / references)
        stores["re_coco_gt"] = case.regions
        stores["re_coco_det"] = {name: found.take(np.arange(len(found))[::-1]) for name, found in case.regions.items()}
    shutil.copy(data / "refcocog" / "refs(umd).p", data / "refcocog" / "refs(google).p")  # as they are downloaded
    case = fixtures.nlvr2(data / "nlvr2", sentences=8)
    for part in ("train", "dev"):
        stores[f"nlvr2_{part}"] = {name: found for name, found in case.regions.items() if name.startswith(part)}
    flickr = fixtures.karpathy(data / "flickr30k", images=36)
    stores["flickr30k"] = fixtures.make_case("snli_ve", data / "snli_ve").regions | flickr.regions
    stores["mine"] = flickr.regions
    rows = [f"{image},a dog,{split},{i % 2}" for split in ("train", "val") for i, image in enumerate(flickr.regions)]
    (data / "mine.csv").write_text("\n".join(["image,text,split,label", *rows]))
    for name, regions in stores.items():
        fixtures.write_store(data / "regions" / name, {image: classified(found) for image, found in regions.items()})


def write_models(folder: Path) -> None:
    """A pre-trained model of one layer under all names; that of VCR's second stage has its words and types."""
    for stage, words in (("", ()), ("-init", ()), ("-vcr", PERSONS)):
        processor = fixtures.processor().with_words(words)
        size = {"type_vocab_size": 4 if words else 2, "vocab_size": len(processor.vocabulary)}
        model = UniterForPreTraining(fixtures.tiny_config(num_hidden_layers=1, num_region_classes=CLASSES, **size))
        for name in (f"uniter-base{stage}", f"uniter-large{stage}"):
            model.save_pretrained(folder / name)
            processor.save_pretrained(folder / name)


def numbered(part: str, first: int, count: int, stores: dict[str, dict[str, Regions]]) -> None:
    """Regions of a set of images under the published names."""
    stores[part] = {f"{part}_{i:012d}.npz": fixtures.random_regions(i, 3 + i % 4) for i in range(first, first + count)}


def classified(regions: Regions) -> Regions:
    """The same regions with a distribution of classes each."""
    drawn = np.random.default_rng(len(regions)).dirichlet(np.ones(CLASSES), len(regions)).astype(np.float32)
    return replace(regions, class_probs=drawn)


def ids(*texts: str) -> list[int]:
    """The word pieces of sentences, one after the other."""
    return list(chain(*map(fixtures.processor().pieces, texts)))


def caption(number: int) -> list[int]:
    return ids(f"the {fixtures.COLOURS[number % 8]} dog is left of a cat")


def write_captions(data: Path, stores: dict[str, dict[str, Regions]]) -> None:
    """The databases of captions, for pre-training and for COCO's retrieval."""
    train, others = list(stores["coco_train2014"]), list(stores["coco_val2014"])
    coco = {"train": train, "restval": others[:16], "val": others[16:]}
    for folder, name, splits in (
        ("pretrain_coco", "pretrain_coco", coco),
        ("coco", "itm_coco", coco),
        ("pretrain_vg", "pretrain_vg", halves(stores["vg"])),
        ("conceptual_caption", "conceptual_caption", {p: list(stores[f"gcc_{p}"]) for p in ("train", "val")}),
        ("sbu_caption", "sbu_caption", halves(stores["sbu"])),
    ):
        for split, images in splits.items():
            records = {
                f"{number}": {"input_ids": caption(number), "img_fname": images[number // 2]}
                for number in range(2 * len(images))
            }
            fixtures.write_text_database(data / folder / f"{name}_{split}.db", records)


def halves(images: dict[str, Regions]) -> dict[str, list[str]]:
    names = list(images)
    return {"train": names[: len(names) // 2], "val": names[len(names) // 2 :]}


def write_answers(folder: Path, stores: dict[str, dict[str, Regions]]) -> None:
    """The databases of VQA, with the file that names their labels."""
    train, val, vg = (list(stores[part]) for part in ("coco_train2014", "coco_val2014", "vg"))
    for split, images in {"train": train[:12], "trainval": val[:8], "devval": val[8:12], "vg": vg[:4]}.items():
        records = {
            f"{number}": {
                "input_ids": ids(f"what colour is the {'big' if number % 2 else 'small'} dog?"),
                "img_fname": image,
                "target": {"labels": [number % 3], "scores": [0.9]},
            }
            for number, image in enumerate(images)
        }
        fixtures.write_text_database(folder / f"vqa_{split}.db", records)
    fixtures.write(folder / "ans2label.json", {answer: number for number, answer in enumerate(ANSWERS)})


def write_stories(folder: Path, stores: dict[str, dict[str, Regions]]) -> None:
    """The databases of VCR, with the lengths as published, and regions of annotated and of detected boxes."""
    for split in ("train", "val"):
        records, images, of_answers, of_rationales = {}, {}, {}, {}
        gt, detected = stores.setdefault(f"vcr_gt_{split}", {}), stores.setdefault(f"vcr_{split}", {})
        for number in range(20 if split == "train" else 4):
            record = {
                "input_ids": ids("what is the dog?"),
                "input_ids_as": [ids(f"{colour} dog") for colour in fixtures.COLOURS[:4]],
                "input_ids_rs": [ids(f"there is a {colour} cat") for colour in fixtures.COLOURS[:4]],
                "qa_target": number % 4,
                "qar_target": number // 4 % 4,
            }
            name, stem = f"{split}-{number}", f"00.00.{number:02}.5@0"
            records[name], images[name] = record, [f"vcr_gt_{split}_{stem}.npz", f"vcr_{split}_{stem}.npz"]
            of_answers[name] = 4 * (len(record["input_ids"]) + max(map(len, record["input_ids_as"])))
            of_rationales[name] = of_answers[name] + max(map(len, record["input_ids_rs"]))
            gt[images[name][0]], detected[images[name][1]] = (
                fixtures.random_regions(number, count) for count in (2, 3 + number % 3)
            )
        files = {"id2len_qa": of_answers, "id2len_qar": of_rationales, "txt2img": images}
        fixtures.write_text_database(folder / f"vcr_{split}.db", records, id2len=None, img2txts=None, **files)
