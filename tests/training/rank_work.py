"""What the processes of tests/training/test_engine.py do: run recipes together, one after another."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from uniter.recipe import Training, load_recipe
from uniter.run import finetuning_job, pretraining_job
from uniter.training.engine import joined_ranks
from uniter.training.loop import train


def run(recipe: str, out: str, overrides: list[str], interrupt: int | None = None) -> bool:
    """Train a recipe as `uniter.run.run` does; the last process interrupts itself in an update. Whether it finished."""
    loaded = load_recipe(recipe, overrides)
    job = pretraining_job(loaded) if loaded.kind == "pretrain" else finetuning_job(loaded)
    last = int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
    loss, calls = job.loss, []

    def interrupting(stream, batch):
        calls.append(stream)
        if last and len(calls) == interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(stream, batch)

    job.loss = interrupting
    return train(job, loaded.train, out, progress=False).finished


if __name__ == "__main__":
    torch.set_num_threads(1)
    import uniter.training.folder

    uniter.training.folder.draw_plots = lambda log, folder: None
    with joined_ranks(Training(device="cpu")):
        for arguments in json.loads(Path(sys.argv[1]).read_text()):
            run(**arguments)
