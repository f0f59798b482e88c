"""Bad input to every verb: one line that names the culprit and the mend, exit status 2, nothing overwritten."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from uniter import cli
from uniter.recipe import shipped_recipes


class Place:
    """A folder of good and bad things to hand to the command line."""

    def __init__(self, folder: Path, world):
        self.folder, self.world = folder, world
        self.out = folder / "out"

    def __getattr__(self, name: str) -> str:  # {missing} in a command: a path in the folder
        return str(self.folder / name)

    @property
    def picture(self):
        return self.world.picture()

    @property
    def data(self):
        return self.world.data

    @property
    def regions(self):
        return self.world.regions

    @property
    def models(self):
        return self.world.models

    def state(self) -> dict[str, str]:
        """A digest of every file."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def place(world, tmp_path) -> Place:
    place = Place(tmp_path / "place", world)
    folder = place.folder
    (folder / "empty").mkdir(parents=True)
    (folder / "text.png").write_text("this is no picture")
    (folder / "cut.png").write_bytes(world.picture().read_bytes()[:500])
    (folder / "file").write_text("precious")
    (folder / "full").mkdir()
    (folder / "full" / "precious.txt").write_text("precious")
    (folder / "words").mkdir()
    (folder / "words" / "notes.txt").write_text("no picture here")
    return place


