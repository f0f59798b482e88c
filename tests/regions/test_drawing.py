import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from uniter.cli import app
from uniter.regions.drawing import COLOURS, draw_regions, region_names, show
from uniter.regions.regions import Regions
from uniter.regions.store import Store, StoreWriter


def two(width=200, height=100, **fields):
    boxes = np.array([[20, 20, 120, 80], [150, 60, 200, 100]], np.float32)
    return Regions(np.zeros((2, 3), np.float32), boxes, width, height, **fields)


def colour(number):
    return tuple(int(COLOURS[number][i : i + 2], 16) for i in (1, 3, 5))


def test_boxes_stand_where_they_are_and_names_beside():
    image = Image.new("RGB", (200, 100), "white")
    drawn = draw_regions(image, two(scores=np.array([0.9, 0.5])), ["cat", "dog"])
    assert drawn.width > 800 and image.getpixel((20, 20)) == (255, 255, 255)  # four times as large, and the names
    for number, (x1, y1, x2, y2) in enumerate(two().boxes * 4):
        edge = [(x1, (y1 + y2) / 2), (x2 - 2, (y1 + y2) / 2), ((x1 + x2) / 2, y1), ((x1 + x2) / 2, y2 - 2)]
        assert [drawn.getpixel((round(x), round(y))) for x, y in edge] == [colour(number)] * 4
    names = np.asarray(drawn)[:, 800:].reshape(-1, 3)
    assert all((names == colour(number)).all(1).any() for number in range(2))
    one = draw_regions(image, two(), ["cat", "dog"], top=1)
    assert not (np.asarray(one) == colour(1)).all(2).any()


def test_fractions_and_boxes_at_the_edge_can_be_drawn():
    boxes = np.array([[0, 0, 1, 1], [0.99, 0.99, 1, 1], [0.5, 0.5, 0.5, 0.5]], np.float32)
    regions = Regions(np.zeros((3, 3), np.float32), boxes, 1, 1)
    assert draw_regions(Image.new("RGB", (30, 300)), regions, ["", "Straße", "猫"]).height == 900


def test_names_are_of_the_most_probable_class():
    probs = np.array([[0.9, 0.02, 0.08], [0.1, 0.5, 0.4]], np.float32)
    assert region_names(two(class_probs=probs), ["background", "cat", "dog"]) == ["dog", "cat"]
    assert region_names(two(class_probs=probs), None) == ["class 2", "class 1"]
    assert region_names(two(), None) == ["", ""]


def test_command_draws_what_a_store_holds(world, tmp_path):
    name = Store(world.regions).names[0]
    said = ["show", str(world.regions), name, "--images", str(world.data / "images"), "--out"]
    for file, more in (("plain.png", []), ("words.png", ["--detector", "scenes"])):
        run = CliRunner().invoke(app, [*said, str(tmp_path / file), *more])
        assert run.exit_code == 0, run.output
    plain, words = Image.open(tmp_path / "plain.png"), Image.open(tmp_path / "words.png")
    assert words.width > plain.width >= 900  # attributes take room
    assert show(world.regions, name, tmp_path / "blank.png") == len(Store(world.regions)[name])


def test_what_is_wrong_is_named(world, tmp_path):
    name = Store(world.regions).names[0]

    def refused(said, *arguments, **more):
        with pytest.raises(ValueError, match=said):
            show(*arguments, **more)

    refused("did you mean", world.regions, f"other/{name}", tmp_path / "a.png")
    refused("PNG", world.regions, name, tmp_path / "a.jpg")
    refused("--images", world.regions, name, tmp_path / "a.png", detector="scenes")
    (tmp_path / "there.png").write_bytes(b"")
    refused("exists already", world.regions, name, tmp_path / "there.png")
    Image.new("RGB", (10, 90)).save(tmp_path / "long.png")
    with StoreWriter(tmp_path / "store", "other") as writer:
        writer.add("long.png", two())
    refused("10 x 90", tmp_path / "store", "long.png", tmp_path / "a.png", images=tmp_path)
    Image.new("RGB", (100, 50)).save(tmp_path / "long.png")
    refused("other", tmp_path / "store", "long.png", tmp_path / "a.png", images=tmp_path, detector="scenes")
    assert not (tmp_path / "a.png").exists()
