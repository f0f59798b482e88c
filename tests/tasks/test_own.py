"""One's own data: each kind from file to numbers, and each way in which the file can be wrong."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fixtures
from uniter.recipe import parse_recipe, shipped_recipes
from uniter.regions import Regions
from uniter.run import evaluate, predict, run, score
from uniter.tasks.base import load

REGIONS = {f"pictures/{k}.jpg": fixtures.random_regions(k, 4) for k in range(3)}
LINE = {"image": "pictures/0.jpg", "text": "a red dog"}


def rows(path, *lines, separator=",", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=separator).writerows(lines)
    return path


def task_on(folder, *records, name="own_labels", **options):
    fixtures.write_lines(folder / "mine.jsonl", list(records))
    return load(name)(folder, REGIONS, fixtures.processor(), **options)


def error_of(path, text, name="own_labels", split="train", regions=REGIONS):
    """The one line that a file is refused by, without the path."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError) as caught:
        load(name)(path, regions, fixtures.processor()).examples(split)
    message = str(caught.value)
    assert message.startswith(f"{path}") and "\n" not in message
    return message.removeprefix(str(path)).lstrip(",: ")


# ---------------------------------------------------------------- reading


def test_csv_tsv_and_json_lines_say_the_same(tmp_path):
    head, lines = ["Image", "text", "label"], [["0.jpg", 'a "red", big\tdog\n', "yes"], ["pictures/1", "é", "no"]]
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        for encoding in ("utf-8", "utf-8-sig"):  # spreadsheets put a mark before the first line
            task = load("own_labels")(
                rows(tmp_path / name, head, *lines, separator=separator, encoding=encoding), REGIONS
            )
            examples = task.examples("train")
            assert [(e.text, e.image, e.label) for e in examples] == [
                ('a "red", big\tdog\n', "pictures/0.jpg", "yes"),
                ("é", "pictures/1.jpg", "no"),
            ]
            assert [e.name for e in examples] == [2, 4]  # a text may go over two lines
    records = [dict(zip(("image", "text", "label"), line, strict=True)) for line in lines]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n\n" for record in records)
    for mark in ("", "\ufeff"):
        (tmp_path / "a.jsonl").write_text(mark + text, encoding="utf-8")
        found = load("own_labels")(tmp_path / "a.jsonl", REGIONS).examples("train")
        assert [(e.name, e.text, e.label) for e in found] == [(1, lines[0][1], "yes"), (3, "é", "no")]


