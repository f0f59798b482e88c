"""A folder of the embedded world in the benchmarks' own layouts, for the tasks to read as they read public files.

Captions and questions are laid out here, referring expressions in `uniter.scenes.references`, hypotheses, statements
about two pictures and choices in `uniter.scenes.reasoning`. What a benchmark calls by a name that another has too lies
in a folder of the benchmark's name, about the same pictures.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from uniter import draws
from uniter.files import replacing, write_bytes, write_json
from uniter.scenes.draw import draw
from uniter.scenes.language import ANSWERS, Question, captions, questions
from uniter.scenes.reasoning import metadata, write_choices, write_hypotheses, write_statements
from uniter.scenes.references import KINDS, ROOM, write_references
from uniter.scenes.retrieval_captions import coco_captions, flickr_captions
from uniter.scenes.words import VALUES, tokens
from uniter.scenes.world import SPLITS, Scene, make_scene

FORMAT = 1
"""Counts up when a folder made by another version of this file could not be continued."""

CAPTIONS, QUESTIONS = 5, 8
"""Of each picture, how many captions of a style and how many questions there are."""


def make(
    out: str | Path, pictures: Mapping[str, int], seed: int = 0, workers: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Write pictures, all that is said about them and the truth; goes on where it was interrupted.

    A folder that an earlier version completed, which said less, is completed anew: what is there stays as it is.

    Args:
        out: the folder; a `scenes.json` in it says how it was made and whether it is complete.
        pictures: how many pictures of each split, {"train": 1000, "val": 100, ...}.
        seed: the world's seed.
        workers: processes that draw.
        progress: show a bar.

    Returns:
        What is in `scenes.json`: the settings, the numbers of what was written, `"done": true`.

    Raises:
        ValueError: an unknown split, a negative number, or a folder that was made with other settings.
    """
    out = Path(out)
    settings = {"format": FORMAT, "seed": int(seed), "pictures": _checked(pictures)}
    manifest = _open(out, settings)
    if manifest.get("done") and set(manifest["numbers"]) >= {*_STYLES, *KINDS, *_PER_SPLIT}:
        return manifest
    (out / "images").mkdir(parents=True, exist_ok=True)
    wanted = [(split, index) for split, number in settings["pictures"].items() for index in range(number)]
    scenes = [make_scene(seed, split, index) for split, index in wanted]
    there = {path.name for path in (out / "images").iterdir()}
    missing = [scene for scene in scenes if not {scene.file_name, _metadata_name(scene)} <= there]
    _draw_all(out / "images", missing, workers, progress)
    numbers = {"pictures": len(scenes), "things": sum(len(scene.things) for scene in scenes)}
    for kind in _STYLES:
        numbers[kind] = _write_captions(out, kind, scenes, seed)
    numbers |= write_references(out, scenes, seed)
    for kind, write in _PER_SPLIT.items():
        by_split = {split: [scene for scene in scenes if scene.split == split] for split in settings["pictures"]}
        numbers[kind] = sum(write(out, split, members, seed) for split, members in by_split.items())
    write_bytes(out / "truth.jsonl", "".join(json.dumps(asdict(scene)) + "\n" for scene in scenes).encode())
    manifest = settings | {"numbers": numbers, "done": True}
    write_json(out / "scenes.json", manifest, indent=1)
    return manifest


def _checked(pictures: Mapping[str, int]) -> dict[str, int]:
    for split, number in pictures.items():
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}: choose from {', '.join(SPLITS)}")
        if number < 0:
            raise ValueError(f"the number of pictures of {split} must not be negative, got {number}")
    return {split: int(pictures[split]) for split in SPLITS if pictures.get(split)}


