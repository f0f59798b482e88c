"""How fast the library is beside the published computation and Hugging Face's models, round by round in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/speed.py                              # everything
    OMP_WAIT_POLICY=PASSIVE python benchmarks/speed.py --section inference --rounds 5

Writes docs/results/speed.md; sections that are not asked for stay on it as they were. The published computation is in
benchmarks/published/, ours behind benchmarks/ours.py. One thread: processor time is what counts, since other work on
the machine hardly moves it.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import hugging_face
import ours
import start_up
import theirs
import workload
from published.data import ImageDatabase, MaskedWordExamples, TextDatabase, mlm_batch, token_buckets
from published.model import Published
from published.retrieval import score_matrix
from side_by_side import Part, Row, Taken, Way, faster, number, provenance, rates, side_by_side, write_page
from uniter.configuration_uniter import SIZES

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "speed.md"
PUBLISHED = "published, float32"
INTRO = """\
`python benchmarks/speed.py` wrote this: the library beside the published computation (`benchmarks/published/`, held to
the original's own outputs by `tests/test_published_baseline.py`), at base size with drawn weights, on pairs with the
lengths of VQA's (`benchmarks/workload.py`). All ways of a section take turns in one run of one thread; a rate is of one
core by processor time, the median of the rounds. Targets are what the project asks of itself. Each section says further
down what it did and on which machine; GPUs have a command of their own."""


class Bench:
    """What the sections share: settings, a folder, and models made when first asked for."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.config: dict[str, Any] = {**SIZES[options.size], "vocab_size": workload.VOCABULARY}
        self.examples = workload.examples(options.examples)

    def pair(self, kind: type[Published], name: str, **sizes: int) -> tuple[Any, Any]:
        """The published model and ours with the same weights."""
        model = theirs.draw(kind, self.config, **sizes)
        path = theirs.save(model, self.folder / name, f"{name}.pt", {**self.config, **sizes})
        return model, ours.load(path, self.config)

    def measure(self, ways: Sequence[Way]) -> dict[str, Taken]:
        """The ways side by side, as many rounds as asked for."""
        return side_by_side(ways, self.options.rounds)


# ---------------------------------------------------------------- the model


def inference(bench: Bench) -> Part:
    """VQA's answers of all pairs; batches are made beforehand."""
    model, mine = bench.pair(theirs.Answers, "answers", answers=workload.ANSWERS)
    pairs, rows = [theirs.tensors(one) for one in bench.examples], ours.encoded(bench.examples)
    made, order = theirs.batches(pairs)
    rounded = theirs.draw(theirs.Answers, bench.config, answers=workload.ANSWERS).bfloat16()

    def plain(autocast: bool = False, network: Any = model) -> torch.Tensor:
        dtype = next(network.parameters()).dtype
        cast = lambda batch: {
            key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()
        }
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = torch.cat([network(cast(batch)).float() for batch in made])
        return torch.empty_like(logits).index_copy_(0, torch.tensor(order), logits)

    runs: dict[str, Callable[[], torch.Tensor]] = {
        PUBLISHED: plain,
        "published, autocast to bfloat16": lambda: plain(True),
        "published, weights in bfloat16": lambda: plain(network=rounded),
        **{f"ours, {precision}": ours.inference(mine, rows, precision) for precision in ours.INFERENCE},
    }
    for name in hugging_face.MODELS:
        for dtype in (torch.float32, torch.bfloat16):
            relative = hugging_face.build(name, bench.config)
            said = f"{name}, {str(dtype).removeprefix('torch.')}"
            runs[said] = hugging_face.inference(name, relative, [pair[:3] for pair in pairs], dtype)
    few = len(bench.examples)
    logits = {name: run() for name, run in runs.items() if name.startswith(("published", "ours"))}  # and warms up
    taken = bench.measure([Way(name, run, few, warm=lambda: None) for name, run in runs.items()])
    exact = taken["ours, float32"]
    off = {name: (found - logits[PUBLISHED]).abs().max().item() for name, found in logits.items()}
    lines = [
        f"{few} pairs with {workload.ANSWERS:,} answers each; logits have a standard deviation of "
        f"{logits[PUBLISHED].std():.2f}. The published batches are its sampler's with {theirs.BUDGET} tokens"
        f" ({', '.join(str(len(batch['input_ids'])) for batch in made)} pairs).",
        "",
        *rates(taken, "pairs", PUBLISHED),
        "",
        "Largest difference from the published float32 logits, and pairs with the same best answer:",
        "",
        "| | largest difference | mean | same answer |",
        "|---|---:|---:|---:|",
    ]
    for name, found in logits.items():
        same = (found.argmax(1) == logits[PUBLISHED].argmax(1)).float().mean() * 100
        mean = (found - logits[PUBLISHED]).abs().mean()
        lines.append(f"| {name} | {off[name]:.1e} | {mean:.1e} | {same:.1f}% |")
    apart = off["ours, float32"]
    rows_ = [
        faster("base model, bfloat16", taken["ours, bfloat16"], taken[PUBLISHED], "pairs/s/core", 6.5),
        faster("base model, float32", exact, taken[PUBLISHED], "pairs/s/core", 1.45),
        Row("float32: largest difference of a logit", f"{apart:.1e}", "0", target="2e-5", met=apart < 2e-5),
    ]
    if "ours, int8" in taken:
        rows_.append(faster("base model, int8", taken["ours, int8"], taken[PUBLISHED], "pairs/s/core"))
    return Part("inference", rows_, lines)


def training(bench: Bench) -> Part:
    """Updates of MLM with dropout, and what a forward pass keeps for the way back."""
    model, mine = bench.pair(theirs.PreTraining, "pretraining")
    masked = theirs.masked(bench.examples[: bench.options.training])
    made, _ = theirs.batches(masked)
    few, loss = len(masked), {}
    their_mover, mover = theirs.optimizer(model), ours.optimizer(mine)
    ways = [
        Way(PUBLISHED, theirs.step(model, made, their_mover), few),
        Way("published, autocast to bfloat16", theirs.step(model, made, their_mover, amp=torch.bfloat16), few),
    ]
    for precision in ours.TRAINING:
        ways.append(Way(f"ours, {precision}", ours.training_step(mine, _own_batches(masked), precision, mover), few))
    with torch.no_grad():  # in evaluation mode, the same masks: the same loss
        loss[PUBLISHED] = torch.cat([model.mlm(batch) for batch in made]).mean().item()
        whole = _own_batches(masked, tokens=10**9)
        loss |= {f"ours, {p}": ours.loss_of(mine, whole[0], p).item() for p in ours.TRAINING}
    alike = theirs.masked(_alike(bench.examples, 16))
    kept = {PUBLISHED: _kept(model, alike, lambda rows: model.mlm(theirs.batches(rows, 10**9)[0][0]).mean())}
    for precision in ours.TRAINING:
        run = lambda rows, p=precision: ours.loss_of(mine, _own_batches(rows, tokens=10**9)[0], p)
        kept[f"ours, {precision}"] = _kept(mine, alike, run)
    taken = bench.measure(ways)
    best = max((name for name in taken if name.startswith("ours")), key=lambda name: taken[name].rate)
    least = min((name for name in kept if name.startswith("ours")), key=lambda name: kept[name])
    lines = [
        f"An update over {few} pairs: forward, backward, clip and AdamW. Words are hidden by the published rule, the same "
        f"for all. The published batches are its sampler's with {theirs.BUDGET} tokens "
        f"({', '.join(str(len(batch['input_ids'])) for batch in made)} pairs).",
        "",
        *rates(taken, "pairs", PUBLISHED),
        "",
        "What autograd keeps of a forward pass with dropout, every storage once, without the weights: the difference between "
        "16 pairs and 8 of them, all of nearly one length, per real token. And the loss without dropout, before the updates:",
        "",
        "| | MB a token | loss |",
        "|---|---:|---:|",
        *(f"| {name} | {value / 1e6:.2f} | {loss[name]:.4f} |" for name, value in kept.items()),
    ]
    ratio = kept[PUBLISHED] / kept[least]
    return Part(
        "training",
        [
            faster(
                f"MLM update, dropout 0.1, {best.removeprefix('ours, ')}",
                taken[best],
                taken[PUBLISHED],
                "pairs/s/core",
                3.1,
            ),
            Row(
                f"saved activations, MB a token, {least.removeprefix('ours, ')}",
                f"{kept[least] / 1e6:.2f}",
                f"{kept[PUBLISHED] / 1e6:.2f}",
                f"{ratio:.2f}x",
                "0.36",
                kept[least] <= 0.36e6,
            ),
        ],
        lines,
    )


def _own_batches(
    masked: Sequence[tuple[torch.Tensor, ...]], tokens: int = ours.TOKENS
) -> list[dict[str, torch.Tensor]]:
    """Pairs whose words are hidden, in batches of ours."""
    rows = [ours.row(*(tensor.numpy() for tensor in one[:3])) for one in masked]
    chosen = ours.batching.evaluation_batches(np.array([len(row) for row in rows]), tokens)
    return [ours.training_batch([rows[i] for i in batch], [masked[i][4] for i in batch]) for batch in chosen]


def _alike(examples: Sequence[workload.Example], count: int) -> list[workload.Example]:
    """Pairs of nearly the mean length of all, so that padding plays no part."""
    length = lambda one: len(one.pieces) + len(one.image.features)
    mean = np.mean([length(one) for one in examples])
    return sorted(examples, key=lambda one: abs(length(one) - mean))[:count]


def _kept(model: Any, pairs: Sequence[Any], run: Callable[[Any], torch.Tensor]) -> float:
    """Bytes that autograd keeps for each real token: what eight pairs more make of it."""
    model.train()
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    sizes, tokens = [], []
    for few in (pairs[:8], pairs[:16]):
        held: dict[int, torch.Tensor] = {}  # held, so that no storage is used a second time

        def keep(tensor: torch.Tensor, held: dict[int, torch.Tensor] = held) -> torch.Tensor:
            alone = tensor.detach()  # a tensor with its graph would hold the graph, and that the tensor, for ever
            held.setdefault(alone.untyped_storage().data_ptr(), alone)
            return alone

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = run(few)
        sizes.append(sum(t.untyped_storage().nbytes() for pointer, t in held.items() if pointer not in own))
        tokens.append(sum(len(ids) + len(features) for ids, features, *_ in few))
        del loss
    model.eval()
    return (sizes[1] - sizes[0]) / (tokens[1] - tokens[0])


def pairs(bench: Bench) -> Part:
    """Retrieval: every text with every image."""
    model, mine = bench.pair(theirs.Rank, "rank")
    images = workload.quantile_images(bench.options.images_scored)
    texts = bench.examples[:2]
    texts_folder, images_folder = bench.folder / "rank_texts.db", bench.folder / "rank_images"
    workload.write_texts(texts_folder, texts)
    workload.write_images(images_folder, images)
    store = ours.write_store(bench.folder / "rank_store", images)
    database, captions = _images(images_folder), TextDatabase(texts_folder)
    names = [image.name for image in images]  # by number of regions already
    found: dict[str, np.ndarray] = {}

    def keep(name: str, run: Callable[[], np.ndarray]) -> Callable[[], None]:
        return lambda: found.update({name: run()})

    runs = {PUBLISHED: lambda: score_matrix(model, captions, database, captions.ids, names)}
    for precision in ours.INFERENCE:
        pieces = [one.pieces for one in texts]
        runs[f"ours, {precision}"] = ours.pair_scores(mine, store, bench.folder, pieces, names, precision)
    count = len(texts) * len(names)
    taken = bench.measure([Way(name, keep(name, run), count, lambda: None) for name, run in runs.items()])
    best = max((name for name in taken if name.startswith("ours")), key=lambda name: taken[name].rate)
    lines = [
        f"{len(texts)} texts with {len(names)} images, whose numbers of regions are evenly spaced among those of 1,000. "
        "Published: a text at a time with up to 400 images, each unpacked from its compressed database again for each "
        "text. All reading is in the times.",
        "",
        *rates(taken, "pairs", PUBLISHED),
        "",
        "| | largest difference of a score | Flickr30K's 1,000 images x 5,000 texts, core hours |",
        "|---|---:|---:|",
    ]
    for name, scores in found.items():
        off = np.abs(scores.astype(np.float32) - found[PUBLISHED].astype(np.float32)).max()
        lines.append(f"| {name} | {off:.1e} | {5e6 / taken[name].rate / 3600:.1f} |")
    return Part(
        "pair scoring",
        [
            faster(
                f"slice of Flickr 1K, {best.removeprefix('ours, ')}", taken[best], taken[PUBLISHED], "pairs/s/core", 8
            )
        ],
        lines,
    )


# ---------------------------------------------------------------- data


def _images(folder: Path) -> ImageDatabase:
    return ImageDatabase(folder / "feat_th0.2_max100_min10_compressed", folder / "nbb_th0.2_max100_min10.json")


def loader(bench: Bench) -> Part:
    """Reading regions, and the whole way from a text and an image to a batch; everything in the page cache."""
    many = workload.examples(bench.options.images)
    workload.write_texts(bench.folder / "texts.db", many)
    workload.write_images(bench.folder / "images", [one.image for one in many])
    store = ours.write_store(bench.folder / "store", [one.image for one in many])
    database = _images(bench.folder / "images")
    captions = TextDatabase(bench.folder / "texts.db")
    order = np.random.default_rng(0).permutation(len(many))
    names, count = [many[i].image.name for i in order], len(many)
    rows = sum(len(one.image.features) for one in many)
    out = np.empty((rows, workload.FEATURE_SIZE), np.float16)
    again = 8  # ours is too quick to be timed once

    def ours_read() -> None:
        for _ in range(again):
            assert ours.packed_features(store, names, out) == rows

    reading = bench.measure(
        [
            Way("published: compressed npz to float32", lambda: [database[name] for name in names], count),
            Way("ours: into one float16 batch", ours_read, again * count),
        ]
    )
    exact = all(
        np.array_equal(database[one.image.name][0].numpy(), store[one.image.name].features) for one in many[:16]
    )
    assert exact, "the features differ"

    dataset, epoch = MaskedWordExamples(captions, database), iter(range(10**6))
    size = theirs.BUDGET // (8 * max(dataset.lengths)) * 8
    chunks = [order[at : at + size] for at in range(0, count, size)]
    prepare = ours.example_path(store, many)
    mine = ours.batches(np.array([length + 2 for length in dataset.lengths]), 10240)[0]
    path = bench.measure(
        [
            Way("published", lambda: [mlm_batch(dataset, chunk) for chunk in chunks], count),
            Way("ours", lambda: [prepare(chunk, next(epoch)) for chunk in mine], count),
        ]
    )
    (was, now), (was_path, now_path) = reading.values(), path.values()
    spent = lambda taken: 1e6 / taken.rate
    lines = [
        f"{count} images of {rows / count:.1f} regions of {workload.FEATURE_SIZE:,} numbers each, in the page cache, in "
        "random order. Published: its compressed database, whose files also hold 1,601 class probabilities a region.",
        "",
        *rates(reading, "images", "published: compressed npz to float32"),
        "",
        f"The whole way of MLM's examples: text from where it is kept, mask, features, a batch of tensors (of {size} pairs "
        f"as published, of {len(mine[0])} as ours).",
        "",
        "| | us an example | on the wall |",
        "|---|---:|---:|",
        *(f"| {name} | {spent(one):,.0f} | {1e6 * one.wall / one.amount:,.0f} |" for name, one in path.items()),
    ]
    return Part(
        "loader",
        [
            Row(
                "regions into one float16 batch, images/s/core, warm",
                number(now.rate),
                number(was.rate),
                f"{now.rate / was.rate:.1f}x",
                "30,000",
                now.rate >= 30_000,
            ),
            Row(
                "text, mask, features, batch: us an example",
                number(spent(now_path)),
                number(spent(was_path)),
                f"{now_path.rate / was_path.rate:.1f}x",
                "60",
                spent(now_path) <= 60,
            ),
        ],
        lines,
    )


def budget(bench: Bench) -> Part:
    """How much of a budget of tokens is used, and how much of that is no padding."""
    words, things = workload.lengths(8 * 8192)
    lengths = words + things
    rows, lines = [], ["| tokens | | used | of it real | pairs a batch |", "|---:|---|---:|---:|---:|"]
    for tokens in (5120, 10240):
        chosen, packed = ours.batches(lengths, tokens)
        old = list(token_buckets((lengths - 2).tolist(), tokens, order=range(len(lengths))))
        found = {}
        for name, batches, is_packed in (("published", old, False), ("ours", chosen[:-1], packed)):
            real = np.array([lengths[batch].sum() for batch in batches])
            computed = real if is_packed else np.array([len(batch) * lengths[batch].max() for batch in batches])
            found[name] = 100 * (computed / tokens).mean(), 100 * real.sum() / computed.sum()
            said = " | ".join(f"{share:.1f}%" for share in found[name])
            lines.append(f"| {tokens} | {name} | {said} | {np.mean([len(batch) for batch in batches]):.0f} |")
    for at, (what, target) in enumerate((("token budget used", 97), ("of it real tokens", 98))):
        now, was = found["ours"][at], found["published"][at]
        rows.append(
            Row(
                f"{what} (budget 10240)", f"{now:.1f}%", f"{was:.1f}%", f"{now / was:.2f}x", f"{target}%", now >= target
            )
        )
    lines = [
        f"{len(lengths):,} pairs in windows of 8,192. Used: tokens computed, padding and all, over the budget, the mean over "
        "batches. The published sampler never resets the longest length it has seen in a window, and drops what is left of "
        "each; ours does without the last batch here.",
        "",
        *lines,
    ]
    return Part("token budget", rows, lines)


def extraction(bench: Bench) -> Part:
    """What another benchmark measures."""
    text = "Pictures to regions has its own command, `python benchmarks/extraction.py`, and its own page: [extraction](extraction.md)."
    return Part("extraction", [Row("images a second", "see extraction.md")], [text])


# ---------------------------------------------------------------- start and memory


def start(bench: Bench) -> Part:
    """Importing, help and loading a checkpoint, in processes of their own."""
    measured = start_up.measure(2 * bench.options.rounds)
    wall, found = ({name: np.median([both[i] for both in times]) for name, times in measured.items()} for i in (0, 1))
    model, mine = bench.pair(theirs.Answers, "answers", answers=workload.ANSWERS)
    mine.save_pretrained(bench.folder / "answers" / "ours")
    del model, mine
    loads = {side: _children(bench, "load", side) for side in ("ours", "published")}
    memory = {f"ours, {p}": _children(bench, "infer", "ours", p, rounds=1) for p in ours.INFERENCE}
    memory[PUBLISHED] = _children(bench, "infer", "published", rounds=1)  # memory hardly differs from run to run
    lines = [
        "| whole process | seconds of the processor | on the wall |",
        "|---|---:|---:|",
        *(f"| `{name}` | {value:.2f} | {wall[name]:.2f} |" for name, value in found.items()),
        "",
        "Loading a checkpoint of the base model with an answers' head, all imports done, files in the page cache; memory is "
        "the peak beyond what there was before. Then the 40 longest pairs in one call of the loaded model:",
        "",
        "| | seconds of the processor | memory added, MB | at the peak, MB |",
        "|---|---:|---:|---:|",
    ]
    for name, took in (*loads.items(), *memory.items()):
        task = "load" if name in loads else "infer"
        lines.append(
            f"| {task}: {name} | {took['cpu']:.2f} | {took['added'] / 1e6:.0f} | {took['resident'] / 1e6:.0f} |"
        )
    now, was = loads["ours"], loads["published"]
    help_seconds, least = (
        found["uniter --help"],
        min((n for n in memory if n != PUBLISHED), key=lambda n: memory[n]["resident"]),
    )
    return Part(
        "start and memory",
        [
            Row("`import uniter`, seconds of the processor", f"{found[start_up.IMPORT]:.2f}", f"{found[start_up.TORCH]:.2f} (torch alone)"),
            Row("`uniter --help`, seconds of the processor", f"{help_seconds:.2f}", target="0.2", met=help_seconds <= 0.2),
            Row("loading a base checkpoint, seconds of the processor", f"{now['cpu']:.2f}", f"{was['cpu']:.2f}", f"{was['cpu'] / now['cpu']:.1f}x", "0.1", now["cpu"] <= 0.1),
            Row("its memory before first use, MB", f"{now['added'] / 1e6:.0f}", f"{was['added'] / 1e6:.0f}", f"{was['added'] / max(1, now['added']):.1f}x", "30", now["added"] <= 30e6),
            Row(
                f"peak memory of inference, MB, {least.removeprefix('ours, ')}",
                f"{memory[least]['resident'] / 1e6:.0f}",
                f"{memory[PUBLISHED]['resident'] / 1e6:.0f}",
                f"{memory[PUBLISHED]['resident'] / memory[least]['resident']:.2f}x",
            ),
        ],
        lines,
    )  # fmt: skip


def _children(
    bench: Bench, task: str, side: str, precision: str = "float32", rounds: int | None = None
) -> dict[str, float]:
    """Medians of what a process of its own says, over the rounds."""
    command = [sys.executable, HERE / "children.py", task, side, bench.folder / "answers", precision]
    once = lambda: json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    said = [once() for _ in range(rounds or bench.options.rounds)]
    return {key: float(np.median([one[key] for one in said])) for key in said[0]}


def graphics(bench: Bench) -> Part:
    """What gpu.py measures, or that nobody has."""
    if (PAGE.parent / "gpu.md").exists():
        return Part(
            "GPU", [Row("training and inference", "see gpu.md")], ["`python benchmarks/gpu.py` wrote [gpu](gpu.md)."]
        )
    asked = [
        ("training, base: share of 790 TFLOP/s, real tokens only", "45%"),
        ("training, large: the same", "52%"),
        ("inference, base: the same", "50%"),
        ("GPU busy in training", "95%"),
        ("transport's share of an ITM step", "2%"),
        ("published base pre-training, extrapolated, H100 hours", "15"),
    ]
    text = (
        "Not run: there was no GPU. `python benchmarks/gpu.py` measures all of this within ten minutes of one H100 and writes "
        "`docs/results/gpu.md`; tests run it on a processor at tiny size, which shows that it works and nothing of speed. "
        "Published: 882 V100 hours."
    )
    return Part("GPU", [Row(what, "not run", target=target) for what, target in asked], [text])


SECTIONS: dict[str, Callable[[Bench], Part]] = {
    "inference": inference,
    "training": training,
    "pairs": pairs,
    "loader": loader,
    "budget": budget,
    "extraction": extraction,
    "start": start,
    "gpu": graphics,
}
NAMES = ["inference", "training", "pair scoring", "loader", "token budget", "extraction", "start and memory", "GPU"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=SECTIONS, help="one or several; all if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=256, help="pairs in inference")
    parser.add_argument("--training", type=int, default=80, help="pairs in an update, 16 or more")
    parser.add_argument("--images", type=int, default=512, help="images in the loader")
    parser.add_argument("--images-scored", type=int, default=100, help="images that two texts are scored with")
    parser.add_argument("--size", choices=SIZES, default="base", help="of the model")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.training < 16 or options.examples < options.training:
        parser.error("--training must be at least 16, and --examples at least as many")
    return options


def main() -> None:
    options, load = arguments(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    command = shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]])
    versions = [f"torch {torch.__version__}", f"transformers {transformers.__version__}", f"NumPy {np.__version__}"]
    measured = provenance(command, versions, load)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for name in options.section or SECTIONS:
            part = SECTIONS[name](Bench(options, Path(place) / name))
            page = write_page(
                options.out, "Speed", INTRO, NAMES, [part], measured
            )  # after each: a killed run keeps some
            print(f"{name}: done", flush=True)
    print(page)


if __name__ == "__main__":
    main()
