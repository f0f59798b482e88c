"""Hypotheses, statements about two pictures and choices: read by their tasks, true, balanced, and no use without looking."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from scenes_reader import RELATIONS, _has, _inside, fitting, read, related, skeleton

from uniter.regions.extract import extract
from uniter.regions.store import Store
from uniter.scenes.choices import choices
from uniter.scenes.comparisons import PAIRS, comparison_set
from uniter.scenes.entailment import LABELS, hypotheses
from uniter.scenes.reasoning import HYPOTHESES, metadata
from uniter.scenes.words import SYNONYMS, tokens
from uniter.scenes.world import HELD_OUT, SPLITS, make_scene
from uniter.scenes.write import make
from uniter.tasks.base import load

SCENES = [make_scene(0, split, index) for split in SPLITS for index in range(60)]
PICTURES = {"train": 12, "val": 6, "test": 2, "novel": 6}


@pytest.fixture(scope="module")
def said():
    return [(scene, text, label) for scene in SCENES for text, label in hypotheses(scene, 0, 10)]


@pytest.fixture(scope="module")
def sets():
    by_split = {split: [scene for scene in SCENES if scene.split == split] for split in SPLITS}
    return [comparison_set(by_split[split], 0, number) for split in SPLITS for number in range(60)]


@pytest.fixture(scope="module")
def chosen():
    return [(scene, choice) for scene in SCENES for choice in choices(scene, 0, 3)]


# ------------------------------------------------------------ hypotheses

_PICKED = re.compile(
    r"(?:some of the # has been picked, and it is|somebody picked some of the #: it is|i am thinking of some of the #, "
    r"which is|of the # in the picture, the some that was picked is|the # that i am thinking of is|somebody has chosen "
    r"some of the # here, and that some is) (not )?(V|a #|P|R the #)"
)
_BEYOND = r"(?:here or outside the picture|in the picture or beyond its edge|in view or out of view)"
_COUNTED = r"(?:counting those outside the picture|with those beyond the edge|together with those out of view)"


def without_ones(text):
    """The text with another word for "one", which is no number in "one of the stars" and "the left one"."""
    return re.sub(r"\bone\b", "some", text.lower())


def picked(scene, text):
    """The label of a sentence about one of several things that nobody names, or None."""
    form, found = skeleton(without_ones(text))
    if not (match := _PICKED.fullmatch(form)):
        return None
    members, how = fitting(scene, found[0]), match[2]
    if how.startswith("R"):
        (anchor,) = fitting(scene, found[2])
        answers = [related(scene, found[1], thing, anchor) for thing in members if thing is not anchor]
    elif how == "P":
        answers = [_inside(scene, found[1], thing) for thing in members]
    else:
        answers = [_has(thing, found[1]) for thing in members]
    answers = {answer != bool(match[1]) for answer in answers}
    return "neutral" if len(answers) == 2 else ("entailment" if answers == {True} else "contradiction")


def beyond(scene, half):
    """Whether what is said of the picture and of what is outside is so: True, False, "open"; None: not understood."""
    form, found = skeleton(half)
    if match := re.fullmatch(rf"(?:{_BEYOND} )?there is (a|no) #(?: {_BEYOND})?", form):
        return {(True, "a"): True, (True, "no"): False}.get((bool(fitting(scene, found[0])), match[1]), "open")
    if match := re.fullmatch(rf"{_COUNTED} there (?:is|are) (at least|no fewer than|at most|no more than) N #", form):
        count, least = len(fitting(scene, found[1])), match[1] in ("at least", "no fewer than")
        if least:
            return True if count >= found[0] else "open"
        return False if count > found[0] else "open"
    return None


def both_halves(scene, text):
    """The label of a sentence of two halves, or None."""
    text = text.lower().rstrip(".")
    either, joint = text.startswith("either "), ", or " if text.startswith("either ") else ", and "
    halves = text.removeprefix("either ").split(joint)
    if len(halves) != 2:
        return None
    open_ = [beyond(scene, half) for half in halves]
    plain = [read(scene, half) for half, said in zip(halves, open_) if said is None]
    values = [*plain, *(said for said in open_ if said is not None)]
    if len(plain) != 1 or plain[0] is None:
        return None
    decided, other = (True, False) if either else (False, True)
    if decided in values:
        return "entailment" if decided else "contradiction"
    return "neutral" if "open" in values else ("entailment" if other else "contradiction")


def test_another_reader_finds_the_same_labels(said):
    understood = defaultdict(Counter)
    for scene, text, label in said:
        for form, reader in (("picked", picked), ("halves", both_halves)):
            verdict = reader(scene, text)
            if verdict is not None:
                assert verdict == label, (text, scene.file_name)
                understood[form][label] += 1
    assert all(understood["picked"][label] > 0.15 * len(said) for label in LABELS)
    assert all(understood["halves"][label] > 0.02 * len(said) for label in LABELS)


def test_hypotheses_are_balanced_and_their_words_do_not_tell(said):
    shares = np.array(list(Counter(label for _, _, label in said).values())) / len(said)
    assert len(said) > 6 * len(SCENES) and len(shares) == 3
    assert shares.max() < 0.37
    assert without_looking([(text, label) for _, text, label in said]) < 1 / 3 + 0.05


def without_looking(examples):
    """The share that naive Bayes on words and pairs of words gets right of every other scene's sentences."""
    counts, labels = defaultdict(Counter), Counter()
    half = len(examples) // 2
    features = lambda text: {*tokens(text), *zip(tokens(text), tokens(text)[1:])}
    for text, label in examples[:half]:
        labels[label] += 1
        counts[label].update(features(text))
    score = lambda text, label: sum(np.log((counts[label][f] + 1) / (labels[label] + 2)) for f in features(text))
    guesses = [max(sorted(labels), key=lambda label: score(text, label)) for text, _ in examples[half:]]
    return np.mean([guess == label for guess, (_, label) in zip(guesses, examples[half:])])