@pytest.fixture
def uniter(monkeypatch, capsys):
    """Runs a command line in this process; gives its exit status, what it printed, and what it complained of."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["uniter", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def refused(uniter, place):
    """Runs a command line that has to be refused, and gives the one line that it says."""

    def run(*arguments) -> str:
        before = place.state()
        status, out, err = uniter(*arguments)
        assert status == 2 and not out, (status, out, err)
        assert err.startswith("uniter: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "Traceback" not in err and len(err) < 1000
        assert before == {path: digest for path, digest in place.state().items() if path in before}, "overwritten"
        return err

    return run


def recipe_file(place: Place, **changes) -> Path:
    """A fine-tuning recipe of two steps on the small world."""
    lines = {
        "kind": "finetune",
        "task": "vqa",
        "model": {"from": str(place.models / "pretrained")},
        "data": str(place.data),
        "regions": str(place.regions),
        "options": {"least": 1},
        "train": {"steps": 2, "tokens": 256, "device": "cpu"},
    }
    path = place.folder / "recipe.yaml"
    path.write_text(json.dumps({**lines, **changes}))
    return path


def model_of(place: Place, name: str = "answers") -> Path:
    """A copy of a model, to be spoiled."""
    return Path(shutil.copytree(place.models / name, place.folder / "spoiled"))


# ------------------------------------------------------------ commands that name what is not there, or is something else

ASK = ["ask", "{picture}", "what is it?"]
EVALUATE = ["evaluate", "vqa", "--data", "{data}", "--regions", "{regions}", "--split", "val"]
PREDICT = ["predict", *EVALUATE[1:]]
SCORE = ["score", "vqa", "--data", "{data}", "--split", "val"]
MODEL = ["--model", "{models}/answers"]
BAD = {
    # command line
    "no such verb": (["frob"], "No such command 'frob'"),
    "no such option": ([*ASK, "--modle", "x"], "No such option: --modle"),
    "no question": (["ask", "{picture}"], "Missing argument 'question'; see uniter ask --help"),
    "no out": (["scenes", "make"], "Missing option '--out'; see uniter scenes make --help"),
    "a word for a number": (["scenes", "make", "--out", "{out}", "--train", "many"], "Invalid value for '--train'"),
    "top 0": ([*ASK, "--top", "0"], "Invalid value for '--top'"),
    # scenes make
    "negative pictures": (["scenes", "make", "--out", "{out}", "--train", "-1"], "Invalid value for '--train'"),
    "draw over a file": (["scenes", "make", "--out", "{file}"], "{file} is there and holds no drawn world"),
    "draw into a full folder": (["scenes", "make", "--out", "{full}"], "{full} is there and holds no drawn world"),
    "draw below a file": (["scenes", "make", "--out", "{file}/world"], "{file}"),
    # extract
    "extract nothing": (["extract", "{missing}", "--out", "{out}"], "there is no folder {missing}: check"),
    "extract an empty folder": (["extract", "{empty}", "--out", "{out}"], "there are no pictures in {empty}: give"),
    "extract no pictures": (
        ["extract", "{words}", "--out", "{out}", "--quiet"],
        "none of the 1 files in {words} is a picture",
    ),
    "extract into a full folder": (["extract", "{data}/images", "--out", "{full}"], "{full} is not empty and is no st"),
    "extract over a file": (["extract", "{data}/images", "--out", "{file}"], "{file} is a file: give"),
    "extract by no detector": (
        ["extract", "{data}/images", "--out", "{out}", "--detector", "{missing}"],
        "there is no detector '{missing}': give",
    ),
    "extract by an empty folder": (
        ["extract", "{data}/images", "--out", "{out}", "--detector", "{empty}"],
        "{empty} holds no detector (no config.json): give",
    ),
    # training
    "no recipe": (["pretrain", "{missing}", "--out", "{out}"], "{missing}: neither a file nor a shipped recipe"),
    "a recipe misspelt": (["finetune", "scenes-vqq", "--out", "{out}"], "did you mean scenes-vqa"),
    "a recipe of the other kind": (["pretrain", "scenes-vqa", "--out", "{out}"], "is a recipe for `uniter finetune`"),
    "a picture for a recipe": (["finetune", "{picture}", "--out", "{out}"], "{picture}: not UTF-8 text"),
    "a folder for a recipe": (["finetune", "{full}", "--out", "{out}"], "{full}: neither a file nor"),
    "prose for a recipe": (["finetune", "{file}", "--out", "{out}"], "{file}: a recipe is a mapping"),
    "a misspelt override": (
        ["finetune", "scenes-vqa", "--out", "{out}", "train.step=3"],
        "override 'train.step=3': train.step: unknown; did you mean steps?",
    ),
    "an override of nothing": (["finetune", "scenes-vqa", "--out", "{out}", "steps"], "override 'steps': write key="),
    "two mistakes": (
        ["finetune", "scenes-vqa", "--out", "{out}", "train.step=3", "train.tokens=x"],
        "train.tokens: should be a valid integer, got 'x'",
    ),
    "data that are not there": (
        ["finetune", "scenes-vqa", "--out", "{out}", "model.from={models}/pretrained", "regions={missing}"],
        "no store at {missing}",
    ),
    "captions that are not there": (
        [
            "pretrain",
            "scenes-pretrain",
            "--out",
            "{out}",
            "sources.0.regions={regions}",
            "sources.0.captions={missing}",
        ],
        "{missing}: no such file",
    ),
    # evaluate and predict
    "no such task": (["evaluate", "vqqa", *EVALUATE[2:], *MODEL], "no task 'vqqa'; did you mean vqa?"),
    "no data": (
        ["evaluate", "vqa", "--data", "{missing}", "--regions", "{regions}", *MODEL],
        "{missing}: no such folder",
    ),
    "empty data": (["evaluate", "vqa", "--data", "{empty}", "--regions", "{regions}", *MODEL], "{empty}: no v2_OpenE"),
    "no store": (
        ["evaluate", "vqa", "--data", "{data}", "--regions", "{missing}", *MODEL],
        "there is no store at {missing}: check",
    ),
    "an empty store": (["evaluate", "vqa", "--data", "{data}", "--regions", "{empty}", *MODEL], "{empty} is no store"),
    "no such split": ([*EVALUATE, *MODEL, "--split", "tset"], "for split 'tset'; it has v2_"),
    "no such split of captions": (
        ["evaluate", "retrieval", *EVALUATE[2:], "--model", "{models}/matching", "--split", "tset"],
        "nothing in split 'tset'; it has train, val",
    ),
    "a misspelt option": ([*EVALUATE, *MODEL, "--option", "laest=1"], "no option 'laest'; did you mean least?"),
    "an option without a value": ([*EVALUATE, *MODEL, "--option", "least"], "option 'least': write key=value"),
    "no model": ([*EVALUATE, "--model", "{missing}"], "{missing} holds no saved model"),
    "an empty model": ([*EVALUATE, "--model", "{empty}"], "{empty} holds no saved model (no config.json): give"),
    "a model without the head": (
        [*EVALUATE, "--model", "{models}/grounding"],
        "{models}/grounding has no head for vqa: give a model that was fine-tuned on it",
    ),
    "no predictions": ([*SCORE, "--predictions", "{missing}"], "{missing}: no such file"),
    "predictions that are none": ([*SCORE, "--predictions", "{file}"], "{file}: not JSON"),
    "score nothing": (SCORE, "Missing option '--predictions'; see uniter score --help"),
    "score without data": (
        ["score", "vqa", "--data", "{missing}", "--predictions", "{file}"],
        "{missing}: no such folder",
    ),
    "score an unknown split": ([*SCORE, "--split", "tset", "--predictions", "{file}"], "for split 'tset'; it has v2_"),
    "predict over a file": ([*PREDICT, *MODEL, "--out", "{file}"], "{file} exists already: remove it or"),
    "predict over a folder": ([*PREDICT, *MODEL, "--out", "{full}"], "{full} exists already"),
    "predict below a file": ([*PREDICT, *MODEL, "--out", "{file}/out.json"], "{file}"),
    "predict nothing": ([*PREDICT, *MODEL], "nothing to do: give --out for a prediction file, --draw for pictures"),
    "draw examples what without where": (
        [*PREDICT, *MODEL, "--out", "{out}", "--example", "1"],
        "give --draw a folder too",
    ),
    "draw examples into a full folder": (
        [*PREDICT, *MODEL, "--draw", "{full}"],
        "{full} exists already: remove it or draw into",
    ),
    "draw examples over a file": ([*PREDICT, *MODEL, "--draw", "{file}"], "{file} exists already"),
    "draw examples no such example": (
        [*PREDICT, *MODEL, "--draw", "{out}", "--example", "x"],
        "vqa has no example 'x' in split",
    ),
    "draw examples no such layer": (
        [*PREDICT, *MODEL, "--draw", "{out}", "--layer", "7"],
        "layer 7: the model has layers 1 to 2",
    ),
    "draw examples without pictures": (
        [*PREDICT, *MODEL, "--draw", "{out}", "--images", "{missing}"],
        "there is no folder of pi",
    ),
    "draw examples other pictures": (
        [*PREDICT, *MODEL, "--draw", "{out}", "--images", "{full}"],
        "{full}: no picture 'scenes_val_",
    ),
    "draw examples without a head": (
        [*PREDICT, "--model", "{models}/pretrained", "--draw", "{out}"],
        "pretrained has no head for vqa: give a model that was fine-tuned on it",
    ),
    # ask, find, search
    "ask about nothing": (
        ["ask", "{missing}", "what?", "--model", "{missing}"],
        "there is no picture at {missing}: check",
    ),
    "ask about a text": (["ask", "{text.png}", "what?"], "{text.png} is no picture of a known kind: replace"),
    "ask about half a picture": (["ask", "{cut.png}", "what?"], "{cut.png} cannot be read as a picture"),
    "ask about a folder": (["ask", "{full}", "what?"], "{full}"),
    "an empty question": (["ask", "{picture}", "", *MODEL], "the text is empty: write at least one word"),
    "a question of 10,000 words": (
        ["ask", "{picture}", "circle " * 10_000, *MODEL],
        "10000 word pieces, the model rea",
    ),
    "ask no model": ([*ASK, "--model", "{missing}"], "there is no model folder {missing}: give"),
    "ask an empty model": ([*ASK, "--model", "{empty}"], "{empty} holds no saved model: give"),
    "ask a model that cannot": (
        [*ASK, "--model", "{models}/matching"],
        "no model with a head for answers among {models}",
    ),
    "ask through no detector": ([*ASK, *MODEL, "--detector", "{missing}"], "there is no detector '{missing}': give"),
    "find in nothing": (["find", "{missing}", "a circle"], "there is no picture at {missing}: check"),
    "find in half a picture": (["find", "{cut.png}", "a circle"], "{cut.png} cannot be read as a picture"),
    "find nothing": (["find", "{picture}", " ", "--model", "{models}/grounding"], "the text is empty: write"),
    "find with a model that cannot": (["find", "{picture}", "x", *MODEL], "no model with a head for grounding"),
    "search nowhere": (["search", "{missing}", "a circle"], "there is no folder {missing}: give"),
    "search an empty folder": (
        ["search", "{empty}", "a circle", "--model", "{models}/matching", "--store", "{out}"],
        "there are no pictures in {empty}: give",
    ),
    "search without a word": (
        ["search", "{data}/images", "", "--model", "{models}/matching", "--store", "{out}"],
        "the text is empty",
    ),
    "search over a full folder": (
        ["search", "{data}/images", "a circle", "--model", "{models}/matching", "--store", "{full}"],
        "{full} is not empty and is no store",
    ),
    # recipes
    "show no recipe": (["recipes", "show", "scenes"], "no shipped recipe 'scenes': there are nlvr2-base"),
    "copy no recipe": (["recipes", "copy", "../x", "{full}"], "no shipped recipe '../x'"),
    "copy nowhere": (["recipes", "copy", "scenes-vqa", "{missing}"], "{missing} is no folder: make it first"),
    # demo
    "demo over a full folder": (["demo", "--out", "{full}"], "{full} holds something that is no demo: choose"),
    "demo over a file": (["demo", "--out", "{file}"], "{file}"),
}


def filled(text: str, place: Place) -> str:
    return re.sub(r"\{([\w.]+)\}", lambda name: str(getattr(place, name[1])), text)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, place, refused):
    arguments, said = BAD[name]
    message = refused(*(filled(argument, place) for argument in arguments))
    assert filled(said, place) in message
    assert not place.out.exists()


# ------------------------------------------------------------ damaged models, stores, predictions


def drop(name):
    return lambda folder: (folder / name).unlink()


def cut(name, length):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def put(name, text):
    return lambda folder: (folder / name).write_text(text)


def change(**settings):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))

    return spoil


SPOILT_MODELS = {
    "no config": (drop("config.json"), "{spoiled} holds no saved model"),
    "no weights": (drop("model.safetensors"), "{spoiled} holds no weights (no model.safetensors): copy"),
    "half the weights": (cut("model.safetensors", 5000), "the weights in {spoiled} are damaged"),
    "empty weights": (cut("model.safetensors", 0), "the weights in {spoiled} are damaged"),
    "words for weights": (put("model.safetensors", "not tensors" * 100), "the weights in {spoiled} are damaged"),
    "config that is no JSON": (put("config.json", "{hidden_size"), "{spoiled}/config.json is damaged"),
    "config that is a list": (put("config.json", "[1]"), "{spoiled}/config.json is damaged"),
    "config of another size": (change(hidden_size=48), "tensors have another shape than the model, the first is"),
    "config of impossible size": (change(hidden_size=33), "{spoiled}"),
    "config with a word for a number": (change(hidden_size="big"), "{spoiled}"),
    "another detector": (change(detector="small-other"), "was trained on regions of detector small-other"),
    "processor that is no JSON": (put("processor_config.json", "{"), "{spoiled}/processor_config.json is damaged"),
    "vocabulary of words": (put("vocab.txt", "red\ngreen\n"), "{spoiled}/vocab.txt: the vocabulary lacks [PAD]"),
    "vocabulary of another model": (
        put("vocab.txt", "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])),
        "{spoiled} has ",
    ),
    "no vocabulary": (drop("vocab.txt"), "no vocabulary found (tried {spoiled}): give the path of a vocab.txt"),
}


@pytest.mark.parametrize("verb", ["ask", "evaluate", "finetune"])
@pytest.mark.parametrize("name", SPOILT_MODELS)
def test_a_spoilt_model_is_one_line(name, verb, place, refused, monkeypatch):
    monkeypatch.delenv("UNITER_VOCAB", raising=False)
    monkeypatch.setattr("uniter.processing_uniter._cached_bert_vocabulary", lambda: None)
    spoil, said = SPOILT_MODELS[name]
    if name.startswith("processor") and verb == "finetune":
        pytest.skip("fine-tuning reads the recipe's own settings of the processor")
    spoilt = model_of(place)
    spoil(spoilt)
    if verb == "finetune":
        arguments = ["finetune", recipe_file(place, model={"from": str(spoilt)}), "--out", place.out]
    else:
        arguments = [filled(a, place) for a in {"ask": ASK, "evaluate": EVALUATE}[verb]] + ["--model", spoilt]
    message = refused(*arguments)
    assert filled(said, place) in message
    assert not place.out.exists()


SPOILT_STORES = {
    "no index": (drop("index.json"), "{store} is no store of regions (no index.json): make one"),
    "index that is no JSON": (put("index.json", "{"), "{store}/index.json is damaged"),
    "no shard": (drop("shard-00000.safetensors"), "{store}/shard-00000.safetensors is missing: copy"),
    "half a shard": (cut("shard-00000.safetensors", 300), "shard-00000.safetensors has 300 bytes, the index says"),
}


@pytest.mark.parametrize("verb", ["evaluate", "finetune", "pretrain", "extract", "search"])
@pytest.mark.parametrize("name", SPOILT_STORES)
def test_a_spoilt_store_is_one_line(name, verb, place, refused):
    spoil, said = SPOILT_STORES[name]
    store = Path(shutil.copytree(place.regions, place.folder / "store"))
    spoil(store)
    if verb in ("extract", "search") and name == "no index":
        said = "{store} is not empty and is no store (no index.json): give"
    message = refused(
        *{
            "evaluate": [filled(a, place) for a in [*EVALUATE, *MODEL]] + ["--regions", store],
            "finetune": ["finetune", recipe_file(place, regions=str(store)), "--out", place.out],
            "pretrain": [
                *("pretrain", "scenes-pretrain", "--out", place.out, f"sources.0.regions={store}"),
                *(f"sources.0.captions={place.world.captions}", "validation=[]"),
            ],
            "extract": ["extract", place.data / "images", "--out", store],
            "search": ["search", place.data / "images", "x", "--model", place.models / "matching", "--store", store],
        }[verb]
    )
    assert filled(said, place) in message
    assert not place.out.exists()


def other_store(place: Place) -> Path:
    """The same regions, said to be another detector's."""
    store = Path(shutil.copytree(place.regions, place.folder / "store"))
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "detector": "small-other"}))
    return store


