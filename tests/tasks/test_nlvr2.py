"""NLVR2: the option that the model overrules, and the published models measured from the published databases."""

import json

import pytest
import torch

import fixtures
from test_golden import GOLDEN
from test_golden import load as golden_model
from uniter.modeling_uniter import UniterForPairs
from uniter.processing_uniter import UniterProcessor, Vocabulary
from uniter.tasks.nlvr2 import NLVR2

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden set at {GOLDEN} (set UNITER_GOLDEN)")


def test_another_form_than_the_models_is_refused_and_left_out_it_is_the_models(tmp_path):
    model = UniterForPairs(fixtures.tiny_config(type_vocab_size=3, pair_form="paired"))
    with pytest.raises(ValueError, match="compares two images as paired, the option form asks for triplet"):
        NLVR2(tmp_path, form="triplet").adopt(model)
    task = NLVR2(tmp_path)
    task.adopt(model)
    assert task.settings["form"] == "paired"
    NLVR2(tmp_path, form="paired").adopt(model)


@needs_golden
@torch.no_grad()
@pytest.mark.parametrize("form", ["paired", "paired_attn", "triplet"])
def test_every_published_form_is_measured_straight_from_the_published_databases(form):
    place = GOLDEN / "db" / "txt" / "nlvr2_dev.db"
    meta = json.loads((place / "meta.json").read_text())
    pieces = [f"word{number}" for number in range(meta["v_range"][1])]
    for name, piece in {"CLS": "[CLS]", "SEP": "[SEP]", "MASK": "[MASK]", "UNK": "[UNK]"}.items():
        pieces[meta[name]] = piece
    pieces[0] = "[PAD]"
    task = NLVR2(place, GOLDEN / "db" / "img" / "nlvr2_dev", UniterProcessor(Vocabulary(pieces), 20))
    examples = task.examples("dev")
    found = task.predict(golden_model(task.model, f"nlvr2_{form}"), examples)
    assert [said["identifier"] for said in found] == [example.identifier for example in examples]
    assert task.settings["form"] == form.replace("_", "-")
    right = [said["label"] == example.label for said, example in zip(found, examples, strict=True)]
    assert task.score(found, examples)["accuracy"] == pytest.approx(100 * sum(right) / len(right))