def test_the_data_is_the_file_or_its_folder(tmp_path):
    task = task_on(tmp_path, LINE | {"label": "yes"})
    assert load("own_labels")(tmp_path / "mine.jsonl").examples("train") == load("own_labels")(tmp_path).examples(
        "train"
    )
    rows(tmp_path / "other.csv", ["image", "text", "label"], ["pictures/0.jpg", "b", "no"])
    with pytest.raises(ValueError, match=r"mine.jsonl, other.csv are all there; say which by the option `file`"):
        task.examples("train")
    assert load("own_labels")(tmp_path, file="other.csv").labels == ["no"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.jsonl, \.csv or \.tsv file is there; put yours into this folder"):
        load("own_labels")(tmp_path / "empty").examples("train")
    (tmp_path / "odd.txt").write_text("x")
    with pytest.raises(ValueError, match=r"odd.txt: neither \.jsonl"):
        load("own_labels")(tmp_path / "odd.txt").examples("train")


def test_without_splits_all_is_train_and_all_is_all(tmp_path):
    task = task_on(tmp_path, *(LINE | {"text": f"{k}", "label": "yes"} for k in range(3)))
    assert task.examples("train") == task.examples("all") and len(task.examples("all")) == 3
    with pytest.raises(ValueError, match=r"mine.jsonl: nothing in split 'val'; it has train: give the lines a `split`"):
        task.examples("val")


def test_labels_are_those_of_train_by_the_alphabet_and_may_be_numbers(tmp_path):
    said = ["b", 7, True, "a"]
    task = task_on(tmp_path, *(LINE | {"label": label, "split": "train"} for label in said))
    assert task.config()["id2label"] == {0: "7", 1: "a", 2: "b", 3: "true"}
    assert task.target(task.examples("train")).argmax(1).tolist() == [2, 0, 3, 1]


def test_a_model_brings_its_labels_where_the_file_has_none(tmp_path):
    task = task_on(tmp_path, LINE, LINE | {"text": "a cat"})
    model = task.model(fixtures.tiny_config(num_labels=2, id2label={0: "up", 1: "down"}))
    said = task.predict(model, task.examples("all"))
    assert [p["line"] for p in said] == [1, 2] and {p["label"] for p in said} <= {"up", "down"}
    with pytest.raises(ValueError, match="1 has no label"):
        task.score(said, task.examples("all"))
    with pytest.raises(ValueError, match="no line of split train has a `label` to learn"):
        task_on(tmp_path, LINE).config()
    for config in ({"num_labels": 2}, {"num_labels": 2, "id2label": {0: "up", 1: "left"}}):
        with pytest.raises(ValueError, match="fine-tuned on own_labels"):
            task_on(tmp_path, LINE | {"label": "up"}).predict(task.model(fixtures.tiny_config(**config)), [task])


def test_one_answer_counts_in_full_and_ten_as_in_vqa(tmp_path):
    ten = ["two"] * 4 + ["three"] * 2 + ["4"] * 4
    task = task_on(tmp_path, LINE | {"answer": "The dog"}, LINE | {"answer": ten}, name="own_answers")
    examples = task.examples("train")
    assert task.answers == ["2", "dog"]
    assert task.target(examples).tolist() == [[0, 1], [1, 0]]
    said = [{"question_id": 1, "answer": "dog"}, {"question_id": 2, "answer": "3"}]
    assert task.score(said, examples)["accuracy"] == pytest.approx(100 * (1 + (8 * 2 + 2 * 1) / 30) / 2)
    assert task_on(tmp_path, LINE | {"answer": 2}, name="own_answers").answers == ["2"]


def test_a_box_may_be_written_in_three_ways(tmp_path):
    boxes = ["10 20 30.5 40", "10, 20, 30.5, 40"]
    path = rows(tmp_path / "a.csv", ["image", "text", "box"], *(["pictures/0.jpg", "dog", box] for box in boxes))
    assert {e.box for e in load("own_boxes")(path, REGIONS).examples("train")} == {(10, 20, 30.5, 40)}
    assert task_on(tmp_path / "b", LINE | {"box": [10, 20, 30.5, 40]}, name="own_boxes").examples("train")[0].box == (
        (10, 20, 30.5, 40)
    )


def test_images_go_by_the_end_of_their_names(tmp_path):
    task = task_on(tmp_path, *(LINE | {"image": name} for name in ("pictures/1.jpg", "1.jpg", "1", "1.png")))
    assert {e.image for e in task.examples("train")} == {"pictures/1.jpg"}


# ---------------------------------------------------------------- what is wrong with a file

HEAD = "image,text,label\n"
IMAGE = "pictures/0.jpg"


def jsonl(*records):
    return "\n".join(map(json.dumps, records))


WRONG = {  # file name, content, task: what is said
    "missing column": ("a.jsonl", jsonl(LINE, {"image": IMAGE}), "own_labels", "line 2: no `text`: give each line"),
    "missing image": ("a.jsonl", jsonl({"text": "x"}), "own_labels", "line 1: no `image`: give each line"),
    "empty text": ("a.csv", f'{HEAD}{IMAGE},a,b\n{IMAGE}," ",b\n', "own_labels", "line 3: no `text`: give each line"),
    "no record": ("a.jsonl", jsonl(LINE, [1]), "own_labels", 'line 2: a list: write {"image": ..., "text": ...}'),
    "no JSON": ("a.jsonl", jsonl(LINE) + "\n{'image'", "own_labels", "line 2: not JSON"),
    "no UTF-8": ("a.csv", HEAD.encode("utf-16"), "own_labels", "not UTF-8"),
    "wrong header": ("a.csv", "picture,caption\nx,y\n", "own_captions", "line 1: no column `image` among picture, caption"),
    "no header": ("a.csv", f"{IMAGE},a dog,yes\n", "own_labels", "line 1: no column `image` among pictures/0.jpg, a dog"),
    "misspelt header": ("a.csv", "image,text,lable\nx,y,z\n", "own_labels", "line 1: column 'lable': did you mean label?"),
    "misspelt key": ("a.jsonl", jsonl(LINE, LINE | {"boxs": 1}), "own_captions", "line 2: column 'boxs': did you mean box?"),
    "twice": ("a.csv", "image,text,text\n", "own_captions", "line 1: column 'text' is there twice"),
    "tabs": ("a.csv", "image\ttext\n", "own_captions", "line 1: columns are parted by tabs, not by commas: name the file .tsv"),
    "semicolons": ("a.csv", "image;text\n", "own_captions", "line 1: columns are parted by semicolons, not by commas: save"),
    "commas": ("a.tsv", "image,text\n", "own_captions", "line 1: columns are parted by commas, not by tabs: name it .csv"),
    "bare comma": ("a.csv", f"{HEAD}{IMAGE},a,b\n\n{IMAGE},a, b,c\n", "own_labels", "line 4: 4 columns, the first line names 3"),
    "open quote": ("a.csv", f'{HEAD}{IMAGE},"a,b\n', "own_labels", "line 2: not CSV"),
    "nothing": ("a.csv", "", "own_captions", "no lines; give each an image and a text"),
    "only a header": ("a.csv", HEAD, "own_labels", "no lines; give each an image and a text"),
    "unknown image": ("a.csv", f"{HEAD}{IMAGE},a,b\npictures/O.jpg,a,b\n", "own_labels", "line 3: no image 'pictures/O.jpg' among the 3 with"),
    "another folder": ("a.csv", "image,text\nother/0.jpg,a\n", "own_captions", "line 2: no image 'other/0.jpg' among the 3 with regions; did you mean pictures/0.jpg?"),
    "three numbers": ("a.csv", f"image,text,box\n{IMAGE},a,1 2 3\n", "own_boxes", "line 2: box '1 2 3' is not four numbers: write x1 y1 x2 y2"),
    "no numbers": ("a.jsonl", jsonl(LINE | {"box": [1, 2, True, "x"]}), "own_boxes", "line 1: box [1, 2, True, 'x'] is not four numbers"),
    "not finite": ("a.jsonl", jsonl(LINE | {"box": [1, 2, 3, 1e999]}), "own_boxes", "line 1: box [1, 2, 3, inf] is not four numbers"),
    "width and height": ("a.jsonl", jsonl(LINE | {"box": [100, 50, 20, 30]}), "own_boxes", "line 1: box [100, 50, 20, 30] has no inside"),
    "outside": ("a.jsonl", jsonl(LINE | {"box": [600, 50, 660, 90]}), "own_boxes", "line 1: box [600, 50, 660, 90] reaches out of its picture (640 x 480 pixels)"),
    "left of it": ("a.jsonl", jsonl(LINE | {"box": [-9, 50, 60, 90]}), "own_boxes", "line 1: box [-9, 50, 60, 90] reaches out of its picture"),
    "no box": ("a.jsonl", jsonl(LINE), "own_boxes", "line 1: no `box`"),
    "mixed": ("a.jsonl", jsonl(LINE | {"answer": "a"}, LINE | {"box": [1, 2, 3, 4]}), "own_answers", "line 2: a box, where task own_answers wants answer: such files are for own_boxes"),
    "both": ("a.csv", f"image,text,answer,box\n{IMAGE},a,b,1 2 3 4\n", "own_answers", "line 2: both answer and box: a file is of one kind"),
    "another task's": ("a.csv", f"{HEAD}{IMAGE},a,b\n", "own_captions", "line 2: a label, where task own_captions wants image and text only: such files are for own_labels"),
    "some labels": ("a.csv", f"{HEAD}{IMAGE},a,b\n{IMAGE},a,\n", "own_labels", "line 3: no label, though line 2 of the same split has one"),
    "some splits": ("a.jsonl", jsonl(LINE, LINE | {"split": "val"}), "own_captions", "line 2: some lines have a `split` and some have none"),
    "odd split": ("a.jsonl", jsonl(LINE | {"split": 3}), "own_captions", "line 1: split 3 is no text: write train, val or test"),
    "odd label": ("a.jsonl", jsonl(LINE | {"label": ["a"]}), "own_labels", "line 1: label ['a'] is no text: write one label's name"),
    "odd answer": ("a.jsonl", jsonl(LINE | {"answer": ["a"] * 9}), "own_answers", "line 1: answer ['a', 'a',"),
    "no answer": (
        "a.csv",
        f"image,text,answer\n{IMAGE},b,The\n",
        "own_answers",
        "line 2: answer 'The' is nothing by the rules of VQA",
    ),
    "unknown split": ("a.csv", f"image,text,split\n{IMAGE},a,dev\n", "own_captions", "nothing in split 'train'; it has dev: give the lines"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_that_names_file_line_and_mend(case, tmp_path):
    file, text, name, said = WRONG[case]
    assert said in error_of(tmp_path / file, text, name)
    assert error_of(tmp_path / file, text, name).startswith(said)


def test_a_label_that_train_lacks_is_named(tmp_path):
    text = jsonl(LINE | {"label": "yes", "split": "train"}, LINE | {"label": "Yes", "split": "val"})
    said = error_of(tmp_path / "a.jsonl", text, split="val")
    assert said.startswith("line 2: label 'Yes' is none of those in split train (yes): correct it")


def test_an_image_that_two_pictures_may_be_is_named(tmp_path):
    stored = {**REGIONS, "more/0.jpg": REGIONS["pictures/0.jpg"]}
    said = error_of(tmp_path / "a.csv", "image,text\n0.jpg,a\n", "own_captions", regions=stored)
    assert said == "line 2: image '0.jpg' may be pictures/0.jpg or more/0.jpg: write its folder too"


def test_without_regions_a_box_is_held_against_what_can_be_known(tmp_path):
    said = error_of(tmp_path / "a.jsonl", jsonl(LINE | {"box": [-9, 0, 4, 4]}), "own_boxes", regions=None)
    assert "reaches out of its picture (from 0 on pixels)" in said
    (tmp_path / "a.jsonl").write_text(jsonl(LINE | {"box": [0, 0, 4000, 4]}))
    assert load("own_boxes")(tmp_path / "a.jsonl").examples("all")[0].box == (0, 0, 4000, 4)


def test_regions_that_are_fractions_are_refused_for_boxes_in_pixels(tmp_path):
    boxes = np.array([[0.1, 0.1, 0.5, 0.5]], np.float32)
    stored = {"pictures/0.jpg": Regions(np.ones((1, fixtures.FEATURES), np.float32), boxes, 1, 1)}
    fixtures.write_lines(tmp_path / "mine.jsonl", [LINE | {"box": [10, 10, 50, 50]}])
    task = load("own_boxes")(tmp_path, stored)
    with pytest.raises(ValueError, match="nothing says the size of image"):
        task.examples("train")


# ---------------------------------------------------------------- from file to numbers


@pytest.mark.parametrize("name", fixtures.OWN)
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_two_steps_and_a_measurement(name, ending, world, tmp_path):
    pictures = [f"{picture.name}" for picture in sorted((world.data / "images").iterdir()) if picture.suffix != ".json"]
    records, _ = fixtures.own_lines(name)
    path = tmp_path / f"mine{ending}"
    for number, record in enumerate(records):
        record["image"] = pictures[number // 2]
    if name == "own_boxes":
        records = [record | {"box": [4, 5, 60, 70]} for record in records]
    if ending == ".jsonl":
        fixtures.write_lines(path, records)
    else:
        texts = [[" ".join(map(str, v)) if isinstance(v, list) else v for v in record.values()] for record in records]
        rows(path, list(records[0]), *texts)
    recipe = parse_recipe(
        f"kind: finetune\ntask: {name}\nmodel: {{from: {world.models / 'pretrained'}}}\ndata: {path}\n"
        f"regions: {world.regions}\ntrain: {{steps: 2, tokens: 512, learning_rate: 1.0e-3, device: cpu}}"
    )
    result = run(recipe, tmp_path / "run", progress=False)
    assert result.finished and result.steps == 2
    numbers = evaluate(name, path, world.regions, "val", result.model)
    assert result.best == pytest.approx(numbers[load(name).monitor])
    assert predict(name, path, world.regions, "val", result.model, [], tmp_path / "said") == 4
    scored = score(name, path, "val", tmp_path / "said", regions=world.regions)
    assert scored == pytest.approx(numbers)


def test_a_model_learns_ones_own_labels(tmp_path):
    task = fixtures.make_case("own_labels", tmp_path).task()
    model, examples = fixtures.tiny_model(task, initializer_range=0.02), task.examples("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        task.step(model, task.batch(examples)).backward()
        optimizer.step()
    assert task.evaluate(model, examples)["accuracy"] == 100.0


def test_what_the_docs_show_is_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "your_data.md").read_text(encoding="utf-8")
    example = "".join(line[4:] + "\n" for line in page.split("|")[0].splitlines() if line.startswith("    "))
    (tmp_path / "mine.csv").write_text(example)
    task = load("own_labels")(tmp_path / "mine.csv")
    assert [e.text for split in ("train", "val") for e in task.examples(split)] == [
        "a dog on a sofa",
        "a dog, asleep",
        "a dog outside",
    ]
    assert list(task.labels) == ["false", "true"]
    assert set(re.findall(r"`(own_\w+)`", page)) == set(fixtures.OWN)
    assert set(re.findall(r"recipes copy ([\w-]+)", page)) <= set(shipped_recipes())
