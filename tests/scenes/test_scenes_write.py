import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from uniter.scenes import write
from uniter.scenes.write import make
from uniter.tasks.base import load

PICTURES = {"train": 6, "val": 2, "novel": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    make(out, PICTURES, seed=1, progress=False)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["", "flickr30k", "coco"])
def test_captions_are_laid_out_as_karpathy_does(folder, name):
    content = json.loads((folder / name / f"dataset_{name or 'scenes'}.json").read_text())
    assert content["dataset"] == (name or "scenes")
    assert [image["split"] for image in content["images"]] == ["train"] * 6 + ["val"] * 2 + ["novel"] * 2
    sentids = []
    for number, image in enumerate(content["images"]):
        assert image["imgid"] == number
        assert (folder / "images" / image["filename"]).is_file()
        assert ("filepath" in image) == ("cocoid" in image) == (name == "coco")
        assert image["sentids"] == [sentence["sentid"] for sentence in image["sentences"]]
        assert len(image["sentences"]) == 5
        for sentence in image["sentences"]:
            assert sentence["imgid"] == number
            assert sentence["raw"]
            assert sentence["tokens"] == [word.lower() for word in sentence["tokens"]]
        sentids += image["sentids"]
    assert sentids == list(range(len(sentids)))


def test_questions_are_laid_out_as_vqa_does(folder):
    ids = set()
    for split in PICTURES:
        asked = json.loads((folder / f"v2_OpenEnded_scenes_{split}_questions.json").read_text())
        answered = json.loads((folder / f"v2_scenes_{split}_annotations.json").read_text())
        assert asked["data_subtype"] == answered["data_subtype"] == split
        assert asked["task_type"] == "Open-Ended"
        assert len(asked["questions"]) == len(answered["annotations"])
        for question, annotation in zip(asked["questions"], answered["annotations"]):
            assert question["question_id"] == annotation["question_id"]
            assert question["image_id"] == annotation["image_id"]
            assert any(f"{question['image_id']:012d}" in path.name for path in (folder / "images").iterdir())
            true = annotation["multiple_choice_answer"]
            assert len(annotation["answers"]) == 10
            assert sum(answer["answer"] == true for answer in annotation["answers"]) >= 8
            kinds = {"yes": "yes/no", "no": "yes/no"} | {str(n): "number" for n in range(7)}
            assert annotation["answer_type"] == kinds.get(true, "other")
            ids.add(question["question_id"])
    assert len(ids) == 8 * sum(PICTURES.values())


@pytest.mark.parametrize(
    "place", ["refs(scenes).p", "refcoco+/refs(unc).p", "refcocog/refs(umd).p"], ids=["refcoco", "refcoco+", "refcocog"]
)
def test_references_are_laid_out_as_refcoco_does(folder, place):
    references = pickle.loads((folder / place).read_bytes())
    instances = json.loads(((folder / place).parent / "instances.json").read_text())
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    images = {image["id"]: image for image in instances["images"]}
    assert len(annotations) == len(instances["annotations"])
    assert [reference["ref_id"] for reference in references] == list(range(len(references)))
    sent_ids = [sent_id for reference in references for sent_id in reference["sent_ids"]]
    assert sent_ids == list(range(len(sent_ids)))
    for reference in references:
        about = annotations[reference["ann_id"]]
        assert about["image_id"] == reference["image_id"]
        assert about["category_id"] == reference["category_id"]
        assert images[reference["image_id"]]["file_name"] == reference["file_name"]
        for sentence in reference["sentences"]:
            assert sentence["sent"] == " ".join(sentence["tokens"])
    for annotation in annotations.values():
        image = images[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        assert annotation["area"] == width * height
    for image in images.values():
        with Image.open(folder / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_the_test_pictures_of_refcoco_plus_have_two_sides(tmp_path):
    make(tmp_path, {"val": 1, "test": 12, "novel": 1}, progress=False)
    names = lambda split: {e.image for e in load("refcoco")(tmp_path / "refcoco+").examples(split)}
    sides = names("testA"), names("testB")
    assert all(sides) and not sides[0] & sides[1]
    assert sides[0] | sides[1] == names("testA+testB")
    tested = {e.image for e in load("refcoco")(tmp_path / "refcocog").examples("test")}
    assert len(tested) == 12 and len(names("testA+testB")) > 9 and names("testA+testB") <= tested
    assert names("val") and names("novel")
    with pytest.raises(ValueError, match="nothing in split 'test'; it has novel, testA, testB, val"):
        names("test")


def test_a_folder_that_said_less_is_completed(folder, tmp_path):
    make(tmp_path, PICTURES, seed=1, progress=False)
    manifest = json.loads((tmp_path / "scenes.json").read_text())
    del manifest["numbers"]["references_refcoco+"]
    (tmp_path / "scenes.json").write_text(json.dumps(manifest))
    (tmp_path / "refcoco+" / "refs(unc).p").unlink()
    make(tmp_path, PICTURES, seed=1, progress=False)
    assert contents(tmp_path) == contents(folder)


def test_truth_holds_every_scene(folder):
    scenes = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    assert len(scenes) == sum(PICTURES.values())
    assert {"shape", "colour", "size", "texture", "box"} <= set(scenes[0]["things"][0])


def test_the_same_settings_write_the_same_bytes(folder, tmp_path):
    make(tmp_path, PICTURES, seed=1, progress=False)
    assert contents(tmp_path) == contents(folder)


def test_an_interrupted_run_goes_on(folder, tmp_path, monkeypatch):
    drawn = []
    draw_one = write._draw_one

    def stop_after_four(path, scene):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(scene.file_name)
        draw_one(path, scene)

    monkeypatch.setattr(write, "_draw_one", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, PICTURES, seed=1, progress=False)
    assert "done" not in json.loads((tmp_path / "scenes.json").read_text())
    again = []
    monkeypatch.setattr(write, "_draw_one", lambda path, scene: (again.append(scene.file_name), draw_one(path, scene)))
    make(tmp_path, PICTURES, seed=1, progress=False)
    assert not set(again) & set(drawn)
    assert contents(tmp_path) == contents(folder)
    again.clear()
    assert make(tmp_path, PICTURES, seed=1, progress=False)["done"]
    assert not again


@pytest.mark.parametrize(("pictures", "seed"), [({"train": 7, "val": 2, "novel": 2}, 1), (PICTURES, 2)])
def test_a_folder_of_other_settings_is_refused(folder, pictures, seed):
    with pytest.raises(ValueError, match="another folder"):
        make(folder, pictures, seed=seed, progress=False)


def test_wrong_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no split"):
        make(tmp_path, {"dev": 1})
    with pytest.raises(ValueError, match="negative"):
        make(tmp_path, {"train": -1})


@pytest.mark.slow
def test_several_processes_draw_the_same(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    make(one, {"train": 40}, workers=1, progress=False)
    make(two, {"train": 40}, workers=2, progress=False)
    assert contents(one) == contents(two)
