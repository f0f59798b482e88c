"""What the demo found, as a page: numbers, curves, and pictures of the model at work on held-out scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uniter import drawing
from uniter.demo import page
from uniter.files import write_text
from uniter.pipeline import Uniter
from uniter.regions.pictures import open_picture
from uniter.tasks.base import load
from uniter.tasks.refcoco import overlaps

Numbers = dict[str, dict[str, dict[str, dict[str, float]]]]  # task, split, model -> the task's numbers
STARTS = (
    ("scratch", "#8a93a3", "from scratch"),
    ("pretrained", "#2457d6", "pre-trained here"),
    ("shipped", "#127a4b", "shipped pre-training"),
)
ROWS = (
    ("Question answering, accuracy", "vqa", "accuracy"),
    ("Referring expressions, accuracy", "refcoco", "accuracy"),
    ("Text finds picture, R@1", "retrieval", "image_recall_at_1"),
    ("Picture finds text, R@1", "retrieval", "text_recall_at_1"),
    ("Text finds picture, zero-shot R@1", "zero-shot", "image_recall_at_1"),
    ("Picture finds text, zero-shot R@1", "zero-shot", "text_recall_at_1"),
)


def write_report(out: Path, numbers: Numbers, seconds: dict[str, float]) -> Path:
    """Write `index.html` into the demo's folder and return its path."""
    uniter = Uniter.load()
    world = out / "world"
    total = sum(seconds.values()) / 60
    parts = [
        (
            "Does pre-training help?",
            "The same fine-tuning, with the same budget, from three starts: from scratch, from the model that this demo has just "
            "pre-trained, and from the pre-training that ships with the package (the same code, given 47 minutes). The “shipped model” was "
            "also fine-tuned longer. Matching takes more updates than a demo has time for, so the retrieval rows need the shipped pre-training. Measured on pictures that no training has seen; “new pairs” are pictures with colours and shapes that never occur "
            "together in training. Percent; green: better than from scratch.",
            results_table(numbers),
        ),
        ("Learning", "Loss of each pre-training objective, and the validation numbers of fine-tuning.", curves(out)),
        (
            "Regions from pixels",
            "What the detector finds, with its own words for it. Everything below sees only these regions, never the scene's truth.",
            f'<div class="grid">{"".join(region_examples(world, uniter))}</div>',
        ),
        (
            "Questions and answers",
            "Held-out pictures and questions, answered by the shipped model.",
            f'<div class="grid">{"".join(question_examples(world, uniter))}</div>',
        ),
        (
            "Finding what a phrase means",
            "The region that the shipped model chooses; the true box is dashed.",
            f'<div class="grid">{"".join(phrase_examples(world, uniter))}</div>',
        ),
        (
            "Text finds pictures",
            "The five best of the held-out pictures for a sentence, with their scores (of the shipped models above 0 means “belongs together”). Outlined: the picture "
            "that the sentence was written for.",
            "".join(search_examples(world, out / "regions", uniter)),
        ),
        (
            "Which word is which region",
            "The optimal-transport plan between words and regions, read off the last layer: the stronger the colour, the more of the word goes to the region beyond "
            "its even share. Point at a word to light its regions up.",
            alignment_example(world, uniter),
        ),
    ]
    lead = (
        f"Pictures were drawn, regions found in their pixels, a UNITER pre-trained with masked words, masked regions and matching, then "
        f"fine-tuned for three tasks with and without pre-training. All of it, but for the shipped model, was made in {total:.1f} minutes on this machine."
    )
    target = out / "index.html"
    write_text(target, drawing.page("UNITER, from pixels to answers", lead, parts, page.STYLE))
    return target


def results_table(numbers: Numbers) -> str:
    """From scratch against pre-trained against shipped, on held-out pictures and on new pairs."""
    tables = []
    for split, title in (("test", "held-out pictures"), ("novel", "new pairs of colour and shape")):
        starts = ("scratch", "pretrained", "shipped", "longer")
        rows = [
            (name, [numbers[task][split].get(start, {}).get(key) for start in starts])
            for name, task, key in ROWS
            if task in numbers
        ]
        columns = ("from scratch", "pre-trained here", "shipped pre-training", "shipped model")
        tables.append(page.table(columns, rows, [(0, 1), (0, 2), (0, 3)], title))
    return '<div class="tables">' + "".join(tables) + "</div>"


