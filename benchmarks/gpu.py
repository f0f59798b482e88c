"""Training and inference on one GPU within ten minutes: examples a second, utilisation, busy share, memory, hours.

    python benchmarks/gpu.py                                                    # base and large, on CUDA
    python benchmarks/gpu.py --device cpu --size tiny --pairs 48 --updates 2    # shows that it runs, nothing else

Writes docs/results/gpu.md (or --out), after each section anew. Operations are those of benchmarks/utilisation.py: the
model's products for real tokens alone, so that neither padding nor recomputation raises the share. Times are of the
wall between two waits for the device, medians of rounds in which the ways take turns.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import children
import ours
import theirs
import workload
from published.data import to_device, transport_inputs
from side_by_side import Part, Row, Taken, Way, number, provenance, side_by_side, write_page
from uniter.configuration_uniter import SIZES
from utilisation import FORWARD_AND_BACKWARD, H100, USUAL, busy_share, forward_flops, head_flops

PAGE = Path(__file__).parents[1] / "docs" / "results" / "gpu.md"
TOKENS = {"base": 32768, "large": 16384}  # of a micro-batch; what fits and fills a device of 80 GB
TARGETS = {"base": 45, "large": 52}  # per cent of USUAL, in training
SHARES = {"itm": 30 / 110, "mlm": 40 / 110, "mrfr": 20 / 110, "mrckl": 20 / 110}  # of the published all-data recipe
OUTPUTS = {"mlm": workload.VOCABULARY, "mrfr": workload.FEATURE_SIZE, "mrckl": workload.CLASSES}
PUBLISHED_BUDGET = 10240
# Updates, micro-batches an update, GPUs, and examples of a micro-batch by the published sampler.
PUBLISHED_EXAMPLES = 200_000 * 6 * 8 * 78
PUBLISHED_HOURS = 882  # of V100s, as published
INTRO = """\
`python benchmarks/gpu.py` wrote this: one GPU, drawn weights, pairs with the lengths of VQA's. Shares are the matrix
products of the model for real tokens alone (`benchmarks/utilisation.py`) over {ceiling:.0f} TFLOP/s, which a product of
two {side} x {side} bfloat16 matrices reached in this run, and beside them over 790 (what one H100 reached; the targets
are shares of it) and over 989 (its data sheet). Published is `benchmarks/published/` under bfloat16 autocast, in the
batches of its sampler; its loader is not in its times."""


class Bench:
    """Settings, the workload in memory and in a store, and a clock that waits for the device."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.device = torch.device(options.device)
        self.examples = workload.examples(options.pairs)
        self.words = np.array([len(one.pieces) + 2 for one in self.examples])
        self.things = np.array([len(one.image.features) for one in self.examples])
        self.store = ours.write_store(folder / "store", [one.image for one in self.examples], class_probs=True)
        self.ceiling, self.side = self.matrix_product()

    def wait(self) -> None:
        """For all that the device has to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure(self, ways: Sequence[Way]) -> dict[str, Taken]:
        """The ways side by side; each waits for the device at its end."""

        def waited(run: Callable[[], Any]) -> Callable[[], None]:
            def both() -> None:
                run()
                self.wait()

            return both

        def ready(run: Callable[[], None]) -> Callable[[], None]:
            return lambda: [run() for _ in range(3 if self.device.type == "cuda" else 1)] and None

        runs = {way.name: waited(way.run) for way in ways}
        return side_by_side(
            [Way(w.name, runs[w.name], w.amount, ready(runs[w.name])) for w in ways], self.options.rounds
        )

    def matrix_product(self) -> tuple[float, int]:
        """Operations a second of a large product in bfloat16, and the matrices' side."""
        side = 8192 if self.device.type == "cuda" else 256
        left, right = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        again = 20

        def run() -> None:
            for _ in range(again):
                left @ right

        return 2 * side**3 * again / self.measure([Way("product", run, again)])["product"].wall, side

    def flops(self, config: dict[str, Any], chosen: np.ndarray | None = None) -> float:
        """Of a forward pass over pairs, all of them if not chosen."""
        rows = np.arange(len(self.words)) if chosen is None else chosen
        return float(forward_flops(config, self.words[rows], self.things[rows]).sum())

    def peak(self, run: Callable[[], Any]) -> float:
        """Bytes that a call needs beyond what is there before: of the device, or of the process where there is none."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            children.forget_the_peak()
        before = torch.cuda.memory_allocated(self.device) if cuda else children.memory("VmRSS")
        run()
        self.wait()
        return float((torch.cuda.max_memory_allocated(self.device) if cuda else children.memory("VmHWM")) - before)

    def shares(self, flops_a_second: float) -> list[str]:
        """TFLOP/s, and of the ceiling measured here, of 790 and of 989."""
        parts = [flops_a_second / whole for whole in (self.ceiling, USUAL, H100)]
        return [number(flops_a_second / 1e12), *(f"{100 * part:.1f}%" for part in parts)]


class Sized:
    """The models of a size, published and ours with the same weights, and batches of both."""

    def __init__(self, bench: Bench, size: str):
        self.bench, self.size = bench, size
        self.config: dict[str, Any] = {**SIZES[size], "vocab_size": workload.VOCABULARY}
        self.tokens = min(TOKENS.get(size, 2048), bench.options.tokens or 10**9)
        self.published, self.ours = self._pair(theirs.PreTraining, "pretraining")

    def _pair(self, kind: Any, name: str, **sizes: int) -> tuple[Any, Any]:
        model = theirs.draw(kind, self.config, **sizes)
        path = theirs.save(model, self.bench.folder / f"{self.size}-{name}", f"{name}.pt", self.config)
        mine = ours.load(path, self.config)
        return model.to(self.bench.device), mine.to(self.bench.device)

    def answering(self) -> tuple[Any, Any]:
        """The models of VQA."""
        return self._pair(theirs.Answers, "answers", answers=workload.ANSWERS)

    def job(self) -> Any:
        """Pre-training with the published mixture."""
        return ours.pretraining_job(self.ours, self.bench.store, self.bench.examples, SHARES)

    def own_batches(self, job: Any, name: str, most: int = 3) -> tuple[list[Any], np.ndarray]:
        """Some batches of an objective on the device, of short and of long pairs, and the pairs in them."""
        made = [batch for batch in ours.batches(self.bench.words + self.bench.things, self.tokens)[0] if len(batch) > 1]
        chosen = made[:: max(1, len(made) // most)][:most]
        return [ours.on(job.prepare(ours.stream(name), one, 0), self.bench.device) for one in chosen], np.concatenate(
            chosen
        )

    def published_batches(self, name: str, most: int = 4) -> tuple[list[Any], np.ndarray]:
        """Some batches by the published sampler on the device, and the pairs in them."""
        masked = theirs.masked(self.bench.examples[: most * 80])
        made, order = theirs.batches(masked, PUBLISHED_BUDGET)
        if name == "itm":
            draw, at = torch.Generator().manual_seed(0), 0
            for batch in made:
                rows = order[at : at + len(batch["input_ids"])]
                at += len(rows)
                batch["targets"] = torch.randint(0, 2, (len(rows),), generator=draw)
                sizes = self.bench.words[rows].tolist(), self.bench.things[rows].tolist()
                batch["ot_inputs"] = transport_inputs(*sizes, batch["attn_masks"].shape[1])
        return [to_device(batch, self.bench.device) for batch in made], np.array(order)


# ---------------------------------------------------------------- sections


def training(sized: Sized) -> Part:
    """Updates of MLM, batches ready on the device."""
    bench, job = sized.bench, sized.job()
    batches, mine = sized.own_batches(job, "mlm")
    made, their = sized.published_batches("mlm")
    with torch.no_grad():
        targets = sum(job.objectives["mlm"].loss(sized.ours, batch).count for batch in batches)
    step = ours.training_step(sized.ours, batches, "bfloat16", ours.optimizer(sized.ours))
    mover = theirs.optimizer(sized.published)
    ways = [
        Way("ours, bfloat16", step, len(mine)),
        Way("published, autocast", theirs.step(sized.published, made, mover, amp=torch.bfloat16), len(their)),
    ]
    if sized.size != "large":
        ways.append(Way("published, float32", theirs.step(sized.published, made, mover), len(their)))
    taken = bench.measure(ways)
    peak = {way.name: bench.peak(way.run) for way in ways}
    done = {way.name: mine if way.name.startswith("ours") else their for way in ways}
    lines = [
        f"An update of MLM over ready batches: forward, backward, clip, AdamW. Ours: {len(batches)} batches of "
        f"{sized.tokens:,} tokens, {len(mine)} pairs; published: {len(made)} of {PUBLISHED_BUDGET:,}, {len(their)} pairs. "
        "Memory is what an update needs beyond weights and moments, which are the same for both: "
        f"{12 * sum(value.numel() for value in sized.ours.parameters()) / 1e9:.1f} GB each.",
        "",
        "| | pairs a second | TFLOP/s | of the ceiling | of 790 | of 989 | memory, GB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    heads = head_flops(sized.config, 1, OUTPUTS["mlm"]) * targets / len(mine)  # a pair's
    share = {}
    for name, found in taken.items():
        flops = FORWARD_AND_BACKWARD * (bench.flops(sized.config, done[name]) + heads * len(done[name])) / found.wall
        share[name] = 100 * flops / USUAL
        cells = [number(found.amount / found.wall), *bench.shares(flops), f"{peak[name] / 1e9:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    now, was = taken["ours, bfloat16"], taken["published, autocast"]
    target = TARGETS.get(sized.size)
    return Part(
        f"training, {sized.size}",
        [
            _rate_row("MLM updates, pairs/s", now, was),
            Row(
                "share of 790 TFLOP/s, real tokens only",
                f"{share['ours, bfloat16']:.1f}%",
                f"{share['published, autocast']:.1f}%",
                target=f"{target}%" if target else "—",
                met=share["ours, bfloat16"] >= target if target else None,
            ),
            Row(
                "memory of an update beyond weights and moments, GB",
                f"{peak['ours, bfloat16'] / 1e9:.1f}",
                f"{peak['published, autocast'] / 1e9:.1f}",
            ),
        ],
        lines,
    )


def inference(sized: Sized) -> Part:
    """Answers of all pairs, batches ready on the device."""
    bench = sized.bench
    model, mine = sized.answering()
    pairs = [theirs.tensors(one) for one in bench.examples[: bench.options.pairs // 2]]
    chosen = np.arange(len(pairs))
    made = [to_device(batch, bench.device) for batch in theirs.batches(pairs, PUBLISHED_BUDGET)[0]]

    def plain() -> None:
        with torch.no_grad(), torch.autocast(bench.device.type, torch.bfloat16):
            for batch in made:
                model(batch)

    run = ours.inference(mine, ours.encoded(bench.examples[: len(pairs)]), "bfloat16", sized.tokens)
    ways = [Way("ours, bfloat16", run, len(pairs)), Way("published, autocast", plain, len(pairs))]
    taken = bench.measure(ways)
    lines = [
        f"VQA's answers of {len(pairs)} pairs, ready batches; memory beyond the weights.",
        "",
        "| | pairs a second | TFLOP/s | of the ceiling | of 790 | of 989 | memory, GB | Flickr30K's 5 million pairs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    share = {}
    for way in ways:
        found = taken[way.name]
        flops = bench.flops(sized.config, chosen) / found.wall
        share[way.name] = 100 * flops / USUAL
        cells = [number(found.amount / found.wall), *bench.shares(flops), f"{bench.peak(way.run) / 1e9:.1f}"]
        lines.append(f"| {way.name} | {' | '.join(cells)} | {number(5e6 * found.wall / found.amount)} s |")
    asked = {"target": "50%", "met": share["ours, bfloat16"] >= 50} if sized.size == "base" else {}
    return Part(
        f"inference, {sized.size}",
        [
            _rate_row("VQA's answers, pairs/s", taken["ours, bfloat16"], taken["published, autocast"]),
            Row("share of 790 TFLOP/s, real tokens only", f"{share['ours, bfloat16']:.1f}%", f"{share['published, autocast']:.1f}%", **asked),
        ],
        lines,
    )  # fmt: skip


def transport(sized: Sized) -> Part:
    """An ITM update with the transport and without."""
    bench, job = sized.bench, sized.job()
    batches, mine = sized.own_batches(job, "itm", most=1)
    made, their = sized.published_batches("itm", most=1)
    bare = [{key: value for key, value in batch.items() if key != "ot_inputs"} for batch in made]

    mover, their_mover = ours.optimizer(sized.ours), theirs.optimizer(sized.published)

    def published(inputs: list[Any]) -> Callable[[], Any]:
        step = theirs.step(sized.published, inputs, their_mover, "itm", torch.bfloat16)
        return lambda: [step() for _ in range(4)]

    own = lambda chosen: ours.training_step(sized.ours, batches, "bfloat16", mover, chosen)
    taken = bench.measure(
        [
            Way("ours, with transport", own(ours.objective("itm")), len(mine)),
            Way("ours, without", own(ours.without_transport()), len(mine)),
            Way("published, with transport", published(made), 4 * len(their)),
            Way("published, without", published(bare), 4 * len(their)),
        ]
    )
    share = {
        side: 100 * (1 - taken[f"{side}, without"].wall / taken[f"{side}, with transport"].wall)
        for side in ("ours", "published")
    }
    lines = [
        f"An ITM update, ours over {len(mine)} pairs, published over {len(their)}; the share is what the time lacks without "
        "the transport term.",
        "",
        "| | ms an update of 1,000 pairs |",
        "|---|---:|",
        *(f"| {name} | {1e6 * found.wall / found.amount:.1f} |" for name, found in taken.items()),
    ]
    row = Row(
        "of an ITM update", f"{share['ours']:.1f}%", f"{share['published']:.1f}%", target="2%", met=share["ours"] <= 2
    )
    return Part(f"transport, {sized.size}", [row], lines)


def whole(sized: Sized) -> Part:
    """The library's own loop over the published mixture, reading its store; the profiler sees how busy the device is."""
    bench, cuda = sized.bench, sized.bench.device.type == "cuda"
    updates, rates, busy = bench.options.updates, {}, 0.0
    for seen in (False, True):  # once for its rate, once under the profiler, which costs time
        job, folder = sized.job(), bench.folder / f"run-{sized.size}-{seen}"
        watching = (
            profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) if seen else nullcontext()
        )
        with watching as seen_by:
            log = ours.train(job, folder, updates, sized.tokens, bench.device.type)
            bench.wait()
        later = log[len(log) // 3 :]
        rates[seen] = sum(line["examples"] for line in later) / sum(line["seconds"] for line in later)
        if seen_by is not None:
            busy = 100 * busy_share(_kernels(seen_by, cuda))
    hours = PUBLISHED_EXAMPLES / rates[False] / 3600
    flops = FORWARD_AND_BACKWARD * bench.flops(sized.config) / len(bench.words) * rates[False]
    lines = [
        f"`uniter.training.loop.train` over MLM, ITM with transport, MRFR and MRC-kl in the published shares, {updates} updates "
        f"of {sized.tokens:,} tokens from a store of {len(bench.words):,} images, reading and masking included; the first "
        "third is not counted. Share of the products: of the trunk alone.",
        "",
        "| | pairs a second | TFLOP/s | of the ceiling | of 790 | of 989 |",
        "|---|---:|---:|---:|---:|---:|",
        f"| the loop | {number(rates[False])} | {' | '.join(bench.shares(flops))} |",
        "",
        f"Under the profiler: {number(rates[True])} pairs a second, and some kernel ran in {busy:.1f}% of the time"
        f"{'' if cuda else ' (operators of the processor: this says nothing)'}.",
        "",
        f"The published pre-training of base sees 200,000 updates x 6 x 8 GPUs x 78 = {PUBLISHED_EXAMPLES:,} examples (78 is "
        "what its sampler puts into 10,240 tokens; 64 where the longest pair of a window is longer). At the loop's rate these "
        f"take {number(hours)} hours of this device, {number(hours * 64 / 78)} with 64; published: {PUBLISHED_HOURS} hours of V100s.",
    ]
    base = sized.size == "base"
    return Part(
        f"the whole loop, {sized.size}",
        [
            Row("pre-training mixture with its loader, pairs/s", number(rates[False])),
            Row("device busy", f"{busy:.1f}%", target="95%", met=busy >= 95),
            Row("published base pre-training, hours", number(hours), f"{PUBLISHED_HOURS} (V100)", f"{PUBLISHED_HOURS / hours:.1f}x", "15", hours <= 15)
            if base
            else Row("as many examples as published base pre-training, hours", number(hours)),
        ],
        lines,
    )  # fmt: skip


def _kernels(seen: Any, cuda: bool) -> list[tuple[float, float]]:
    """When each kernel began and ended; copies do not count. Of a processor, its operators."""
    wanted = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    return [
        (event.time_range.start, event.time_range.end)
        for event in seen.events()
        if event.device_type == wanted and not event.name.startswith(("Memcpy", "Memset"))
    ]


def _rate_row(what: str, now: Taken, was: Taken) -> Row:
    rates = now.amount / now.wall, was.amount / was.wall
    return Row(what, number(rates[0]), number(rates[1]), f"{rates[0] / rates[1]:.2f}x")


SECTIONS = {"training": training, "inference": inference, "transport": transport, "whole": whole}
NAMES = ("training", "inference", "transport", "the whole loop")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", action="append", choices=SIZES, help="one or several; base and large if left out")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="one or several; all if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2048, help="pairs, each with an image of its own")
    parser.add_argument("--updates", type=int, default=40, help="of the whole loop")
    parser.add_argument("--tokens", type=int, help="most tokens of a micro-batch; what the size takes if left out")
    parser.add_argument("--minutes", type=float, default=9.0, help="no section begins after so many")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device here; --device cpu --size tiny shows that the rest works")
    if options.device == "cpu" and options.out == PAGE:
        parser.error("a processor's numbers are not for docs/results/gpu.md: name another page with --out")
    return options


def main() -> None:
    options, began = arguments(), time.monotonic()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if options.device == "cpu":
        torch.set_num_threads(1)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU"
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    measured = f"{device}. " + provenance(command, [f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"], load)
    page = ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        bench = Bench(options, Path(place))
        sizes = options.size or ["base", "large"]
        order = [f"{name}, {size}" for size in dict.fromkeys(["base", "large", *sizes]) for name in NAMES]
        intro = INTRO.format(ceiling=bench.ceiling / 1e12, side=f"{bench.side:,}")
        for size in sizes:
            sized = None
            for name in options.section or SECTIONS:
                spent = (time.monotonic() - began) / 60
                if spent > options.minutes:
                    print(f"{name}, {size}: not begun, {spent:.1f} minutes are gone", flush=True)
                    continue
                sized = sized or Sized(bench, size)
                part = partial(SECTIONS[name], sized)()
                page = write_page(options.out, "One GPU", intro, order, [part], measured)
                print(f"{name}, {size}: done after {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
            if options.device == "cuda":
                del sized
                torch.cuda.empty_cache()
    print(page)


if __name__ == "__main__":
    main()
