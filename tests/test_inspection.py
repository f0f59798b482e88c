"""Examples drawn with what a model says of them: of every task there is, and of the drawn world's."""

import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import fixtures
from uniter.alignment import inner_words, word_region_maps
from uniter.drawing import Mark, label_places
from uniter.inspection import Drawing, draw_examples
from uniter.processing_uniter import UniterProcessor
from uniter.regions import Regions
from uniter.regions.store import Store
from uniter.run import predict
from uniter.tasks.base import Task, load, names
from uniter.tasks.classification import Classification
from uniter.tasks.reading import stem

VOID = {"meta", "img"}


@dataclass
class Section:
    """What a page says of one example."""

    title: str
    text: str = ""
    bars: list = field(default_factory=list)  # (text, ticked, percent)
    rects: list = field(default_factory=list)
    alts: list = field(default_factory=list)
    tables: list = field(default_factory=list)  # of each map the rows: (word, values, what is read aloud)


class Page(HTMLParser):
    """The sections of a page; refuses tags that are not closed and anything from elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.sections: list[Section] = []
        self._open: list[str] = []
        self._said = ""
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in VOID:
            self._open.append(tag)
        assert not re.match("https?:|//", given.get("src", "") + given.get("href", ""))
        if tag == "img":
            assert given["src"].startswith("data:image/jpeg;base64,") and given["alt"].strip()
        if tag in ("h2", "li", "th"):
            self._said = ""
        section = self.sections[-1] if self.sections else None
        if section is not None:
            if tag == "rect":
                section.rects.append(given)
            if tag == "img":
                section.alts.append(given["alt"])
            if tag == "table":
                section.tables.append([])
            if tag == "tr" and "data-row" in given:
                section.tables[-1].append([given["data-word"], [float(v) for v in given["data-row"].split()]])

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "h2":
            self.sections.append(Section(self._said))
        if not self.sections:
            return
        if tag == "li":
            text, percent = re.fullmatch(r"(.*) ([\d.]+)%", self._said, re.DOTALL).groups()
            self.sections[-1].bars.append((text.split(" ✓")[0], "✓" in text, float(percent)))
        if tag == "th" and self.sections[-1].tables and self.sections[-1].tables[-1]:
            self.sections[-1].tables[-1][-1].append(self._said)

    def handle_data(self, data):
        self._said += data
        if self.sections and "script" not in self._open:
            self.sections[-1].text += data + "\n"


def read(folder) -> list[Section]:
    return Page((folder / "index.html").read_text(encoding="utf-8")).sections


def paint(folder, regions, scale=10):
    """A small picture for every image, named as pictures are."""
    for name in regions:
        bare = stem(name).removeprefix("vcr_gt_train_").removeprefix("nlvr2_")
        path = folder / f"{bare}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (int(fixtures.WIDTH) // scale, int(fixtures.HEIGHT) // scale), (200, 60, 60)).save(path)
    return folder


@pytest.fixture(params=names())
def case(request, tmp_path):
    return fixtures.make_case(request.param, tmp_path / "data")


@pytest.fixture
def no_png(monkeypatch):
    """Writing pictures takes longer than all else."""
    monkeypatch.setattr("uniter.inspection.write_png", lambda sheet, path: None)


def drawn(case, tmp_path, **settings):
    """A task's first two examples, drawn by a random model."""
    task = case.task()
    model = fixtures.tiny_model(task).eval()
    examples = task.examples("train")
    ids = [task.example_id(example, number) for number, example in enumerate(examples)][:2]
    folder = tmp_path / "drawn"
    assert draw_examples(task, model, "train", examples, Drawing(folder, ids=ids, **settings)) == folder / "index.html"
    return task, model, examples[:2], ids, folder


def test_every_task_draws_its_words_boxes_and_answers(case, tmp_path):
    images = paint(tmp_path / "images", case.regions)
    task, model, examples, ids, folder = drawn(case, tmp_path, images=images)
    sections = read(folder)
    assert [section.title for section in sections] == [f"{task.name} · {name}" for name in ids]
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 2 and {p.name for p in folder.iterdir()} == {"index.html", *(p.name for p in pictures)}
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width == 1300 and image.height > 400
            shades = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert ((shades == (200, 60, 60)).all(1)).sum() > 5000  # the picture is on it
    for section, example in zip(sections, examples, strict=True):
        view = task.view(model, example, task.examples("train"))
        for kind, text in view.texts:
            assert f"{kind}:" in section.text and text in section.text
        assert section.alts[0].startswith(task.picture_name(view.panels[0].image))
        count = sum(len(panel.regions) for panel in view.panels)
        assert sum("data-region" in rect for rect in section.rects) == count
        said = [(text, share) for _, outcomes in view.outcomes for text, share, _ in outcomes]
        assert [bar[0] for bar in section.bars] == [text for text, _ in said]
        assert [bar[2] for bar in section.bars] == pytest.approx([100 * share for _, share in said], abs=0.051)
        assert len(section.tables) == 2 * len(view.panels)  # by transport and by attention
        for panel, table in zip(np.repeat(view.panels, 2), section.tables, strict=True):
            inner = inner_words(view.batch, task.processor.vocabulary)[panel.row]
            assert [word for word, *_ in table] == task.processor.words(
                view.batch["input_ids"][panel.row][inner].tolist()
            )
            assert all(len(values) == len(panel.regions) for _, values, _ in table)


