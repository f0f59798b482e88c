"""Hypotheses, statements about two pictures and choices in the layouts of SNLI-VE, NLVR2 and VCR."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uniter.files import write_text
from uniter.scenes.choices import Words, choices
from uniter.scenes.comparisons import comparison_set
from uniter.scenes.entailment import hypotheses
from uniter.scenes.world import Scene

HYPOTHESES, CHOICES = 8, 2
"""Of each picture, how many hypotheses and how many questions with choices there are (at most)."""

PICTURES_PER_SET = 2
"""For each so many pictures there is a set of sentences about pairs of them."""

_SNLI_VE_SPLITS = {"val": "dev"}
_NLVR2_SPLITS = {"val": "dev", "test": "test1"}


def write_hypotheses(out: Path, split: str, scenes: Sequence[Scene], seed: int) -> int:
    """`snli_ve_{train,dev,test,novel}.jsonl`, in the layout of SNLI-VE but for the premises' own sentences.

    Args:
        out: the folder.
        split: of the world; the file has the benchmark's name for it.
        scenes: the split's pictures.
        seed: the world's seed.

    Returns:
        How many there are.
    """
    records = []
    for scene in scenes:
        stem = Path(scene.file_name).stem
        for k, (text, label) in enumerate(hypotheses(scene, seed, HYPOTHESES)):
            caption_id = f"{stem}.jpg#{k}"  # the benchmark writes .jpg whatever the file is
            ids = {"Flickr30K_ID": stem, "captionID": caption_id, "pairID": f"{caption_id}r1{label[0]}"}
            records.append({"annotator_labels": [label], "gold_label": label, "sentence2": text} | ids)
    return _write_lines(out / f"snli_ve_{_SNLI_VE_SPLITS.get(split, split)}.jsonl", records)


def write_statements(out: Path, split: str, scenes: Sequence[Scene], seed: int) -> int:
    """`{train,dev,test1,novel}.json`, in the layout of NLVR2: what is said of each pair of pictures, a record a line.

    A set's sentences are said of all its pairs, so that they count for consistency. The pictures are the world's own,
    named by the ends of `left_url` and `right_url`. One picture alone makes no pair. Arguments as above.
    """
    split, records = _NLVR2_SPLITS.get(split, split), []
    for number in range(len(scenes) // PICTURES_PER_SET):
        found = comparison_set(scenes, seed, number)
        for k, (text, answers) in enumerate(found.sentences):
            for pair, ((left, right), answer) in enumerate(zip(found.pairs, answers, strict=True)):
                about = {"identifier": f"{split}-{number}-{pair}-{k}", "sentence": text, "label": str(answer)}
                urls = {"left_url": f"images/{left.file_name}", "right_url": f"images/{right.file_name}"}
                records.append(about | urls)
    return _write_lines(out / f"{split}.json", records)


def write_choices(out: Path, split: str, scenes: Sequence[Scene], seed: int) -> int:
    """`{train,val,test,novel}.jsonl`, in the layout of VCR, test with its labels; objects are named by their shapes.

    `uniter.scenes.write` puts each picture's `metadata` beside it. Arguments as above.
    """
    records: list[dict[str, Any]] = []
    for scene in scenes:
        objects = [thing.shape for thing in scene.things]
        for k, choice in enumerate(choices(scene, seed, CHOICES)):
            texts: dict[str, list] = {"question": _tokens(choice.question)}
            texts["answer_choices"] = [_tokens(answer) for answer in choice.answers]
            texts["rationale_choices"] = [_tokens(rationale) for rationale in choice.rationales]
            labels = {"answer_label": choice.answer, "rationale_label": choice.rationale}
            ids = {"annot_id": f"{split}-{len(records)}", "img_id": f"{split}-{scene.index}", "question_number": k}
            files = {"img_fn": scene.file_name, "metadata_fn": Path(scene.file_name).with_suffix(".json").name}
            records.append(ids | files | {"movie": "scenes", "objects": objects} | texts | labels)
    return _write_lines(out / f"{split}.jsonl", records)


def metadata(scene: Scene) -> dict[str, Any]:
    """A picture's things as VCR's metadata have them: boxes x1 y1 x2 y2 in pixels and a score, no outlines."""
    return {
        "boxes": [[*thing.box, 1.0] for thing in scene.things],
        "segms": [[] for _ in scene.things],
        "names": [thing.shape for thing in scene.things],
        "width": scene.width,
        "height": scene.height,
    }


def _tokens(words: Words) -> list[str | list[int]]:
    return [word if isinstance(word, str) else list(word) for word in words]


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    lines = [json.dumps(record) + "\n" for record in records]
    write_text(path, "".join(lines))
    return len(lines)