def _log(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def curves(out: Path) -> str:
    """Pre-training losses and the tasks' validation curves in one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    log = _log(out / "runs" / "pretrain")
    names = {"mlm": "masked words", "itm": "matching", "mrfr": "region features", "mrckl": "region classes"}
    for i, (key, name) in enumerate(names.items()):
        points = [(line["step"], line["loss"]) for line in log if line.get("stream", "").startswith(f"{key}/")]
        if not points:
            continue
        steps, losses = np.array(points).T
        width = max(1, len(losses) // 25)
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        axes[0].plot(steps[width - 1 :], smooth / smooth[0], label=name, color=drawing.COLOURS[i], linewidth=1.6)
    axes[0].set_title("pre-training: loss / first loss", fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    axes[0].set_ylim(bottom=0)
    titles = {"vqa": "question answering", "refcoco": "referring expressions", "retrieval": "retrieval (mean recall)"}
    for axis, (task, title) in zip(axes[1:], titles.items(), strict=True):
        for start, colour, label in STARTS:
            key = "mean_recall" if task == "retrieval" else "accuracy"
            found = [
                (line["step"], line["validation"][key])
                for line in _log(out / "runs" / f"{task}-{start}")
                if "validation" in line
            ]
            steps, values = np.array(found).T
            axis.plot(steps, values, marker="o", markersize=3.5, color=colour, label=label, linewidth=1.6)
        axis.set_title(f"{title}, %", fontsize=10)
        axis.set_ylim(bottom=0)
    # One legend for the three: in them it would lie upon the curves.
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("updates", fontsize=8)
    path = out / "curves.png"
    figure.savefig(path, dpi=160)
    return f'<img class="curves" src="{drawing.png_uri(path)}" alt="learning curves">'


# ---------------------------------------------------------------- examples


def _images(world: Path, split: str = "test") -> list[Path]:
    return sorted(p for p in (world / "images").glob(f"scenes_{split}_*") if p.suffix != ".json")


def region_examples(world: Path, uniter: Uniter, count: int = 4) -> list[str]:
    """Pictures with their regions and the detector's words for them."""
    found = []
    for path in _images(world)[:count]:
        image = open_picture(path)
        found.append(page.regions_figure(image, *_seen(uniter, image)))
    return found


def _seen(uniter: Uniter, image: Image.Image):
    """Regions of a picture, and what the detector calls each."""
    describe = getattr(uniter.detector, "detect_with_attributes", None)
    if describe is None:
        regions = uniter.detector.detect([image])[0]
        return regions, [""] * len(regions)
    regions, attributes = describe([image])[0]
    return regions, uniter.detector.words(regions, attributes)  # type: ignore[attr-defined]


def question_examples(world: Path, uniter: Uniter, count: int = 4, each: int = 4) -> list[str]:
    """Pictures with a few questions of different kinds, the answers and the truth."""
    questions = load("vqa")(world).examples("test")
    by_image: dict[str, list] = {}
    names = {int(path.stem.rsplit("_", 1)[1]): path for path in _images(world)}
    for question in questions:
        by_image.setdefault(question.image.rsplit("_", 1)[1].split(".")[0], []).append(question)
    found = []
    for number, asked in list(by_image.items())[count : 2 * count]:
        image = open_picture(names[int(number)])
        regions = uniter.regions(image)
        shown = sorted(asked, key=lambda q: q.kind)[:: max(1, len(asked) // each)][:each]
        rows = [(q.text, max(set(q.answers), key=q.answers.count), uniter.ask(regions, q.text)) for q in shown]
        found.append(page.question_figure(image, rows))
    return found


def phrase_examples(world: Path, uniter: Uniter, count: int = 8) -> list[str]:
    """Pictures with the region that a phrase was found in."""
    expressions = load("refcoco")(world).examples("test")
    longer = [e for e in expressions if len(e.text.split()) >= 5]
    chosen: dict[str, Any] = {}
    for expression in longer:
        chosen.setdefault(expression.image, expression)
    found = []
    for expression in list(chosen.values())[-count:]:
        image = open_picture(world / "images" / expression.image)
        best = uniter.find(image, expression.text)[0]
        right = bool(overlaps(np.array([best.box]), expression.box)[0] > 0.5)
        found.append(page.found_figure(image, expression.text, best, expression.box, right))
    return found


def search_examples(world: Path, store: Path, uniter: Uniter, count: int = 3, among: int = 150) -> list[str]:
    """Sentences and the five held-out pictures that fit them best."""
    from uniter.regions.store import Store

    kept = Store(store)
    captions = load("retrieval")(world).examples("test")
    images = list(dict.fromkeys(caption.image for caption in captions))[:among]
    chosen = [
        next(c for c in captions if c.image == images[i]) for i in range(20, 20 + 5 * count, 5) if i < len(images)
    ]
    found = []
    for caption in chosen:
        scores = [uniter.match(kept[name], [caption.text])[0] for name in images]
        best = np.argsort(-np.array(scores), kind="stable")[:5]
        hits = [(open_picture(world / "images" / images[i]), scores[i], images[i] == caption.image) for i in best]
        found.append(page.search_row(caption.text, hits))
    return found


def alignment_example(world: Path, uniter: Uniter) -> str:
    """The word-region map of one picture and one of its captions."""
    captions = load("retrieval")(world).examples("test")
    middling = [c for c in captions if 8 <= len(c.text.split()) <= 13] or captions
    caption = middling[min(30, len(middling) - 1)]
    image = open_picture(world / "images" / caption.image)
    regions, names = _seen(uniter, image)
    alignment = uniter.align(regions, caption.text)
    return f"<p>“{drawing.escape(caption.text)}”</p>" + page.alignment_map(image, alignment, names)