def test_the_measure_notices_words_that_tell(said):
    assert without_looking([(f"{text} {label}", label) for _, text, label in said]) > 0.9


# ------------------------------------------------------------ two pictures


def compared(sides, text):
    """Whether a sentence is true of two pictures; None: this reader does not know the form."""
    form, found = skeleton(without_ones(text))
    counts = lambda what: dict(zip(("left", "right"), (len(fitting(scene, what)) for scene in sides)))
    if match := re.fullmatch(r"the (left|right) picture has (more|fewer) # than the (left|right) some", form):
        numbers = counts(found[0])
        one, two = numbers[match[1]], numbers[match[3]]
        return one > two if match[2] == "more" else one < two
    if re.fullmatch(r"both pictures have the same number of #", form):
        return len(set(counts(found[0]).values())) == 1
    if match := re.fullmatch(
        r"(both pictures show|exactly some of the pictures shows|neither picture shows) a #", form
    ):
        shown = sum(number > 0 for number in counts(found[0]).values())
        return shown == {"both": 2, "exactly": 1, "neither": 0}[match[1].split()[0]]
    if match := re.fullmatch(r"only the (left|right) picture shows a #", form):
        return {side for side, number in counts(found[0]).items() if number} == {match[1]}
    if match := re.fullmatch(r"the pictures show (at least|exactly|at most|more than) N # in total", form):
        number, total = found[0], sum(counts(found[1]).values())
        return {
            "at least": total >= number,
            "exactly": total == number,
            "at most": total <= number,
            "more than": total > number,
        }[match[1]]
    return None


def test_each_sentence_is_true_of_half_of_its_pairs(sets):
    understood = total = 0
    for found in sets:
        assert len(found.pairs) == PAIRS and all(left != right for left, right in found.pairs)
        for text, answers in found.sentences:
            assert sum(answers) == PAIRS // 2, text
            total += 1
            for sides, answer in zip(found.pairs, answers):
                verdict = compared(sides, text)
                if verdict is not None:
                    assert verdict == answer, text
                    understood += 1
    assert total > 1.9 * len(sets)
    assert understood > 0.3 * PAIRS * total


def test_few_pictures_make_few_pairs():
    two = [make_scene(0, "test", index) for index in range(2)]
    for number in range(10):
        found = comparison_set(two, 0, number)
        assert {tuple(scene.index for scene in sides) for sides in found.pairs} == {(0, 1), (1, 0)}
        assert all(sum(answers) == 1 for _, answers in found.sentences)
    assert len({sides for k in range(20) for sides in comparison_set(SCENES[:3], 0, k).pairs}) == 6


