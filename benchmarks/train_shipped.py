"""Make the models that ship with the package, from pictures that the package draws itself.

    python benchmarks/train_shipped.py --work data/shipped

Steps, each resumed where it was stopped: draw 7,300 pictures, find their regions with the shipped detector
(`benchmarks/train_detector.py` makes that one), learn a vocabulary of word pieces, pre-train by the recipe scenes-pretrain,
fine-tune by scenes-vqa, scenes-refcoco and scenes-retrieval, measure on the test and novel pictures, copy the weights as
float16 into src/uniter/assets. Results go to docs/results/shipped.md.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from uniter.pipeline import SHIPPED
from uniter.processing_uniter import Vocabulary
from uniter.recipe import load_recipe
from uniter.regions.extract import extract
from uniter.run import evaluate, run
from uniter.scenes.write import make
from uniter.tasks.base import load

PICTURES = {"train": 6000, "val": 300, "test": 500, "novel": 500}
TASKS = ("vqa", "refcoco", "retrieval")
MEASURE = {"retrieval": ["max_images=200", "captions_per_image=1"]}


def texts_of(world: Path) -> list[str]:
    """Every training text of a world, of whatever benchmark; a sentence said of several pairs of pictures once."""
    said = []
    for path in ("dataset_scenes.json", "flickr30k/dataset_flickr30k.json", "coco/dataset_coco.json"):
        images = json.loads((world / path).read_text(encoding="utf-8"))["images"]
        said += [each["raw"] for image in images if image["split"] == "train" for each in image["sentences"]]
    questions = json.loads((world / "v2_OpenEnded_scenes_train_questions.json").read_text(encoding="utf-8"))[
        "questions"
    ]
    said += [question["question"] for question in questions]
    for folder in ("", "refcoco+", "refcocog"):
        said += [expression.text for expression in load("refcoco")(world / folder).examples("train")]
    said += [record["sentence2"] for record in _lines(world / "snli_ve_train.jsonl")]
    said += dict.fromkeys(record["sentence"] for record in _lines(world / "train.json"))
    for record in _lines(world / "train.jsonl"):
        for words in (record["question"], *record["answer_choices"], *record["rationale_choices"]):
            said.append(" ".join(word if isinstance(word, str) else record["objects"][word[0]] for word in words))
    return said


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ship(run_folder: Path, name: str) -> None:
    """Copy a model as float16 into the package."""
    target = SHIPPED / name
    target.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "vocab.txt", "processor_config.json", "task.json"):
        if (run_folder / file).is_file():
            (target / file).write_bytes((run_folder / file).read_bytes())
    weights = load_file(run_folder / "model.safetensors")
    save_file({key: value.half() for key, value in weights.items()}, target / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("data/shipped"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="stages to do: world, pretrained, vqa, refcoco, retrieval, measure")
    parser.add_argument("overrides", nargs="*", help="settings of every recipe to change, as train.steps=10")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world, regions = options.work / "world", options.work / "regions"
    wanted = lambda stage: not options.only or stage in options.only
    if wanted("world"):
        make(world, PICTURES, seed=0, workers=options.threads)
        extract(world / "images", regions)
        pieces = Vocabulary.train(texts_of(world), 800).pieces
        (SHIPPED.parent / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    where = [f"data={world}", f"regions={regions}", "model.from=" + str(options.work / "runs" / "pretrained" / "last")]
    captions = world / "dataset_scenes.json"
    sources = [
        f"{kind}=[{{captions: {captions}, regions: {regions}, split: {split}}}]"
        for kind, split in (("sources", "train"), ("validation", "val"))
    ]
    for stage in ("pretrained", *TASKS):
        if wanted(stage):
            name = "scenes-pretrain" if stage == "pretrained" else f"scenes-{stage}"
            changed = sources if stage == "pretrained" else where
            result = run(load_recipe(name, [*changed, *options.overrides]), options.work / "runs" / stage)
            ship(result.folder / "last" if stage == "pretrained" else result.model, stage)
    if wanted("measure"):
        measure(world, regions, options.work / "runs")


def measure(world: Path, regions: Path, runs: Path) -> None:
    """Numbers of the shipped models on held-out pictures, into docs/results/shipped.md."""
    rows = []
    for task in ("zero-shot retrieval", *TASKS):
        name, folder = (task, None) if task in TASKS else ("retrieval", SHIPPED / "pretrained")
        for split in ("test", "novel"):
            began = time.time()
            found = evaluate(name, world, regions, split, folder, MEASURE.get(name, []))
            keys = [key for key in found if not key.endswith(("_low", "_high"))]
            said = ", ".join(
                f"{key.replace('_', ' ')} {found[key]:.1f}"
                + (f" ({found[key + '_low']:.1f}–{found[key + '_high']:.1f})" if key + "_low" in found else "")
                for key in keys
            )
            rows.append(f"| {task} | {split} | {said} |")
            print(rows[-1], f"{time.time() - began:.0f} s", flush=True)
    log = [json.loads(line) for line in (runs / "pretrained" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    text = f"""# The shipped models on held-out scenes

`python benchmarks/train_shipped.py` makes and measures them. Pictures: {PICTURES}, seed 0; `novel` shows pairs of colour and shape that
no training picture has. Percent, with 95% bootstrap intervals. Retrieval: 200 pictures, one caption each.

| task | pictures | result |
|---|---|---|
{chr(10).join(rows)}

Pre-training: {len(steps):,} steps, {sum(line["examples"] for line in steps):,} pairs, {sum(line["seconds"] for line in steps) / 60:.0f} minutes,
mean fill of the token budget {sum(line["fill"] for line in steps) / len(steps):.1%}. Machine: {platform.machine()}, {platform.system()},
{options_threads()} threads, torch {torch.__version__}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "shipped.md").write_text(text, encoding="utf-8")


def options_threads() -> int:
    """Threads of PyTorch now."""
    return torch.get_num_threads()


if __name__ == "__main__":
    main()
