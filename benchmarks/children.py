"""What speed.py measures in a process of its own: loading a checkpoint, and the memory that inference takes.

    python benchmarks/children.py load|infer ours|published FOLDER [PRECISION]

Prints JSON: seconds of the processor and on the wall, and bytes at the peak beyond what there was before.
"""

import json
import re
import sys
import time
from pathlib import Path

import torch


def memory(what: str) -> int:
    """Bytes of this process by a name of /proc: VmHWM (the peak), VmRSS (now); 0 where there is no /proc."""
    status = Path("/proc/self/status")
    found = re.search(rf"{what}:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def forget_the_peak() -> None:
    """Let VmHWM begin anew."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def loader(side: str, folder: Path):
    """Loads the model of answers, all imports done."""
    if side == "ours":
        from uniter.modeling_uniter import UniterForAnswers

        return lambda: UniterForAnswers.from_pretrained(folder / "ours")
    from published.model import Answers, Config

    settings = json.loads((folder / "config.json").read_text())

    def load():
        model = Answers(Config.of(settings), settings["answers"])
        model.load_state_dict(torch.load(folder / "answers.pt", weights_only=True))
        return model.eval()

    return load


def runner(side: str, model: torch.nn.Module, precision: str):
    """Inference of the 40 longest pairs of the workload."""
    import workload

    longest = sorted(workload.examples(), key=lambda one: len(one.pieces) + len(one.image.features))[-40:]
    if side == "ours":
        import ours

        return ours.inference(model, ours.encoded(longest), precision)
    from published.data import collate
    from theirs import tensors

    batch = collate([tensors(one) for one in longest])

    def run():
        with torch.no_grad():
            return model(batch)

    return run


def main() -> None:
    task, side, folder, precision = [*sys.argv[1:], "float32"][:4]
    torch.set_num_threads(1)
    run = loader(side, Path(folder))
    if task == "infer":
        run = runner(side, run(), precision)
    forget_the_peak()
    before, cpu, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    kept = run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert kept is not None
    print(json.dumps({"cpu": cpu, "wall": wall, "added": memory("VmHWM") - before, "resident": memory("VmHWM")}))


if __name__ == "__main__":
    main()