# ------------------------------------------------------------ choices

_VALUES = {spelling: value for value, spellings in SYNONYMS.items() for spelling in spellings}


def references(words):
    return [word[0] for word in words if not isinstance(word, str)]


def stated(words):
    return next((field for field, said in FIELDS.items() if set(said) & set(words)), None)


FIELDS = {"colour": ("colour", "color"), "texture": ("pattern", "texture")}


def relation_of(words):
    text = " ".join(word if isinstance(word, str) else "#" for word in words)
    return next((name for name, phrases in RELATIONS.items() if any(f" {phrase} " in text for phrase in phrases)), None)


def value_of(words):
    """The last word of a text that is a colour or a texture."""
    return next(_VALUES.get(word, word) for word in reversed(words) if isinstance(word, str) and word != ".")


def truths(scene, choice):
    """Which answers and, under the right one, which rationales are true, read from the words alone."""
    things, (target,) = scene.things, references(choice.question)
    field, relation = stated(choice.question), relation_of(choice.question)
    if choice.kind == "value":
        own = getattr(things[target], field)
        answers = [value_of(answer) == own for answer in choice.answers]
        rationales = [getattr(things[references(said)[-1]], field) == own for said in choice.rationales]
    elif choice.kind == "same":
        own = getattr(things[target], field)
        answers = [getattr(things[references(answer)[0]], field) == own for answer in choice.answers]
        rationales = [value_of(said) == own for said in choice.rationales]
    else:
        answers = [related(scene, relation, things[references(a)[0]], things[target]) for a in choice.answers]
        (right,) = references(choice.answers[choice.answer])
        middles = [next(n for n in references(said) if n not in (right, target)) for said in choice.rationales]
        link = lambda a, b: related(scene, relation, things[a], things[b])
        rationales = [link(right, middle) and link(middle, target) for middle in middles]
    return answers, rationales


def test_one_answer_and_one_rationale_are_true(chosen):
    for scene, choice in chosen:
        answers, rationales = truths(scene, choice)
        assert answers == [number == choice.answer for number in range(4)], choice
        assert rationales == [number == choice.rationale for number in range(4)], choice
        assert len(set(choice.answers)) == len(set(choice.rationales)) == 4
    assert min(Counter(choice.kind for _, choice in chosen).values()) > 25
    assert len({scene for scene, _ in chosen}) > 0.4 * len(SCENES)


def test_references_are_singled_out_by_what_is_said_of_them(chosen):
    for scene, choice in chosen:
        for text in (choice.question, *choice.answers, *choice.rationales):
            words = [scene.things[word[0]].shape if not isinstance(word, str) else word for word in text]
            for thing, number in zip(_phrases(words, text), references(text), strict=True):
                assert [scene.things.index(t) for t in fitting(scene, thing)] == [number], (words, scene.file_name)
                if scene.split != "novel":
                    assert (thing.get("colour"), thing.get("shape")) not in HELD_OUT


def _phrases(words, text):
    """The attributes said of each reference: the adjectives before it and its shape."""
    for number, word in enumerate(text):
        if not isinstance(word, str):
            start = max(n for n in range(number) if words[n] == "the")
            yield skeleton(" ".join(words[start : number + 1]))[1][0]


def test_the_words_of_choices_do_not_tell(chosen):
    """What two choices differ by, learnt from half of the questions, does not find the right one of the other half."""
    for name in ("answer", "rationale"):
        four = [[" ".join(map(str, words)) for words in getattr(choice, f"{name}s")] for _, choice in chosen]
        right = [getattr(choice, name) for _, choice in chosen]
        assert max(Counter(right).values()) < 0.33 * len(right)
        half, good, all_ = len(right) // 2, Counter(), Counter()
        for texts, label in zip(four[:half], right[:half]):
            for number, text in enumerate(texts):
                words = {word for word in text.split() if word.isalpha()}
                all_.update(words)
                good.update(words if number == label else ())
        rate = lambda text, good=good, all_=all_: np.mean([(good[w] + 1) / (all_[w] + 4) for w in text.split()])
        guesses = [int(np.argmax([rate(text) for text in texts])) for texts in four[half:]]
        share = np.mean(np.array(guesses) == np.array(right[half:]))
        assert share < 0.25 + 4 * np.sqrt(0.25 * 0.75 / (len(right) - half)), (name, share)


