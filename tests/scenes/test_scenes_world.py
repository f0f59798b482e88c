from dataclasses import replace

import numpy as np
import pytest

from uniter.scenes.draw import draw
from uniter.scenes.shapes import SHAPES, coverage, fine_mask
from uniter.scenes.world import COLOURS, HELD_OUT, SIZES, SPLITS, TEXTURES, VISIBLE, image_id, make_scene, scene_truth

SCENES = [make_scene(0, split, index) for split in SPLITS for index in range(60)]


def solid(thing, scene):
    """The pixels that a thing would cover if nothing were before it."""
    mask = np.zeros((scene.height, scene.width), dtype=bool)
    patch = coverage(fine_mask(thing.shape, thing.diameter, thing.angle)) >= 0.5
    x, y = thing.corner
    mask[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return mask


def test_the_same_arguments_give_the_same_pixels():
    for index in range(5):
        first, second = (draw(make_scene(3, "val", index)) for _ in range(2))
        assert first.tobytes() == second.tobytes()
    assert make_scene(3, "val", 0) != make_scene(4, "val", 0)
    assert make_scene(3, "val", 0).things != make_scene(3, "test", 0).things


def test_pictures_are_of_the_size_they_say():
    for scene in SCENES[::20]:
        picture = draw(scene)
        assert picture.size == (scene.width, scene.height)
        assert picture.mode == "RGB"
        assert 160 <= max(picture.size) <= 320


def test_boxes_are_tight_and_things_stay_visible():
    for scene in SCENES[::3]:
        masks = [solid(thing, scene) for thing in scene.things]
        for number, thing in enumerate(scene.things):
            seen = masks[number].copy()
            for before in masks[number + 1 :]:
                seen &= ~before
            assert seen.sum() >= VISIBLE * masks[number].sum()
            rows, columns = np.nonzero(seen)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert 0 <= thing.box[0] < thing.box[2] <= scene.width
            assert 0 <= thing.box[1] < thing.box[3] <= scene.height


def test_a_thing_is_drawn_where_its_box_is():
    scene = make_scene(0, "train", 5)
    quiet = replace(scene, background=replace(scene.background, grain=0.0))
    for thing in quiet.things:
        alone, empty = (
            np.asarray(draw(replace(quiet, things=things)), dtype=float) for things in ((thing,), quiet.things[:0])
        )
        rows, columns = np.nonzero(np.abs(alone - empty).max(axis=2) > 40)
        full = solid(thing, scene)
        assert np.abs(np.array([columns.min(), rows.min()]) - np.argwhere(full).min(axis=0)[::-1]).max() <= 2


def test_sizes_can_be_told_apart():
    for scene in SCENES:
        for thing in scene.things:
            share = thing.diameter / min(scene.width, scene.height)
            low, high = SIZES[thing.size]
            assert low - 1e-3 <= share <= high + 1e-3
    edges = [edge for size in SIZES.values() for edge in size]
    assert all(after / before > 1.2 for before, after in zip(edges[1::2], edges[2::2]))


def test_held_out_pairs_are_seen_in_novel_only():
    assert 0.08 <= len(HELD_OUT) / (len(SHAPES) * len(COLOURS)) <= 0.12
    for scene in SCENES:
        strange = sum((thing.colour, thing.shape) in HELD_OUT for thing in scene.things)
        assert strange >= 2 if scene.split == "novel" else strange == 0


def test_training_shows_every_value():
    things = [thing for index in range(150) for thing in make_scene(0, "train", index).things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.texture for thing in things} == set(TEXTURES)


def test_ids_are_unique_and_in_the_file_name():
    assert len({scene.image_id for scene in SCENES}) == len(SCENES)
    for scene in SCENES:
        stem, ending = scene.file_name.split(".")
        assert stem == f"scenes_{scene.split}_{scene.image_id:012d}"
        assert ending in ("jpg", "png")
    assert {scene.file_name[-3:] for scene in SCENES} == {"jpg", "png"}


def test_counts_of_things():
    assert {len(scene.things) for scene in SCENES} == set(range(3, 13))


def test_truth():
    scene = SCENES[0]
    truth = scene_truth(scene)
    assert truth["boxes"].shape == (len(scene.things), 4)
    assert truth["boxes"].dtype == np.float32
    for number, thing in enumerate(scene.things):
        assert SHAPES[truth["shapes"][number]] == thing.shape
        assert tuple(COLOURS)[truth["colours"][number]] == thing.colour
        assert tuple(SIZES)[truth["sizes"][number]] == thing.size
        assert TEXTURES[truth["textures"][number]] == thing.texture


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        make_scene(0, "dev", 0)
    with pytest.raises(ValueError, match="index"):
        image_id("train", -1)


def test_the_colour_of_a_thing_is_the_nearest_to_what_is_drawn():
    names = list(COLOURS)
    means = np.array([COLOURS[name] for name in names], dtype=float)
    for scene in SCENES:
        for thing in scene.things:
            assert names[np.abs(means - np.array(thing.paint)).sum(axis=1).argmin()] == thing.colour
