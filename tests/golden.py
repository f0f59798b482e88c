"""The golden set: inputs and outputs of the published code, in the folder $UNITER_GOLDEN (default: ../shared/golden)."""

import json
import os
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from uniter.checkpoints import import_weights, read_state
from uniter.processing_uniter import PERSONS, UniterProcessor, Vocabulary
from uniter.regions.formats import open_regions
from uniter.regions.source import RegionSource

GOLDEN = Path(os.environ.get("UNITER_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden set at {GOLDEN} (set UNITER_GOLDEN)")


class Case:
    """One folder of cases/: inputs, outputs, and which outputs have been compared."""

    def __init__(self, name: str):
        self.name, self.folder = name, GOLDEN / "cases" / name
        self.outputs = self._arrays("out_f32")
        self.batch = self._arrays("batch")
        self.info = self._json(self.folder / "info.json")
        self.tolerances = self._json(GOLDEN / "tolerances.json").get(name, {})
        self.compared: set[str] = set()

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.folder / f"{name}.npz"
        return dict(np.load(path)) if path.is_file() else {}

    def _json(self, path: Path) -> dict:
        return json.loads(path.read_text()) if path.is_file() else {}

    @cached_property
    def examples(self) -> list[dict[str, np.ndarray]]:
        rows: dict[str, dict[str, np.ndarray]] = {}
        for key, value in self._arrays("examples").items():
            row, field = key.split("/")
            rows.setdefault(row, {})[field] = value
        return [rows[row] for row in sorted(rows)]

    @property
    def labels(self) -> torch.Tensor:
        """The batch's targets, one a row or one a row and label."""
        targets = self.batch["targets"]
        return torch.from_numpy(targets[:, 0] if targets.shape[1:] == (1,) else targets)

    def same(self, name: str, ours) -> None:
        """Compare with an output, within its tolerance."""
        ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
        self.compared.add(name)
        if self.tolerances[name] == "exact":
            np.testing.assert_array_equal(ours, self.outputs[name], err_msg=name)
        else:
            assert ours.shape == self.outputs[name].shape, name
            atol = self.tolerances[name]["atol"]
            np.testing.assert_allclose(ours, self.outputs[name], rtol=0, atol=atol, err_msg=name)

    def same_gradients(self, name: str, model: torch.nn.Module, loss: torch.Tensor) -> None:
        """Compare the norm of each parameter's gradient."""
        expected = dict(self._json(self.folder / "grad_norms.json")[name])
        total = expected.pop("__total__")[0]
        model.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        ours = {key: p.grad.norm().item() if p.grad is not None else 0.0 for key, p in model.named_parameters()}
        assert ours.keys() == expected.keys()
        for key, norms in expected.items():
            norm = 0.0 if norms is None else norms[0]
            assert abs(ours[key] - norm) <= 1e-4 * norm + 1e-6 * total, (name, key, ours[key], norm)


@cache
def processor() -> UniterProcessor:
    """With the special pieces where the set's text databases say, wide enough for every file of weights."""
    metas = [json.loads(path.read_text()) for path in sorted((GOLDEN / "db" / "txt").glob("*/meta.json"))]
    names = {"UNK": "[UNK]", "CLS": "[CLS]", "SEP": "[SEP]", "MASK": "[MASK]"}
    (special,) = {tuple((meta[key], piece) for key, piece in names.items()) for meta in metas}
    states = [read_state(path) for path in (GOLDEN / "weights").glob("*.pt")]
    size = max(len(state["uniter.embeddings.word_embeddings.weight"]) for state in states)
    pieces = [f"w{i}" for i in range(size)]
    for number, piece in (*special, (0, "[PAD]"), (metas[0]["v_range"][0], "!")):
        pieces[number] = piece
    return UniterProcessor(Vocabulary(tuple(pieces)), max_text=size)


def load(kind, weights):
    """The published code's weights through the door; the file must have every tensor of the model and no other."""
    found = import_weights(GOLDEN / "weights" / f"{weights}.pt", GOLDEN / "weights" / "config.json")
    assert type(found.model) is kind and (found.new, found.unused) == ([], [])
    return found.model


def vocabulary_of(path: Path) -> Vocabulary:
    """A vocabulary of the size that a text database was made with, its special pieces where meta.json says."""
    meta = json.loads((path / "meta.json").read_text())
    special = {meta[name]: f"[{name}]" for name in ("UNK", "CLS", "SEP", "MASK")} | {
        0: "[PAD]",
        meta["v_range"][0]: "!",
    }
    return Vocabulary(tuple(special.get(number, f"w{number}") for number in range(meta["v_range"][1])))


def text_database(name: str) -> Path:
    return GOLDEN / "db" / "txt" / name


def image_databases(*folders: str) -> RegionSource:
    """Image databases of the set, read in place."""
    return open_regions([GOLDEN / "db" / "img" / folder for folder in folders])


@cache
def longest_text() -> int:
    """The limit, in pieces, that the set's captions were read with."""
    return json.loads((GOLDEN / "expected_db" / "texts.json").read_text())["txt/itm_coco_train.db"]["max_txt_len"]


@cache
def people() -> tuple[str, ...]:
    """VCR's words behind the vocabulary; the set has fewer than the 81 of the real one."""
    words = len(read_state(GOLDEN / "weights" / "vcr.pt")["uniter.embeddings.word_embeddings.weight"])
    return PERSONS[: words - len(vocabulary_of(text_database("vcr_val.db")))]


def sizes_of(regions: RegionSource) -> dict[str, int]:
    """What a model must be to read these regions."""
    return {"region_feature_size": regions.feature_size, "num_region_classes": regions.num_classes}