# ------------------------------------------------------------ files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("reasoning") / "scenes"
    make(out, PICTURES, seed=1, progress=False)
    return out


@pytest.fixture(scope="module")
def store(folder):
    report = extract(folder / "images", folder.parent / "regions", progress=False)
    assert not report.failures and report.images == sum(PICTURES.values())  # the metadata beside them are no pictures
    return Store(folder.parent / "regions")


def numbers(folder):
    return json.loads((folder / "scenes.json").read_text())["numbers"]


def test_hypotheses_are_read_by_their_task(folder, store):
    task, total = load("snli_ve")(folder, store), 0
    for split, pictures in PICTURES.items():
        examples = task.examples(split)
        assert all(example.image in store and f"_{split}_" in example.image for example in examples)
        assert len({example.image for example in examples}) >= pictures - 1  # three things alike leave nothing to say
        assert len({example.name for example in examples}) == len(examples) <= HYPOTHESES * pictures
        total += len(examples)
    assert total == numbers(folder)["hypotheses"]


def test_statements_are_read_by_their_task(folder, store):
    task, total = load("nlvr2")(folder, store), 0
    for split in PICTURES:
        examples = task.examples(split)
        assert all(name in store and f"_{split}_" in name for example in examples for name in example.images)
        assert len({example.identifier for example in examples}) == len(examples)
        assert np.mean([example.label for example in examples]) == 0.5
        by_text = defaultdict(set)
        for example in examples:
            by_text[example.text, example.identifier.split("-")[1]].add(example.label)
        assert all(labels == {True, False} for labels in by_text.values())
        constant = [{"identifier": example.identifier, "label": True} for example in examples]
        scores = task.score(constant, examples)
        assert (scores["accuracy"], scores["consistency"]) == (50.0, 0.0)
        total += len(examples)
    assert total == numbers(folder)["statements"]


def test_choices_are_read_by_their_task(folder, store, tmp_path):
    extract(folder / "images", tmp_path / "annotated", annotated=True, progress=False)
    task, total = load("vcr")(folder, store, gt_regions=str(tmp_path / "annotated")), 0
    objects = {scene.file_name: scene for scene in _scenes(folder)}
    for split in ("train", "val", "novel"):
        examples = task.examples(split)
        for example in examples:
            scene = objects[example.image[-1]]
            held, name = task.home(example.image[0])
            boxes = np.array([thing.box for thing in scene.things], dtype=np.float32)
            np.testing.assert_allclose(held[name].boxes, boxes, atol=0.5)
            assert set(example.question.split()) & {thing.shape for thing in scene.things}
        assert len({example.annot_id for example in examples}) == len(examples)
        assert task.score(task.perfect(examples), examples)["Q->AR"] == 100.0
        total += len(examples)
    rest = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert total + len(rest) == numbers(folder)["choices"]


def _scenes(folder):
    return [make_scene(1, split, index) for split, number in PICTURES.items() for index in range(number)]


def test_metadata_lie_beside_their_pictures(folder):
    for scene in _scenes(folder):
        beside = (folder / "images" / scene.file_name).with_suffix(".json")
        assert json.loads(beside.read_text()) == json.loads(json.dumps(metadata(scene)))
        assert len(metadata(scene)["boxes"]) == len(metadata(scene)["names"]) == len(metadata(scene)["segms"])


def test_a_folder_of_an_earlier_version_is_completed(folder, tmp_path):
    """That wrote no hypotheses, statements, choices and metadata; what it wrote stays as it is."""
    make(tmp_path, PICTURES, seed=1, progress=False)
    for name in ("train.json", "train.jsonl", "snli_ve_dev.jsonl"):
        (tmp_path / name).unlink()
    for path in (tmp_path / "images").glob("*.json"):
        path.unlink()
    manifest = json.loads((tmp_path / "scenes.json").read_text())
    for kind in ("hypotheses", "statements", "choices"):
        del manifest["numbers"][kind]
    (tmp_path / "scenes.json").write_text(json.dumps(manifest))
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()}
    make(tmp_path, PICTURES, seed=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn
    files = lambda place: {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert files(tmp_path) == files(folder)
