import subprocess
import sys

import pytest
from pydantic import BaseModel

from uniter import recipe
from uniter.recipe import (
    FinetuneRecipe,
    ModelSettings,
    Objectives,
    PretrainRecipe,
    Source,
    Training,
    load_recipe,
    parse_recipe,
    shipped_recipes,
    to_yaml,
    with_parity,
)

FINETUNE = "kind: finetune\ntask: vqa\ndata: data/vqa\nregions: data/coco\n"
PRETRAIN = "kind: pretrain\nsources: [{captions: captions.jsonl, regions: store}]\n"


def message(text, *overrides):
    with pytest.raises(ValueError) as caught:
        parse_recipe(text, overrides, name="mine.yaml")
    return str(caught.value)


def test_kinds_and_defaults():
    tune, pre = parse_recipe(FINETUNE), parse_recipe(PRETRAIN)
    assert isinstance(tune, FinetuneRecipe) and isinstance(pre, PretrainRecipe)
    assert tune.train.betas == (0.9, 0.98) and tune.train.eps == 1e-6 and tune.model.from_ is None
    assert (pre.objectives.mlm, pre.objectives.itm, pre.objectives.mrfr, pre.objectives.mrckl) == (2, 2, 1, 1)
    assert pre.sources[0].split == "train"


def test_warm_up_is_a_tenth_of_the_steps_unless_said():
    assert parse_recipe(FINETUNE + "train: {steps: 6000}").train.warmup == 600
    assert parse_recipe(FINETUNE + "train: {steps: 6000}", ["train.steps=500"]).train.warmup == 50
    assert parse_recipe(FINETUNE + "train: {steps: 6000, warmup: 0}").train.warmup == 0


def test_an_unknown_key_names_itself_the_file_and_the_nearest():
    text = message(FINETUNE + "train:\n  learnig_rate: 5e-5\n")
    assert text == "mine.yaml: train.learnig_rate: unknown; did you mean learning_rate?"
    assert "did you mean train.learning_rate?" in message(FINETUNE + "learning_rate: 5e-5\n")
    assert "sources.0.captoins: unknown; did you mean captions?" in message(PRETRAIN.replace("captions:", "captoins:"))
    assert "known here: kind, parity, task" in message(FINETUNE + "zzz: 1")
    assert "did you mean from?" in message(FINETUNE + "model: {form: x}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train: {steps: many}", "train.steps: should be a valid integer, got 'many'"),
        ("train: {steps: 6.5}", "train.steps: should be a valid integer, got 6.5"),
        ("train: {steps: true}", "train.steps: should be a valid integer, got True"),
        ("train: {learning_rate: '5e-5'}", "train.learning_rate: should be a valid number, got '5e-5'"),
        ("train: {learning_rate: -1}", "train.learning_rate: should be greater than 0, got -1"),
        (
            "train: {optimizer: sgd}",
            "train.optimizer: should be 'adamw', 'adamw-published', 'adam' or 'adamax', got 'sgd'",
        ),
        ("train: 5", "train: should be a valid dictionary or instance of Training, got 5"),
        ("max_text: '60'", "max_text: should be a valid integer, got '60'"),
    ],
)
def test_a_wrong_value_is_one_line(line, said):
    text = message(FINETUNE + line)
    assert text == f"mine.yaml: {said}"


def test_what_is_missing_is_said_with_its_meaning():
    assert (
        message("kind: finetune\ntask: vqa\ndata: x")
        == "mine.yaml: regions: missing; The pictures' regions: a store, its URL, or a file of docs/formats.md; or a list of these."
    )
    assert "kind: missing; one of pretrain, finetune" in message("task: vqa")
    assert "unknown kind 'tune'" in message("kind: tune")
    assert "a recipe is a mapping" in message("- 1")
    assert "every objective has weight 0" in message(
        PRETRAIN + "objectives: {mlm: 0, itm: 0, mrfr: 0, mrckl: 0, mrc: 0}"
    )


def test_several_mistakes_are_said_at_once():
    assert len(message(FINETUNE + "train: {setps: 1, tokens: x}").splitlines()) == 2


def test_overrides():
    read = parse_recipe(
        PRETRAIN,
        [
            "train.steps=10",
            "train.learning_rate=1e-4",
            "model.from=weights/x",
            "sources.0.split=val",
            "train.clip=null",
        ],
    )
    assert read.train.steps == 10 and read.train.learning_rate == 1e-4 and read.train.clip is None
    assert str(read.model.from_) == "weights/x" and read.sources[0].split == "val"
    assert parse_recipe(FINETUNE, ["options.answers=[a, b]"]).options == {"answers": ["a", "b"]}
    assert parse_recipe(FINETUNE + "train:\n", ["train.steps=3"]).train.steps == 3  # an empty group is a group