def test_a_store_of_another_detector_is_refused(place, refused):
    store = other_store(place)
    said = "comes from small-other: extract the pictures with the model's detector"
    measure = [str(store) if a == "{regions}" else filled(a, place) for a in [*EVALUATE, *MODEL]]
    assert str(store) in measure and said in refused(*measure)
    assert said in refused("finetune", recipe_file(place, regions=str(store)), "--out", place.out)
    assert "holds regions of detector 'small-other'" in refused("extract", place.data / "images", "--out", store)
    assert not place.out.exists()


@pytest.mark.parametrize(
    "predictions",
    [{}, [], [1], [[]], ["x"], [{}], [{"question_id": 1}], [{"question_id": [], "answer": "red"}], "x", None],
    ids=json.dumps,
)
@pytest.mark.parametrize("task", ["vqa", "refcoco", "retrieval"])
def test_malformed_predictions_are_one_line(task, predictions, place, refused):
    path = place.folder / "predictions.json"
    path.write_text(json.dumps(predictions))
    arguments = [filled(a, place) for a in SCORE[2:]]
    message = refused("score", task, *arguments, "--predictions", path)
    assert str(path) in message


# ------------------------------------------------------------ recipes and folders of runs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trian": {"steps": 2}}, "trian: unknown; did you mean train?"),
        (
            {"vocabulary": "scenes", "model": {"size": "tiny", "config": {"hiden_size": 32}}},
            "model.config.hiden_size: unknown; did you mean hi",
        ),
        (
            {"vocabulary": "scenes", "model": {"size": "tiny", "config": {"hidden_size": "x"}}},
            "model.config.hidden_size: should be int, got 'x'",
        ),
        ({"model": {"from": "missing-model"}}, "missing-model holds no saved model (no config.json): give"),
        ({"kind": ["finetune"]}, "kind: unknown kind ['finetune']; one of pretrain, finetune"),
        ({"task": 1, "max_text": "x"}, "should be a valid string, got 1; "),
        ({"task": ".mine.x"}, "no task '.mine.x'; there are"),
        ({"task": "vqaa"}, "no task 'vqaa'; did you mean vqa?"),
        ({"options": {"laest": 1}}, "task vqa has no option 'laest'; did you mean least?"),
        ({"options": {"least": 10_000}}, "no answer is that of 10000 "),
        ({"options": {"least": 1, "validation_examples": "all"}}, "options.validation_examples: should be a number"),
        ({"train_split": "tran"}, "for split 'tran'; it has v2_"),
        ({"validation_split": "vla"}, "for split 'vla'; it has v2_"),
        ({"vocabulary": "missing.txt"}, "missing.txt"),
        ({"train": {"steps": 2, "tokens": 5, "device": "cpu"}}, "tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_a_recipe_that_cannot_be_run_is_one_line(changes, said, place, refused):
    assert said in refused("finetune", recipe_file(place, **changes), "--out", place.out)


def test_a_folder_with_a_run_is_resumed_or_refused(place, uniter, refused):
    recipe, out = recipe_file(place), place.out
    status, printed, _ = uniter("finetune", recipe, "--out", out, "--quiet")
    assert status == 0 and f"{out}: finished after 2 steps" in printed
    before = place.state()
    status, again, _ = uniter("finetune", recipe, "--out", out, "--quiet")
    assert (status, again) == (0, printed) and place.state() == before
    said = refused("finetune", recipe, "--out", out, "train.seed=1")
    assert f"{out} holds a run with another setting: train.seed is 0 there and 1 here; choose another folder" in said
    assert place.state() == before
    for other in (["scenes", "make"], ["extract", place.data / "images"], ["demo"]):
        assert str(out) in refused(*other, "--out", out)
    assert "exists already" in refused(*(filled(a, place) for a in [*PREDICT, *MODEL, "--out", "{out}"]))
    assert place.state() == before


def test_a_run_that_failed_before_its_first_update_can_be_mended(place, uniter, refused):
    recipe, out = recipe_file(place), place.out
    assert "train.tokens" in refused("finetune", recipe, "--out", out, "--quiet", "train.tokens=5")
    assert uniter("finetune", recipe, "--out", out, "--quiet", "train.tokens=256")[0] == 0


@pytest.mark.parametrize("name", ["full", "file"])
def test_training_into_something_else_is_refused(name, place, refused):
    said = refused("finetune", recipe_file(place), "--out", place.folder / name)
    assert f"{place.folder / name} is not empty and holds no run; choose a new or empty folder" in said


def test_a_world_of_other_settings_is_refused_and_the_same_one_resumed(place, uniter, refused):
    make = ["scenes", "make", "--out", place.out, "--train", 2, "--val", 1, "--test", 0, "--novel", 0, "--quiet"]
    assert uniter(*make)[0] == 0
    before = place.state()
    assert uniter(*make)[0] == 0 and place.state() == before
    assert "was made with seed = 0, not 1" in refused(*make, "--seed", 1)
    (place.out / "scenes.json").write_text("{")
    assert "scenes.json is damaged" in refused(*make)


def test_copied_recipes_are_never_overwritten(place, uniter, refused):
    assert uniter("recipes", "copy", "scenes-vqa", place.empty)[0] == 0
    copied = Path(place.empty) / "scenes-vqa.yaml"
    copied.write_text("mine")
    assert f"{copied} exists already: remove it" in refused("recipes", "copy", "scenes-vqa", place.empty)
    assert copied.read_text() == "mine"


def test_recipes_are_listed_and_shown(uniter):
    status, listed, _ = uniter("recipes", "list")
    assert status == 0 and [line.split()[0] for line in listed.splitlines()] == list(shipped_recipes())
    for name, text in shipped_recipes().items():
        assert uniter("recipes", "show", name)[:2] == (0, text)


# ------------------------------------------------------------ pictures that are skipped, disks that are full


def test_unreadable_pictures_are_named_and_the_status_says_so(place, uniter):
    folder = place.folder / "pictures"
    folder.mkdir()
    shutil.copy(place.picture, folder / "good.png")
    shutil.copy(place.folder / "text.png", folder)
    shutil.copy(place.folder / "cut.png", folder)
    Image.new("RGB", (3, 3)).save(folder / "small.png")
    status, out, err = uniter("extract", folder, "--out", place.out, "--quiet")
    assert status == 3 and "2 images, 2 added" in out and "2 failed (see failures.jsonl)" in out
    assert [line.split(":")[0] for line in err.splitlines()] == ["failed cut.png", "failed text.png"]
    assert uniter("search", folder, "x", "--model", place.models / "matching", "--store", place.out)[0] == 0


def test_ranks_say_that_they_did_their_share_and_the_last_step_what_failed(place, uniter, refused, monkeypatch):
    folder = place.folder / "pictures"
    folder.mkdir()
    for number in range(3):
        shutil.copy(place.picture, folder / f"{number}.png")
    shutil.copy(place.folder / "cut.png", folder)
    assert "SOURCE" in refused("extract", "--out", place.out)
    assert "no extraction goes on" in refused("extract", "--out", place.out, "--finish")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", "2 shards left"), ("1", "3 images, 1 added in")):
        monkeypatch.setenv("RANK", rank)
        status, out, _ = uniter("extract", folder, "--out", place.out, "--shard-images", 1, "--quiet")
        assert status == 0 and said in out
    monkeypatch.delenv("RANK")
    status, out, err = uniter("extract", "--out", place.out, "--finish")
    assert status == 3 and "3 images, 0 added" in out and err.startswith("failed cut.png: ")


@pytest.mark.parametrize("error", [28, 13, 30], ids=["full", "forbidden", "read-only"])
@pytest.mark.parametrize("verb", ["scenes", "extract", "finetune", "predict"])
def test_what_the_system_refuses_is_one_line(error, verb, place, refused, monkeypatch):
    recipe = recipe_file(place)
    opened = Path.open

    def fails(path, *arguments, **settings):
        if path.is_relative_to(place.out):
            raise OSError(error, os.strerror(error), str(path))
        return opened(path, *arguments, **settings)

    def write(path, content, encoding="utf-8"):
        with path.open("wb") as file:
            file.write(content.encode(encoding) if isinstance(content, str) else content)

    monkeypatch.setattr(Path, "open", fails)
    monkeypatch.setattr(Path, "write_bytes", write)
    monkeypatch.setattr(Path, "write_text", write)
    message = refused(
        *{
            "scenes": ["scenes", "make", "--out", place.out, "--train", 1, "--quiet"],
            "extract": ["extract", place.data / "images", "--out", place.out, "--quiet"],
            "finetune": ["finetune", recipe, "--out", place.out, "--quiet"],
            "predict": [*(filled(a, place) for a in [*PREDICT, *MODEL]), "--quiet", "--out", place.out / "x.json"],
        }[verb]
    )
    assert str(place.out) in message
    assert {28: "free some space", 13: "change its permissions", 30: "a place that can be written to"}[error] in message


# ------------------------------------------------------------ what works prints what is asked


def test_the_verbs_print_what_was_asked(place, uniter):
    status, out, _ = uniter(*(filled(a, place) for a in [*ASK, *MODEL, "--top", "2"]))
    assert status == 0 and re.fullmatch(r"( *\d+\.\d%  \S.*\n){2}", out)
    status, out, _ = uniter("find", place.picture, "the circle", "--model", place.models / "grounding")
    assert status == 0 and re.fullmatch(r" *\d+\.\d%  (\d+\.\d ?){4}\n", out)
    search = ["search", place.data / "images", "a circle", "--model", place.models / "matching", "--store", place.out]
    status, out, _ = uniter(*search, "--top", 3, "--quiet")
    assert status == 0 and len(out.splitlines()) == 3 and str(place.data / "images") in out


@pytest.mark.parametrize(("task", "model"), [("vqa", "answers"), ("refcoco", "grounding"), ("retrieval", "pretrained")])
def test_predictions_are_scored_like_the_model_that_made_them(task, model, place, uniter):
    shared = [task, *(filled(a, place) for a in EVALUATE[2:]), "--quiet"]
    status, measured, _ = uniter("evaluate", *shared, "--model", place.models / model)
    assert status == 0
    file = place.folder / "predictions"
    status, out, _ = uniter("predict", *shared, "--model", place.models / model, "--out", file)
    assert status == 0 and out.startswith(f"{file}: ") and file.is_file()
    score = ["score", task, *(filled(a, place) for a in SCORE[2:]), "--predictions", file]
    status, scored, _ = uniter(*score)
    measured, scored = json.loads(measured), json.loads(scored)
    assert status == 0 and scored == {key: measured[key] for key in scored}
    assert measured.keys() - scored.keys() == ({"upper_bound"} if task == "refcoco" else set())  # what regions allow
    status, with_regions, _ = uniter(*score, "--regions", place.regions)
    assert status == 0 and json.loads(with_regions) == measured


def test_as_a_program(place):
    """Once for real: the installed entry point, a Ctrl-C-free process, its exit status and its streams."""
    program = [sys.executable, "-m", "uniter"]
    done = subprocess.run([*program, "ask", place.missing, "what?"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"uniter: there is no picture at {place.missing}: check the path\n"
    done = subprocess.run([*program, "recipes", "list"], capture_output=True, text=True)
    assert done.returncode == 0 and "scenes-pretrain" in done.stdout and not done.stderr