def test_maps_by_attention_are_the_attention_of_the_forward_pass(case, tmp_path, no_png):
    task, model, examples, _, folder = drawn(case, tmp_path, layers=[2])
    for section, example in zip(read(folder), examples, strict=True):
        view = task.view(model, example, examples)
        with torch.inference_mode():
            hidden = model.uniter(**view.batch, output_hidden_states=True).hidden_states[1]
        layer = model.uniter.encoder.layer[1].attention.self
        for number, panel in enumerate(view.panels):
            text, real = view.batch["text_mask"][panel.row], view.batch["region_mask"][panel.row]
            states = hidden[panel.row][torch.cat([text, real])]
            query, key = (
                part(states).view(len(states), layer.heads, -1).transpose(0, 1) for part in (layer.query, layer.key)
            )
            expected = (query @ key.transpose(1, 2) / query.shape[2] ** 0.5).softmax(-1).mean(0)
            ids = view.batch["input_ids"][panel.row][text]
            words = [
                i for i, piece in enumerate(ids.tolist()) if piece not in (task.vocabulary.cls, task.vocabulary.sep)
            ]
            first = len(ids) + panel.first
            expected = expected[words][:, first : first + len(panel.regions)].detach().numpy()
            values = np.array([row[1] for row in section.tables[2 * number + 1]])
            np.testing.assert_allclose(values, expected, atol=6e-4)  # written with three digits
            assert (expected.sum(1) <= 1 + 1e-6).all()


def test_maps_by_transport_are_its_plan(case, tmp_path, no_png):
    task, model, examples, _, folder = drawn(case, tmp_path)
    view = task.view(model, examples[0], examples)
    inner = inner_words(view.batch, task.vocabulary)
    plans = word_region_maps(model, view.batch, inner).plans
    for number, panel in enumerate(view.panels):
        plan = plans[panel.row]
        np.testing.assert_allclose(plan.sum(1), 1, atol=1e-5)
        lift = np.clip(plan * plan.shape[1] - 1, 0, None)[:, panel.first : panel.first + len(panel.regions)]
        values = np.array([row[1] for row in read(folder)[0].tables[2 * number]])
        np.testing.assert_allclose(values, lift, atol=6e-4)


# ---------------------------------------------------------------- what a task shows of its own


def one(name, tmp_path, number=0, **options):
    case = fixtures.make_case(name, tmp_path / "data")
    task = case.task(**options)
    model = fixtures.tiny_model(task).eval()
    examples = task.examples("train")
    task.adopt(model)
    return task, examples[number], task.view(model, examples[number], examples)


def test_vqa_ticks_the_best_answer_and_says_what_the_others_count(tmp_path):
    _, example, view = one("vqa", tmp_path)
    assert set(example.answers) == {"red", "green"}  # of 7 and of 3 people
    ((kind, outcomes),) = view.outcomes
    assert kind == "answer" and [o.text for o in outcomes if o.true] == ["red"]
    assert "green (counts 0.9)" in [o.text for o in outcomes]


