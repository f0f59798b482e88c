"""The command line: verbs only. What a verb needs is imported inside it, so that `uniter --help` stays quick."""

import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

app = typer.Typer(
    name="uniter",
    help="UNITER: one joint representation of images and text, from pixels to submission file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
scenes_app = typer.Typer(
    help="The embedded world: pictures and sentences that the package draws itself.", no_args_is_help=True
)
recipes_app = typer.Typer(help="Recipes that ship with the package.", no_args_is_help=True)
bench_app = typer.Typer(help="Rows of the paper's tables, measured here.", no_args_is_help=True)
app.add_typer(scenes_app, name="scenes")
app.add_typer(bench_app, name="bench")
app.add_typer(recipes_app, name="recipes")
detector_app = typer.Typer(help="Detectors of one's own.", no_args_is_help=True)
app.add_typer(detector_app, name="detector")

SHOWN = 20  # so many failures are named on stderr
SOME_FAILED = 3  # exit status of an extraction that left pictures out

Out = Annotated[
    Path, typer.Option("--out", help="Where to write. What is there already is resumed or refused, never clobbered.")
]
Model = Annotated[Path | None, typer.Option("--model", help="Folder of a trained model; the shipped one if left out.")]
DetectorName = Annotated[str, typer.Option("--detector", help="Name or folder of the region detector.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to override.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


@scenes_app.command("make")
def scenes_make(
    out: Out,
    train: Annotated[int, typer.Option(min=0, help="Pictures to train on.")] = 1000,
    val: Annotated[int, typer.Option(min=0, help="Pictures to validate on.")] = 100,
    test: Annotated[int, typer.Option(min=0, help="Held-out pictures.")] = 200,
    novel: Annotated[
        int, typer.Option(min=0, help="Held-out pictures of colour-shape pairs never seen in training.")
    ] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same world.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Draw pictures and say things about them, in the benchmarks' own file formats.

    Captions (Karpathy), questions (VQA v2), referring expressions (RefCOCO), hypotheses (SNLI-VE), sentences about two
    pictures (NLVR2) and questions with choices (VCR, with the things' boxes beside each picture); in folders of their
    own captions like those of Flickr30K and COCO and expressions like those of RefCOCO+ and RefCOCOg.
    """
    from uniter.scenes.write import make

    make(
        out, {"train": train, "val": val, "test": test, "novel": novel}, seed=seed, workers=workers, progress=not quiet
    )
    print(out)


@app.command()
def extract(
    out: Out,
    source: Annotated[
        str | None,
        typer.Argument(help="Folder of pictures, glob, list file (@FILE), tar, Parquet file, or a URL of these."),
    ] = None,
    detector: DetectorName = "scenes",
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes (default 1), or Ray's actors (default one a GPU or core).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode, in each process; by default 1, or 8 beside a GPU.")
    ] = None,
    shard_images: Annotated[int, typer.Option(min=1, help="Pictures done, and lost by a kill, at once.")] = 512,
    root: Annotated[
        str | None, typer.Option("--root", help="Folder that names begin below, if it is not the source.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Work in Ray's actors.")] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Only make the store, after ranks that did all its shards.")
    ] = False,
    annotated: Annotated[
        bool, typer.Option("--annotated", help="Take the boxes in the JSON beside each picture (VCR) instead.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Find the regions of every picture of a source and keep them in a store.

    Under torchrun or srun each rank does its share of the shards, and the last makes the store (docs/scale.md).
    Exit status 3: the store was made, but some pictures failed; they are in its failures.jsonl. A rank's is then 0.
    """
    from uniter.regions.extract import extract as run_extract
    from uniter.regions.extract import finish as run_finish
    from uniter.regions.runners import rank_from

    if finish:
        rank, report = None, run_finish(out)
    elif source is None:
        raise ValueError("what to extract from is missing: give a folder of pictures, or another SOURCE")
    else:
        rank = rank_from(os.environ)
        report = run_extract(
            source,
            out,
            detector,
            batch=batch,
            progress=not quiet,
            shard_images=shard_images,
            root=root,
            annotated=annotated,
            workers=workers,
            threads=threads,
            rank=rank,
            ray=ray,
        )
    for failure in report.failures[:SHOWN]:
        print(f"failed {failure.name}: {failure.reason}", file=sys.stderr)
    if len(report.failures) > SHOWN:
        print(f"failed {len(report.failures) - SHOWN} more", file=sys.stderr)
    print(report)
    if report.failures and rank is None:  # a launcher would end the other ranks
        raise typer.Exit(SOME_FAILED)


@app.command()
def show(
    store: Annotated[str, typer.Argument(help="Store of regions, its URL, or a file of docs/formats.md.")],
    image: Annotated[str, typer.Argument(help="The image's name in it.")],
    out: Annotated[Path, typer.Option("--out", help="PNG file to write.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder that names begin in; boxes are drawn on white without it.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="What made the store, to ask it for attributes too.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Draw so many, the first ones.")] = 36,
) -> None:
    """Draw the regions that a store has of an image, with what they are."""
    from uniter.regions.drawing import show as run_show

    print(f"{out}: {run_show(store, image, out, images, detector, top)} regions")


@app.command("import-regions")
def import_regions(
    source: Annotated[Path, typer.Argument(help="Region file or folder of somebody else; docs/formats.md says which.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the store, new or to be continued.")],
    detector: Annotated[str | None, typer.Option("--detector", help="Name of what made the regions.")] = None,
    conf_threshold: Annotated[
        float | None, typer.Option("--conf-threshold", help="Take regions with a confidence above it.")
    ] = None,
    max_regions: Annotated[int | None, typer.Option("--max-regions", min=1, help="At most so many an image.")] = None,
    min_regions: Annotated[
        int | None, typer.Option("--min-regions", min=1, help="At least so many, whatever the threshold says.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Keep whole class distributions, not the 32 largest and the rest.")
    ] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Keep features as bytes: half the disk, rounded to 1/255 of their range.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Copy regions of the published code, or of other tools, into a store."""
    from uniter.regions.importing import import_regions as run_import

    choice = (conf_threshold, max_regions, min_regions)
    print(run_import(source, out, detector, *choice, full, progress=not quiet, compact=compact))


@detector_app.command("train")
def detector_train(
    boxes: Annotated[Path, typer.Option("--boxes", help="COCO JSON file of the boxes to train on.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of its pictures.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the detector, new or to be continued.")],
    model: Annotated[
        str, typer.Option("--model", help="small, or torchvision:NAME of a Faster R-CNN; settings may follow.")
    ] = "small",
    val_boxes: Annotated[
        Path | None, typer.Option("--val-boxes", help="COCO JSON file of the boxes to measure on.")
    ] = None,
    val_images: Annotated[Path | None, typer.Option("--val-images", help="Folder of their pictures.")] = None,
    val_share: Annotated[
        float, typer.Option("--val-share", min=0.0, max=1.0, help="Share of the pictures to measure on otherwise.")
    ] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 5000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures an update.")] = 8,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate; by the model if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same detector.")] = 0,
    full_precision: Annotated[bool, typer.Option("--full-precision", help="No bfloat16.")] = False,
    device: Annotated[str | None, typer.Option(help="Where to compute; the first GPU if there is one.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a detector on one's own boxes; print what it finds in pictures held out."""
    from uniter.regions.own_detector import train_own
    from uniter.regions.training import DetectorTraining

    training = DetectorTraining(steps=steps, batch=batch, seed=seed, mixed=not full_precision)
    tell = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    found = train_own(boxes, images, out, model, val_boxes, val_images, val_share, training, rate, device, tell)
    print(json.dumps(found.numbers, indent=2))


@bench_app.command("scenes")
def bench_scenes(
    out: Out,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 1,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task or group of tasks; may be repeated.")
    ] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Updates of fine-tuning on every task; by task if left out.")
    ] = None,
    pretraining: Annotated[
        int, typer.Option(min=0, help="Updates of a pre-training on each seed's own pictures; 0: the one that ships.")
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Fine-tune on every task of the drawn world, from scratch and pre-trained; print the table (hours on a CPU)."""
    from dataclasses import replace

    from uniter.bench import BENCHMARKS, PAPER, Budget, scenes, table

    budget = Budget(pretraining=pretraining)
    if updates is not None:
        budget = replace(budget, updates=dict.fromkeys(BENCHMARKS, updates))
    found = scenes(out, range(seeds), task or PAPER, budget, not quiet)
    _tell_bench(out, "table", table(found), found)


BenchData = Annotated[Path, typer.Option("--data", help="Folder with nlvr, flickr8k and snli_ve (docs/real_data.md).")]
BenchSeeds = Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, from 0.")]
BenchSize = Annotated[str, typer.Option("--size", help="Size of the model: tiny, small, base or large.")]
BenchUpdates = Annotated[int | None, typer.Option("--updates", min=1, help="Updates of each fine-tuning.")]
BenchPretraining = Annotated[int | None, typer.Option("--pretraining", min=1, help="Updates of pre-training.")]
BenchTokens = Annotated[int | None, typer.Option("--tokens", min=64, help="Budget of a batch.")]
BenchSplit = Annotated[Path | None, typer.Option("--split", help="Another split's file to measure on too.")]
BenchMeasured = Annotated[
    int | None, typer.Option("--measured", min=0, help="Measure retrieval among so many pictures; 0: all.")
]
BenchOrders = Annotated[
    int | None, typer.Option("--orders", min=1, max=6, help="Of the six orders of NLVR's pictures, learn from so many.")
]
BenchDetector = Annotated[
    Path | None, typer.Option("--detector", help="A trained detector of NLVR's things, instead of training one.")
]
BenchRows = Annotated[list[str] | None, typer.Option("--row", help="Only this row of the table; may be repeated.")]


def _given(**settings: Any) -> dict[str, Any]:
    """The settings that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def _tell_bench(out: Path, name: str, table: str, found: list[Any]) -> None:
    from uniter.files import write_text
    from uniter.stages import times

    text = f"{table}\n\n{times(found)}"
    write_text(out / f"{name}.md", text + "\n")
    print(text)


@bench_app.command("flickr8k")
def bench_flickr8k(
    data: BenchData,
    out: Out,
    seeds: BenchSeeds = 1,
    size: BenchSize = "small",
    pretraining: BenchPretraining = None,
    updates: BenchUpdates = None,
    tokens: BenchTokens = None,
    measured: BenchMeasured = None,
    captions_per_image: Annotated[
        int | None, typer.Option("--captions-per-image", min=0, help="With so many captions of each; 0: all.")
    ] = None,
    row: BenchRows = None,
    split: BenchSplit = None,
    quiet: Quiet = False,
) -> None:
    """Flickr8k: pre-train, retrieval and phrase grounding, pre-trained and from scratch (hours on a CPU)."""
    from uniter.real.flickr8k import Budget, flickr8k, table

    more = _given(pretraining=pretraining, retrieval=updates, phrases=updates, tokens=tokens, measured=measured)
    more |= _given(captions_per_image=captions_per_image, rows=row and tuple(row))
    found = flickr8k(data, out, range(seeds), Budget(size, **more), split, not quiet)
    _tell_bench(out, "flickr8k", table(found), found)


@bench_app.command("entailment")
def bench_entailment(
    data: BenchData,
    out: Out,
    seeds: BenchSeeds = 1,
    size: BenchSize = "small",
    pretraining: BenchPretraining = None,
    updates: BenchUpdates = None,
    tokens: BenchTokens = None,
    row: BenchRows = None,
    split: BenchSplit = None,
    regions: Annotated[Path | None, typer.Option("--regions", help="Regions of that file's pictures.")] = None,
    quiet: Quiet = False,
) -> None:
    """Visual entailment on Flickr8k's pictures, with a control that sees the words alone."""
    from uniter.real.entailment import Budget, entailment, table

    more = _given(pretraining=pretraining, entailment=updates, tokens=tokens, rows=row and tuple(row))
    found = entailment(data, out, range(seeds), Budget(size, **more), split, regions, not quiet)
    _tell_bench(out, "entailment", table(found), found)


@bench_app.command("nlvr")
def bench_nlvr(
    data: BenchData,
    out: Out,
    seeds: BenchSeeds = 1,
    size: BenchSize = "small",
    pretraining: BenchPretraining = None,
    updates: BenchUpdates = None,
    tokens: BenchTokens = None,
    orders: BenchOrders = None,
    detector: BenchDetector = None,
    row: BenchRows = None,
    split: BenchSplit = None,
    quiet: Quiet = False,
) -> None:
    """NLVR from pixels: detector, regions, pre-training, fine-tuning, dev over all six orders (hours on a CPU)."""
    from uniter.real.nlvr import Budget, nlvr, table

    more = _given(pretraining=pretraining, updates=updates, tokens=tokens, orders=orders, rows=row and tuple(row))
    found = nlvr(data, out, range(seeds), Budget(size, **more), split, detector, not quiet)
    _tell_bench(out, "nlvr", table(found), found)


@bench_app.command("ablation")
def bench_ablation(
    data: BenchData,
    out: Out,
    seeds: BenchSeeds = 3,
    size: BenchSize = "tiny",
    pretraining: BenchPretraining = None,
    updates: BenchUpdates = None,
    tokens: BenchTokens = None,
    measured: BenchMeasured = None,
    orders: BenchOrders = None,
    detector: BenchDetector = None,
    row: BenchRows = None,
    quiet: Quiet = False,
) -> None:
    """The paper's ablation of pre-training on Flickr8k, entailment and NLVR (a day on a CPU)."""
    from uniter.real.ablation import Budget, ablation, table

    more = _given(pretraining=pretraining, retrieval=updates, entailment=updates, nlvr=updates, tokens=tokens)
    more |= _given(measured=measured, orders=orders, rows=row and tuple(row))
    found = ablation(data, out, range(seeds), Budget(size, **more), detector, not quiet)
    _tell_bench(out, "ablation", table(found), [one for rows in found for one in rows.values()])


MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory", help="As 16GB: cut micro-batches into parts so that training fits; the result stays the same."
    ),
]


def _train(kind: str, recipe: str, overrides: list[str] | None, out: Path, quiet: bool, max_memory: str | None) -> None:
    from uniter.files import size_of
    from uniter.recipe import load_recipe
    from uniter.run import run

    loaded = load_recipe(recipe, overrides or [])
    if loaded.kind != kind:
        raise ValueError(f"{recipe} is a recipe for `uniter {loaded.kind}`, not for `uniter {kind}`")
    limit = None if max_memory is None else size_of(max_memory)
    result = run(loaded, out, progress=not quiet, max_memory=limit)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    best = "" if result.best is None else f", best {result.best:.2f} at step {result.best_step}"
    if not result.finished:
        if first:
            print(
                f"{out}: interrupted after {result.steps} steps; run the same command again to go on", file=sys.stderr
            )
        raise typer.Exit(130)
    if first:
        print(f"{out}: finished after {result.steps} steps{best}; model in {result.model}")


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="Recipe: a YAML file or the name of a shipped one.")],
    out: Out,
    overrides: Overrides = None,
    max_memory: MaxMemory = None,
    quiet: Quiet = False,
) -> None:
    """Pre-train a model on captioned pictures."""
    _train("pretrain", recipe, overrides, out, quiet, max_memory)


@app.command()
def finetune(
    recipe: Annotated[str, typer.Argument(help="Recipe: a YAML file or the name of a shipped one.")],
    out: Out,
    overrides: Overrides = None,
    max_memory: MaxMemory = None,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on a task."""
    _train("finetune", recipe, overrides, out, quiet, max_memory)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that runs were written into.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the runs below a folder: running, finished, stopped or failed, at which step, with which loss."""
    from dataclasses import asdict

    from uniter.training.runs import runs_below, table

    found = runs_below(folder)
    if as_json:
        for run in found:
            print(json.dumps({**asdict(run), "path": str(run.path)}))
    else:
        print(table(found) if found else f"{folder}: no runs")


Task = Annotated[
    str,
    typer.Argument(help="Task by name (vqa, refcoco, retrieval, snli_ve, nlvr2, nlvr, vcr, own_...) or module path."),
]
Data = Annotated[
    Path, typer.Option("--data", help="Folder of the benchmark's own files or text databases, or your own file.")
]
Regions = Annotated[
    list[str],
    typer.Option(
        "--regions", help="The pictures' regions: a store, its URL, or a file of docs/formats.md; may be repeated."
    ),
]
Split = Annotated[str, typer.Option("--split", help="Which split.")]
Option = Annotated[list[str] | None, typer.Option("--option", help="Option of the task, as key=value.")]


@app.command()
def replay(
    incident: Annotated[Path, typer.Argument(help="The folder incident-... that a run left when it stopped.")],
) -> None:
    """Run a step again that was not finite; print which tensors went wrong, the first one first."""
    from uniter.run import replay as run_replay

    for found in run_replay(incident):
        print(found)


@app.command()
def evaluate(
    task: Task,
    data: Data,
    regions: Regions,
    split: Split = "test",
    model: Model = None,
    option: Option = None,
    quiet: Quiet = False,
) -> None:
    """Measure a model on a task."""
    from uniter.run import evaluate as run_evaluate

    print(json.dumps(run_evaluate(task, data, regions, split, model, option or [], not quiet), indent=2))


@app.command()
def score(
    task: Task,
    data: Data,
    predictions: Annotated[Path, typer.Option("--predictions", help="The benchmark's prediction file.")],
    split: Split = "test",
    option: Option = None,
    regions: Annotated[
        list[str] | None,
        typer.Option("--regions", help="The pictures' regions, to learn the best that their boxes allow (refcoco)."),
    ] = None,
) -> None:
    """Score a prediction file, whoever made it; needs neither a model nor regions."""
    from uniter.run import score as run_score

    print(json.dumps(run_score(task, data, split, predictions, option or [], regions or None), indent=2))


@app.command()
def predict(
    task: Task,
    data: Data,
    regions: Regions,
    out: Annotated[Path | None, typer.Option("--out", help="The benchmark's prediction file.")] = None,
    split: Split = "test",
    model: Model = None,
    option: Option = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Folder to draw examples into: index.html and a PNG of each.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="The pictures to draw; boxes alone if left out.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=1, help="Draw so many, spread over the split.")] = 12,
    example: Annotated[list[str] | None, typer.Option("--example", help="Draw this id; may be repeated.")] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option("--layer", help="Draw attention of this layer, from 1; may be repeated."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the benchmark's own prediction file, draw examples with what the model says of them, or both."""
    if out is None and draw is None:
        raise ValueError("nothing to do: give --out for a prediction file, --draw for pictures, or both")
    if draw is None and (images or example or layer):
        raise ValueError("--images, --example and --layer are for drawing: give --draw a folder too")
    from uniter.inspection import Drawing
    from uniter.run import predict as run_predict

    drawing = None if draw is None else Drawing(draw, images, examples, example or (), layer)
    found = run_predict(task, data, regions, split, model, option or [], out, not quiet, drawing)
    if draw is not None:
        print(draw / "index.html")
    if out is not None:
        print(f"{out}: {found} predictions")


def _opened(picture: Path) -> "Image":
    """The picture, looked at before anything slow is loaded."""
    from uniter.regions.pictures import open_picture

    return open_picture(picture)


@app.command()
def ask(
    picture: Annotated[Path, typer.Argument(help="A picture.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    model: Model = None,
    detector: DetectorName = "scenes",
    top: Annotated[int, typer.Option(min=1, help="How many answers.")] = 3,
) -> None:
    """Answer a question about a picture."""
    opened = _opened(picture)
    from uniter.pipeline import Uniter

    for answer in Uniter.load(model, detector).ask(opened, question, top):
        print(f"{answer.score:6.1%}  {answer.text}")


@app.command()
def find(
    picture: Annotated[Path, typer.Argument(help="A picture.")],
    phrase: Annotated[str, typer.Argument(help="What to find in it.")],
    model: Model = None,
    detector: DetectorName = "scenes",
    top: Annotated[int, typer.Option(min=1, help="How many regions.")] = 1,
) -> None:
    """Find the region of a picture that a phrase refers to (pixels x1 y1 x2 y2)."""
    opened = _opened(picture)
    from uniter.pipeline import Uniter

    for found in Uniter.load(model, detector).find(opened, phrase, top):
        print(f"{found.score:6.1%}  " + " ".join(f"{x:.1f}" for x in found.box))


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    text: Annotated[str, typer.Argument(help="What to look for.")],
    model: Model = None,
    detector: DetectorName = "scenes",
    top: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 5,
    store: Annotated[Path | None, typer.Option(help="Where regions are kept; the user's cache if left out.")] = None,
    quiet: Quiet = False,
) -> None:
    """Find the pictures of a folder that fit a text."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give a folder of pictures")
    from uniter.pipeline import Uniter

    for hit in Uniter.load(model, detector).search(folder, text, top, store, progress=not quiet):
        print(f"{hit.score:8.3f}  {hit.picture}")


@app.command("import-weights")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint of the published code (a file or its run directory), VILLA, MMF, LightningDOT or BERT; "
            "what torch.save wrote, or safetensors."
        ),
    ],
    out: Out,
    config: Annotated[
        Path | None, typer.Option("--config", help="Its config JSON; found in a run directory if left out.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head",
            help="pretraining, answers, pairs, choice, grounding, matching or trunk; the file's own if left out. "
            "pretraining starts from a BERT file.",
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="vocab.txt to put beside the weights.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="Names of the answers of a VQA head: the published ans2label.json.")
    ] = None,
    missing: Annotated[int, typer.Option(min=0, help="How many tensors of the trunk may be missing.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of what the file does not have.")] = 0,
) -> None:
    """Make a model folder of a foreign checkpoint."""
    from uniter.checkpoints import import_weights as read
    from uniter.checkpoints import name_answers, pieces_for
    from uniter.processing_uniter import UniterProcessor, Vocabulary
    from uniter.tasks.vqa import read_answers
    from uniter.training.saving import write_folder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already: choose another --out")
    if vocabulary is not None and not vocabulary.exists():
        raise ValueError(f"there is no {vocabulary}: give a vocab.txt")
    known, fitting = None if vocabulary is None else Vocabulary.find(vocabulary), None
    found = read(file, config, head, missing, seed)
    if answers is not None:
        name_answers(found.model, read_answers(answers), answers)
    words = found.model.config.vocab_size
    if known is None:
        beside = f"no vocabulary: name a vocab.txt of {words} pieces by --vocabulary, or put it into {out}"
    else:
        fitting = Vocabulary(pieces_for(words, known.pieces, vocabulary, file))
        beside = f"vocabulary: {words} pieces" + (", read in lower case" if fitting.uncased else "")

    def write(folder: Path) -> None:
        found.model.save_pretrained(folder)
        if fitting is not None:
            UniterProcessor(fitting).save_pretrained(folder)

    write_folder(out, write)
    print(f"{out}: {found}\n  {beside}")


@app.command("export-weights")
def export_weights(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model, with any head.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .pt or .safetensors.")],
    half: Annotated[bool, typer.Option("--half", help="In float16: half the size, 3 digits.")] = False,
) -> None:
    """Write a model in the published code's layout."""
    from uniter.checkpoints import export_weights as write
    from uniter.checkpoints import load_saved

    write(load_saved(model), out, half)
    print(out)


@recipes_app.command("list")
def recipes_list() -> None:
    """Name the shipped recipes."""
    from uniter.recipe import shipped_recipes

    recipes = shipped_recipes()
    widest = max(map(len, recipes), default=0)
    for name, text in recipes.items():
        said = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]  # command, then what it does
        print(f"{name:{widest}} {said[1] if len(said) > 1 else ''}")


@recipes_app.command("show")
def recipes_show(name: str) -> None:
    """Print a shipped recipe."""
    print(_recipe(name), end="")


@recipes_app.command("copy")
def recipes_copy(name: str, folder: Annotated[Path, typer.Argument(help="Where to.")] = Path()) -> None:
    """Copy a shipped recipe into a folder, to change it there."""
    target = folder / f"{name}.yaml"
    text = _recipe(name)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: make it first")
    if target.exists():
        raise ValueError(f"{target} exists already: remove it or copy into another folder")
    target.write_text(text, encoding="utf-8")
    print(target)


def _recipe(name: str) -> str:
    from uniter.recipe import shipped_recipes

    recipes = shipped_recipes()
    if name not in recipes:
        raise ValueError(f"no shipped recipe {name!r}: there are {', '.join(recipes)}")
    return recipes[name]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same numbers.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Do everything once, offline, in minutes: draw, extract, pre-train, fine-tune, evaluate; with a page about it."""
    from uniter.demo import run_demo

    print(run_demo(out, seed=seed, progress=not quiet))


UsageProblem: Any = typer.BadParameter.__mro__[2]  # click's ClickException, which newer typers keep to themselves

# What the system refused, and how to mend it.
MENDS = {
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EEXIST: "choose another name",
    errno.ENOTDIR: "a file stands where a folder is needed, choose another name",
    errno.EISDIR: "a folder stands where a file is needed, choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the path",
}


def main() -> None:
    """Run the command line; what a user got wrong is one line on stderr and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="uniter: %(message)s")
    # Threads that spin while they wait take the cores from those that work; has to be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        status = app(standalone_mode=False, prog_name="uniter")
    except (UsageProblem, ValueError, OSError, FloatingPointError, ImportError) as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
        else:
            lines = filter(None, map(str.strip, _message(error).splitlines()))  # a recipe may have several mistakes
            print("uniter: " + "; ".join(lines), file=sys.stderr)
        status = 2
    sys.exit(status)


def _message(error: Exception) -> str:
    """What went wrong and how to mend it."""
    if isinstance(error, UsageProblem):
        command = error.ctx.command_path if getattr(error, "ctx", None) else "uniter"
        return f"{error.format_message().rstrip('.')}; see {command} --help"
    if isinstance(error, OSError) and error.filename is not None:
        mend = MENDS.get(error.errno or 0)
        return f"{error.filename}: {error.strerror}" + (f": {mend}" if mend else "")
    return str(error)