def test_mistaken_overrides_name_themselves():
    assert message(FINETUNE, "train.stepz=4") == ("override 'train.stepz=4': train.stepz: unknown; did you mean steps?")
    assert message(FINETUNE, "train.steps=x").startswith("override 'train.steps=x': train.steps: should be")
    assert "write key=value" in message(FINETUNE, "train.steps")
    assert "no such place" in message(PRETRAIN, "sources.3.split=val")
    assert "no such place" in message(FINETUNE, "task.name=vqa")


def test_strict_yaml():
    assert message("kind: finetune\nkind: pretrain") == "mine.yaml, line 2: kind: given twice"
    assert "line" in message("kind: [")
    assert "could not determine a constructor" in message("kind: !!python/object/apply:os.getcwd []")
    values = recipe.read_yaml("{a: 5e-5, b: 1E3, c: 3, d: 1.5e+2, e: word, f: -2e-1, g: 12e, h: 2024-01-01}")
    assert values["a"] == 5e-5 and values["b"] == 1000.0 and values["c"] == 3 and values["d"] == 150.0
    assert values["e"] == "word" and values["f"] == -0.2 and values["g"] == "12e"
    merged = recipe.read_yaml("base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}")
    assert merged["more"] == {"a": 1, "b": 3}


@pytest.mark.parametrize("text", [FINETUNE + "model: {from: weights, config: {num_hidden_layers: 3}}", PRETRAIN])
def test_resolved_yaml_reads_back(text):
    read = parse_recipe(text, ["train.learning_rate=1e-5"])
    assert parse_recipe(to_yaml(read)) == read


def test_files_and_names(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text(FINETUNE)
    assert load_recipe(file) == load_recipe(str(file)) == parse_recipe(FINETUNE)
    file.write_text(FINETUNE + "a: 1")
    with pytest.raises(ValueError, match=r"mine\.yaml: a: unknown"):
        load_recipe(file)
    monkeypatch.setattr(recipe, "shipped_recipes", lambda: {"vqa-base": FINETUNE, "nlvr2-base": FINETUNE})
    assert load_recipe("vqa-base").task == "vqa"
    with pytest.raises(FileNotFoundError, match=r"vqa-bse: neither a file nor a shipped recipe; did you mean vqa-base"):
        load_recipe("vqa-bse")
    with pytest.raises(FileNotFoundError, match="shipped recipes: vqa-base, nlvr2-base"):
        load_recipe("xyz")
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml"):
        load_recipe(tmp_path / "mien.yaml")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_reads(name):
    read = load_recipe(name)
    assert parse_recipe(to_yaml(read)) == read


@pytest.mark.parametrize("model", [Training, ModelSettings, Source, Objectives, PretrainRecipe, FinetuneRecipe])
def test_every_setting_is_described(model: type[BaseModel]):
    assert model.__doc__
    missing = [name for name, field in model.model_fields.items() if not field.description and name != "kind"]
    assert not missing


def test_assignment_is_checked_too():
    training = Training()
    training.steps = 5
    assert training.steps == 5
    with pytest.raises(ValueError):
        training.tokens = "many"  # type: ignore[assignment]


def test_importing_it_is_light():
    code = "import sys, uniter.recipe; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_parity_fills_in_what_is_left_out_and_nothing_else():
    tune = parse_recipe(FINETUNE + "parity: official\ntrain: {accumulation: mean}\noptions: {b: 1}\n")
    task = {"train": {"batching": "examples", "order": "files"}, "options": {"a": 0, "b": 0}}
    done = with_parity(tune, task)
    assert (done.train.accumulation, done.train.optimizer, done.train.decayed) == ("mean", "adamw-published", "names")
    assert (done.train.batching, done.train.order, done.options) == ("examples", "files", {"a": 0, "b": 1})
    assert with_parity(parse_recipe(FINETUNE), task).train.optimizer == "adamw"
    pre = parse_recipe(PRETRAIN)
    assert pre.objectives.itm_swap == "either" and with_parity(pre) is pre
    official = with_parity(parse_recipe(PRETRAIN + "parity: official\n"))
    assert (official.objectives.itm_swap, official.model.new_word_head) == ("image", True)
    assert official.sources[0].lengths == "plain"  # captions have no lists of lengths but the plain one
    stories = "kind: pretrain\nparity: official\nsources: [{kind: vcr, captions: data, regions: store}]\n"
    assert with_parity(parse_recipe(stories)).sources[0].lengths == "published"
    said = parse_recipe(stories, ["sources.0.lengths=plain", "model.new_word_head=false"])
    assert with_parity(said) == said.model_copy(
        update={key: getattr(with_parity(said), key) for key in ("train", "objectives")}
    )
    assert parse_recipe(to_yaml(done)) == done