def _open(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a folder, after a new one is given its settings and one of other settings is refused."""
    path = out / "scenes.json"
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(not entry.name.startswith(".") for entry in out.iterdir())):
            raise ValueError(f"{out} is there and holds no drawn world (no scenes.json): give a new or an empty folder")
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings, indent=1)
        return dict(settings)
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove {out} and draw again, or use another folder") from None
    for name, value in settings.items():
        if manifest.get(name) != value:
            raise ValueError(
                f"{out} was made with {name} = {manifest.get(name)}, not {value}: "
                "use the same settings or another folder"
            )
    return manifest


def _metadata_name(scene: Scene) -> str:
    return Path(scene.file_name).with_suffix(".json").name


def _draw_one(folder: Path, scene: Scene) -> None:
    """A picture, and its things beside it."""
    path = folder / scene.file_name
    with replacing(folder / _metadata_name(scene), wait=False) as part:
        part.write_text(json.dumps(metadata(scene)), encoding="utf-8")
    if path.exists():  # drawn by a version that wrote no metadata
        return
    with replacing(path, wait=False) as part:
        if path.suffix == ".jpg":
            draw(scene).save(part, format="JPEG", quality=90)
        else:
            draw(scene).save(part, format="PNG")


def _draw_all(folder: Path, scenes: list[Scene], workers: int, progress: bool) -> None:
    if workers <= 1 or len(scenes) < 32:
        for scene in _bar(scenes, len(scenes), progress):
            _draw_one(folder, scene)
        return
    # 'spawn': a fork of a process that has used torch may hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in _bar(pool.map(partial(_draw_one, folder), scenes, chunksize=16), len(scenes), progress):
            pass


def _bar(items: Iterable, total: int, progress: bool) -> Iterable:
    if not progress or not total:
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc="pictures", unit="picture")


def _write_captions(out: Path, kind: str, scenes: list[Scene], seed: int) -> int:
    """Captions of a style, in the layout of Karpathy's files; returns how many."""
    path, folder, write = _STYLES[kind]
    images, total = [], 0
    for number, scene in enumerate(scenes):
        sentences = [
            {"raw": text, "tokens": tokens(text), "imgid": number, "sentid": total + k}
            for k, text in enumerate(write(scene, seed, CAPTIONS))
        ]
        total += len(sentences)
        sentids = [sentence["sentid"] for sentence in sentences]
        image = {"imgid": number, "filename": scene.file_name, "split": scene.split}
        image |= {"filepath": folder, "cocoid": scene.image_id} if folder else {}
        images.append(image | {"sentids": sentids, "sentences": sentences})
    (out / path).parent.mkdir(exist_ok=True)
    name = Path(path).stem.removeprefix("dataset_")
    write_json(out / path, {"dataset": name, "images": images})
    return total


def _write_questions(out: Path, split: str, scenes: list[Scene], seed: int) -> int:
    """`v2_OpenEnded_scenes_{split}_questions.json`, `v2_scenes_{split}_annotations.json`, in the layout of VQA v2."""
    asked, answered = [], []
    for scene in scenes:
        for k, question in enumerate(questions(scene, seed, QUESTIONS)):
            ids = {"image_id": scene.image_id, "question_id": scene.image_id * ROOM + k}
            asked.append(ids | {"question": question.text})
            answered.append(
                ids
                | {
                    "question_type": question.kind,
                    "answer_type": _answer_type(question.answer),
                    "multiple_choice_answer": question.answer,
                    "answers": _ten_answers(question, seed, ids["question_id"]),
                }
            )
    head: dict[str, Any] = {
        "info": {"description": "The embedded world of uniter", "version": str(FORMAT), "url": "", "year": 2025},
        "license": {"name": "MIT", "url": ""},
        "data_type": "scenes",
        "data_subtype": split,
    }
    about = head | {"task_type": "Open-Ended", "questions": asked}
    write_json(out / f"v2_OpenEnded_scenes_{split}_questions.json", about)
    write_json(out / f"v2_scenes_{split}_annotations.json", head | {"annotations": answered})
    return len(asked)


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"


def _ten_answers(question: Question, seed: int, question_id: int) -> list[dict[str, Any]]:
    """What ten people would say: up to two of them slip, so the true answer's soft score stays 1."""
    random = draws.generator(seed, "slips", question_id)
    slips = set(random.choice(10, int(random.choice(3, p=(0.6, 0.3, 0.1))), replace=False).tolist())
    same_kind = [answer for answer in _answers_of(question) if answer != question.answer]
    people = []
    for number in range(10):
        slip = number in slips
        answer = same_kind[int(random.integers(len(same_kind)))] if slip else question.answer
        confidence = "maybe" if slip else "yes"
        people.append({"answer": answer, "answer_confidence": confidence, "answer_id": number + 1})
    return people


def _answers_of(question: Question) -> tuple[str, ...]:
    if question.kind in VALUES:
        return VALUES[question.kind]
    if question.kind == "count":  # who miscounts is one off
        number = int(question.answer)
        return tuple(str(n) for n in (number - 1, number, number + 1) if str(n) in ANSWERS)
    return ("yes", "no")


_PER_SPLIT: dict[str, Callable[[Path, str, list[Scene], int], int]] = {
    "questions": _write_questions,
    "hypotheses": write_hypotheses,
    "statements": write_statements,
    "choices": write_choices,
}
"""Of each kind that has files of its own for each split, what writes those of one and counts what it wrote."""

_STYLES: dict[str, tuple[str, str, Callable[[Scene, int, int], list[str]]]] = {
    "captions": ("dataset_scenes.json", "", captions),
    "captions_flickr30k": ("flickr30k/dataset_flickr30k.json", "", flickr_captions),
    "captions_coco": ("coco/dataset_coco.json", "images", coco_captions),
}
"""Of each kind of captions, the file, the folder that it names for each picture (COCO) and what writes them."""
