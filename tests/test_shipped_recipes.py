"""Every recipe that ships with the package runs as it is typed, at tiny size: two steps, and two under `parity: official`."""

import shutil

import pytest

import published
from uniter.recipe import load_recipe, shipped_recipes
from uniter.run import run

CANDIDATES = {"scenes": 5, "published": 33}  # of 8 and of 36 images


@pytest.fixture(scope="module")
def place(world, tmp_path_factory):
    """Where the recipes' own paths, relative to the working folder, lead somewhere."""
    pytest.importorskip("lmdb")
    root = tmp_path_factory.mktemp("published")
    published.write_everything(root)
    shutil.copytree(world.data, root / "data" / "scenes")
    shutil.copytree(world.regions, root / "data" / "scenes" / "regions")
    return root


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Drawing takes longer than the updates of these runs."""
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)


def changes(recipe) -> list[str]:
    """What has to be smaller for a recipe to run here."""
    found = ["train.steps=2", "train.device=cpu", "train.validate_every=2"]
    # 9 examples then make a batch under the published sampler
    found += [f"train.max_examples={min(recipe.train.max_examples or 8, 8)}"]
    found += [f"train.accumulate={min(recipe.train.accumulate, 2)}"]
    if recipe.kind == "finetune":
        scenes = str(recipe.data) == "data/scenes"
        if "candidates" in recipe.options:
            found.append(f"options.candidates={CANDIDATES['scenes' if scenes else 'published']}")
        if scenes and recipe.task == "vqa":
            found.append("options.least=1")
    return found


@pytest.mark.parametrize("parity", ["mended", "official"])
@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_runs_two_steps(name, parity, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    recipe = load_recipe(name)
    result = run(load_recipe(name, [*changes(recipe), f"parity={parity}"]), tmp_path / "run", progress=False)
    assert result.finished and result.steps == 2 and (result.model / "model.safetensors").is_file()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_opens_with_its_command_and_fits_a_line(name):
    lines = shipped_recipes()[name].splitlines()
    assert lines[0].startswith(f"# uniter {load_recipe(name).kind} {name} --out runs/")
    assert max(map(len, lines)) <= 120