def test_refcoco_shows_the_chosen_and_the_true_box(tmp_path, no_png):
    task, example, view = one("refcoco", tmp_path)
    (panel,) = view.panels
    assert panel.true_box == example.box
    x1, y1, x2, y2 = panel.regions.boxes[panel.chosen]
    assert view.prediction["pred_box"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    assert view.outcomes[0][1][0].text == f"region {panel.chosen + 1}"
    folder = tmp_path / "drawn"
    draw_examples(task, fixtures.tiny_model(task).eval(), "train", [example], Drawing(folder))
    (section,) = read(folder)
    dashed = [rect for rect in section.rects if "stroke-dasharray" in rect]
    x1, y1, x2, y2 = example.box
    assert len(dashed) == 1 and [float(dashed[0][key]) for key in ("x", "y", "width", "height")] == pytest.approx(
        [x1, y1, x2 - x1, y2 - y1], abs=0.051
    )


def test_retrieval_shows_the_best_pictures_of_all(tmp_path):
    task, example, view = one("retrieval", tmp_path)
    images = list(dict.fromkeys(e.image for e in task.examples("train")))
    scores = task.predict(fixtures.tiny_model(task).eval(), task.examples("train"))[0]
    best = [images[i] for i in np.argsort(-scores)[:5]]
    assert [found.image for found in view.found] == best and [f.true for f in view.found] == [
        i == example.image for i in best
    ]
    assert [panel.image for panel in view.panels] == [example.image]
    assert [o.text for o in view.outcomes[0][1]][:5] == best
    assert [o.text for o in view.outcomes[0][1] if o.true] == [example.image]  # wherever it came


@pytest.mark.parametrize("form", ["paired-attn", "paired", "triplet"])
def test_nlvr2_shows_two_pictures(tmp_path, form):
    _, example, view = one("nlvr2", tmp_path, form=form)
    assert [(panel.title, panel.image) for panel in view.panels] == list(
        zip(("left", "right"), example.images, strict=True)
    )
    left, right = view.panels
    assert (left.row, right.row) == ((0, 0) if form == "triplet" else (0, 1))
    assert right.first == (len(left.regions) if form == "triplet" else 0)
    assert [(o.text, o.true) for o in view.outcomes[0][1]] == [("false", False), ("true", True)]


@pytest.mark.parametrize("known", [True, False])
def test_vcr_shows_four_answers_and_four_rationales(tmp_path, known):
    case = fixtures.make_case("vcr", tmp_path / "data")
    if not known:
        path = case.data / "train.jsonl"
        path.write_text(re.sub(r'"(answer|rationale)_label": \d, ', "", path.read_text()))
    task = case.task()
    model, examples = fixtures.tiny_model(task).eval(), task.examples("train")
    example = examples[1]
    assert (example.answer is not None) == known
    view = task.view(model, example, examples)
    (_, answers), (kind, rationales) = view.outcomes
    assert tuple(o.text for o in answers) == example.answers and tuple(o.text for o in rationales) == example.rationales
    assert sum(o.score for o in answers) == pytest.approx(1) and sum(o.score for o in rationales) == pytest.approx(1)
    best = int(np.argmax([o.score for o in answers]))
    under = example.answer if known else best
    assert kind == f"rationale of answer {under + 1}" and view.panels[0].row == best
    assert [o.true for o in answers] == ([i == example.answer for i in range(4)] if known else [None] * 4)
    assert len(view.panels) == 1 and len(view.panels[0].regions) == sum(map(task.num_regions, example.image))


def test_a_fourteenth_task_is_drawn_without_a_line_about_drawing(tmp_path):
    """It gives what every task gives; its head is known, or is not."""

    class Plain(Task):
        model = load("snli_ve").model
        name = "plain"

        def examples(self, split):
            return [
                type("Example", (), {"text": f"the {colour} dog", "image": "1000.jpg"}) for colour in fixtures.COLOURS
            ]

        def config(self):
            return {"num_labels": 2, "id2label": {0: "calm", 1: "busy"}, "label2id": {"calm": 0, "busy": 1}}

        def target(self, examples):
            raise ValueError("nobody says")

        def decode(self, output, examples, batch):
            return output.logits.argmax(1).tolist()

    case = fixtures.make_case("snli_ve", tmp_path / "data")
    task = Plain(case.data, case.regions, fixtures.processor())
    examples, folder = task.examples("any"), tmp_path / "drawn"
    draw_examples(task, fixtures.tiny_model(task).eval(), "any", examples, Drawing(folder, count=3))
    sections = read(folder)
    assert [s.title for s in sections] == ["plain · 0", "plain · 4", "plain · 7"]  # spread over the split
    assert {text for text, *_ in sections[0].bars} == {"calm", "busy"} and not any(
        tick for _, tick, _ in sections[0].bars
    )

    class Strange(Plain):
        name = "strange"
        model = type("OtherHead", (torch.nn.Module,), {})

    model = fixtures.tiny_model(task).eval()
    task = Strange(case.data, case.regions, fixtures.processor())
    draw_examples(task, model, "any", task.examples("any")[:1], Drawing(tmp_path / "other"))
    (section,) = read(tmp_path / "other")
    assert section.bars == [] and "prediction: " in section.text


def test_word_pieces_and_fractions_of_a_database_are_drawn_as_words_and_boxes(tmp_path, no_png):
    """What users of the published databases have: numbers for words, boxes of an image of size 1 x 1, no pictures."""
    case = fixtures.make_case("vqa", tmp_path / "data")
    task = case.task()
    model, example = fixtures.tiny_model(task).eval(), task.examples("train")[0]
    seen = case.regions[example.image]
    boxes = seen.boxes / np.array([seen.width, seen.height] * 2, np.float32)
    task.regions = {**case.regions, example.image: Regions(seen.features, boxes, 1, 1)}
    stored = replace(example, text=tuple(task.processor.pieces("what colour is redog ?")))
    draw_examples(task, model, "train", [stored], Drawing(tmp_path / "drawn"))
    (section,) = read(tmp_path / "drawn")
    assert "what colour is redog ?" in section.text
    assert [word for word, *_ in section.tables[0]][:4] == ["what", "colour", "is", "red"]
    rects = [rect for rect in section.rects if "data-region" in rect]
    first = next(rect for rect in rects if rect["data-region"] == "0")
    expected = boxes[0] * np.array([640, 480, 640, 480])  # of the canvas
    assert [float(first["x"]), float(first["y"])] == pytest.approx(expected[:2], abs=0.06)
    assert float(first["x"]) + float(first["width"]) == pytest.approx(expected[2], abs=0.11)


# ---------------------------------------------------------------- the drawn world


@pytest.mark.parametrize("name", ["vqa", "refcoco", "retrieval", "snli_ve", "nlvr2", "vcr"])
def test_the_drawn_worlds_tasks_show_their_pixels(name, world, tmp_path):
    store = Store(world.regions)
    processor = UniterProcessor.from_pretrained(world.models / "pretrained")
    options = {"vqa": {"least": 1}, "vcr": {"boxes": "detected"}}.get(name, {})
    task = load(name)(world.data, store, processor, **options)
    size = {"region_feature_size": store.feature_size, "vocab_size": len(task.vocabulary)}
    torch.manual_seed(0)
    model = task.model(fixtures.tiny_config(**{**size, **task.config(), "max_position_embeddings": 128})).eval()
    examples = task.examples("val")
    folder = tmp_path / "drawn"
    draw_examples(task, model, "val", examples, Drawing(folder, world.data / "images", 2))
    sections = read(folder)
    assert len(sections) == 2 and len(list(folder.glob("*.png"))) == 2
    if isinstance(task, Classification):
        assert {text for text, *_ in sections[0].bars} == set(task.known_labels())
    kinds = {f"({kind})" for kind in store.class_names[1:]}
    assert any(kind in " ".join(section.alts) for kind in kinds for section in sections)  # in the detector's words


def test_predict_writes_its_file_and_draws(world, tmp_path):
    out, folder = tmp_path / "said.json", tmp_path / "drawn"
    arguments = ["vqa", world.data, [world.regions], "val", world.models / "answers", []]
    count = predict(*arguments, out, drawing=Drawing(folder, world.data / "images", 1))
    assert count > 1 and out.is_file() and len(read(folder)) == 1
    assert predict(*arguments, None, drawing=Drawing(tmp_path / "alone", None, 1)) == 0
    assert len(read(tmp_path / "alone")) == 1  # boxes alone
    with pytest.raises(ValueError, match=r"drawn exists already: remove it or draw into another folder"):
        predict(*arguments, None, drawing=Drawing(folder, None, 1))


# ---------------------------------------------------------------- what is refused


def refused(case, tmp_path, said, model=None, **settings):
    task = case.task()
    model = model or fixtures.tiny_model(task).eval()
    folder = tmp_path / "drawn"
    with pytest.raises(ValueError, match=said) as caught:
        draw_examples(task, model, "train", task.examples("train"), Drawing(folder, **settings))
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir() if "drawn" in p.name] == []


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    case = fixtures.make_case("vqa", tmp_path / "data")
    refused(case, tmp_path, r"vqa has no example '100009' in split train; did you mean 10", ids=["100009"])
    refused(case, tmp_path, r"no example 'x' in split train; they are called 100000, 100001", ids=["x"])
    refused(case, tmp_path, "layer 9: the model has layers 1 to 2", layers=[9])
    refused(case, tmp_path, "there is no folder of pictures .*missing: check the path", images=tmp_path / "missing")
    images = paint(tmp_path / "images", case.regions)
    (images / "COCO_train2014_000000000100.png").unlink()
    said = r"images: no picture 'COCO_train2014_000000000100.jpg' among \d+ files; put it there, or leave --images out"
    refused(case, tmp_path, said, images=images)


def test_what_is_there_already_stays(tmp_path):
    case = fixtures.make_case("vqa", tmp_path / "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for folder in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(ValueError, match="exists already: remove it or draw into another folder"):
            draw_examples(case.task(), fixtures.tiny_model(case.task()), "train", [], Drawing(folder))
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_labels_lie_on_no_other_where_there_is_room():
    marks = [Mark((10, 10, 60, 60), label="1"), Mark((10, 10, 58, 58), label="2"), Mark((0, 0, 100, 100), label="13")]
    places = label_places(marks, 100, 100, 8)
    spans = [(x, y, x + 8 * (0.4 + 0.7 * len(mark.label)), y + 8) for (x, y), mark in zip(places, marks, strict=True)]
    for i, (x1, y1, x2, y2) in enumerate(spans):
        assert 0 <= x1 < x2 <= 100 and 0 <= y1 < y2 <= 100
        for a1, b1, a2, b2 in spans[:i]:
            assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1
