"""A model on one's own pictures: ask, find, match, search, align."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from uniter.alignment import Alignment, By, inner_words, word_region_maps
from uniter.files import write_json
from uniter.modeling_uniter import (
    UniterForAnswers,
    UniterForGrounding,
    UniterForMatching,
    UniterModel,
    UniterPreTrainedModel,
)
from uniter.pair_scoring import score_all
from uniter.processing_uniter import Pair, UniterProcessor
from uniter.regions import Regions
from uniter.regions.detectors import Detector, load_detector
from uniter.regions.extract import extract, list_pictures
from uniter.regions.pictures import open_picture, upright_rgb
from uniter.regions.store import Store, StoreWriter
from uniter.remote import cache_folder as cache_folder

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "assets" / "models"
HEADS: dict[str, type[UniterPreTrainedModel]] = {
    "answers": UniterForAnswers,
    "grounding": UniterForGrounding,
    "matching": UniterForMatching,
    "trunk": UniterModel,
}
# Which heads a saved class can serve; a pre-training checkpoint matches zero-shot, by its ITM head.
SERVES = {
    "UniterForAnswers": ("answers",),
    "UniterForGrounding": ("grounding",),
    "UniterForMatching": ("matching", "trunk"),
    "UniterForPreTraining": ("matching", "trunk"),
    "UniterModel": ("trunk",),
}
# Of several models that could serve a head, the one made for it: fine-tuned matching, alignment as pre-training taught.
FIRST = {"matching": "UniterForMatching", "trunk": "UniterForPreTraining"}
Picture = str | os.PathLike | Image.Image


@dataclass(frozen=True)
class Answer:
    """An answer and its score: the model's probability of it, between 0 and 1."""

    text: str
    score: float


@dataclass(frozen=True)
class Found:
    """A region that fits a phrase: box (pixels x1 y1 x2 y2), score (a share of 1 over all regions) and its number."""

    box: tuple[float, float, float, float]
    score: float
    region: int


@dataclass(frozen=True)
class Hit:
    """A picture that fits a text, and its score: higher is better; the shipped models mean a match above 0."""

    picture: Path
    score: float


def check_detector(trained_on: str | None, given: str | None, model: object, regions: object) -> None:
    """Refuse regions of another detector than the model was trained on.

    Raises:
        ValueError: the fingerprints differ.
    """
    if trained_on is not None and trained_on != given:
        mend = (
            "import them with its name (uniter import-regions ... --detector)"
            if given is None
            else "extract the pictures with the model's detector"
        )
        raise ValueError(
            f"{model} was trained on regions of detector {trained_on}, {regions} comes from "
            f"{given or 'one that nobody named'}: {mend}, or train a model on these regions"
        )


def check_vocabulary(model: UniterPreTrainedModel, processor: UniterProcessor, folder: object) -> None:
    """Refuse a vocabulary of another size than the model's word table.

    Raises:
        ValueError: the sizes differ.
    """
    if model.config.vocab_size != len(processor.vocabulary):
        raise ValueError(
            f"{folder} has {model.config.vocab_size} word pieces, the vocabulary {len(processor.vocabulary)}: use the "
            "vocab.txt that the model was trained with (in a recipe: leave `vocabulary` out)"
        )


def _saved_kinds(config: Path) -> list[str]:
    """The classes of a saved model."""
    try:
        return list(json.loads(config.read_text(encoding="utf-8")).get("architectures") or [])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{config} is damaged ({error}): copy or train the model again") from None


class Uniter:
    """Models and the detector that they were trained with, ready for pictures.

    Args:
        models: folder of a saved model for each head ("answers", "grounding", "matching", "trunk").
        detector: finds the regions.
    """

    def __init__(self, models: dict[str, Path], detector: Detector):
        self.folders, self.detector = models, detector
        self._models: dict[str, UniterPreTrainedModel] = {}
        self._processors: dict[str, UniterProcessor] = {}

    @classmethod
    def load(cls, model: str | os.PathLike | None = None, detector: str | os.PathLike = "scenes") -> "Uniter":
        """The shipped models, or the model in a folder (or in the folders directly below it, one a head).

        Args:
            model: folder of a saved model or of several; the shipped ones if left out.
            detector: name or folder.

        Raises:
            ValueError: the folder holds no model.
        """
        folder = SHIPPED if model is None else Path(model)
        if not folder.is_dir():
            raise ValueError(f"there is no model folder {folder}: give a folder with config.json and model.safetensors")
        places = (
            [folder] if (folder / "config.json").is_file() else sorted(p.parent for p in folder.glob("*/config.json"))
        )
        models: dict[str, Path] = {}
        for place in places:
            for kind in _saved_kinds(place / "config.json"):
                for head in SERVES.get(kind, ()):
                    if head not in models or FIRST.get(head) == kind:
                        models[head] = place
        if not models:
            raise ValueError(f"{folder} holds no saved model: give a folder with config.json and model.safetensors")
        return cls(models, load_detector(detector))

    # ------------------------------------------------------------ verbs

    def regions(self, picture: Picture) -> Regions:
        """The regions that the detector finds in a picture (a path or a PIL image)."""
        image = upright_rgb(picture) if isinstance(picture, Image.Image) else open_picture(picture)
        return self.detector.detect([image])[0]

    def ask(self, picture: Picture | Regions, question: str, top: int = 3) -> list[Answer]:
        """The most probable answers to a question about a picture, best first.

        Raises:
            ValueError: the question is empty or longer than the model reads; no model with an answer head.
        """
        model, batch = self._batch("answers", [question], [self._seen(picture)])
        scores = torch.sigmoid(self._run(model, batch).logits[0].float())
        best = scores.topk(min(top, len(scores)))
        names: Any = model.config.id2label or {}
        return [Answer(names[int(i)], float(s)) for s, i in zip(best.values, best.indices, strict=True)]

    def find(self, picture: Picture | Regions, phrase: str, top: int = 1) -> list[Found]:
        """The regions that a phrase refers to, best first.

        Raises:
            ValueError: as in `ask`.
        """
        regions = self._seen(picture)
        model, batch = self._batch("grounding", [phrase], [regions])
        scores = self._run(model, batch).logits[0].float().softmax(0)
        best = scores.topk(min(top, len(scores)))
        found = []
        for score, region in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            x1, y1, x2, y2 = regions.boxes[region].tolist()
            found.append(Found((x1, y1, x2, y2), score, region))
        return found

    def match(self, picture: Picture | Regions, texts: Sequence[str]) -> list[float]:
        """How well each text fits a picture: higher is better (above 0 of the shipped models: they belong together)."""
        if not texts:
            return []
        model, batch = self._batch("matching", texts, [self._seen(picture)] * len(texts))
        return self._run(model, batch).logits.float().tolist()

    def search(
        self,
        folder: str | os.PathLike,
        text: str,
        top: int = 5,
        store: str | os.PathLike | None = None,
        progress: bool = False,
    ) -> list[Hit]:
        """The pictures of a folder that fit a text, best first.

        The pictures' regions are found once and kept; a later search reads them again, and finds those of pictures that
        are new or have changed.

        Args:
            folder: pictures, searched with all folders in it.
            text: what to look for.
            top: how many pictures to give back.
            store: where regions are kept; by default a folder in the user's cache.
            progress: show a progress bar while regions are found.

        Raises:
            ValueError: no picture in the folder, or the text is empty or longer than the model reads.
        """
        model: Any = self._check("matching", [text])
        kept = self._kept(Path(folder), None if store is None else Path(store), progress)
        names = {name for name, _ in list_pictures(folder)}
        names = [name for name in kept.names if name in names]
        sizes = np.array([kept.num_regions(name) for name in names], dtype=np.int64)
        (ids,) = self._processors["matching"].tokens([text])
        with torch.inference_mode():
            (scores,) = score_all(model, [ids.input_ids], sizes, lambda image: kept[names[image]], tokens=4096)
        ranked = sorted(zip(scores.tolist(), names, strict=True), key=lambda pair: (-pair[0], pair[1]))
        return [Hit(Path(folder) / name, score) for score, name in ranked[:top]]

    def align(
        self,
        picture: Picture | Regions,
        text: str,
        by: By = "transport",
        layers: Sequence[int] | None = None,
        **settings: Any,
    ) -> Alignment:
        """Which word goes with which region, by the model that pre-training taught to align.

        Args:
            picture: a path, a PIL image or its regions.
            text: a sentence.
            by: "transport": the transport plan of the last layer, without CLS and SEP; "attention": how much of each
                word's attention goes to each region, the mean over the heads of some layers.
            layers: whose attention, from 1; all if left out.
            settings: of transport: `beta` and `iterations` of `transport.transport_plan`.

        Raises:
            ValueError: as in `ask`; the model has no such layer; a setting of the one was given for the other.
        """
        regions = self._seen(picture)
        model, batch = self._batch("trunk", [text], [regions])
        batch = {key: value.to(self.device) for key, value in batch.items()}
        processor = self._processors["trunk"]
        inner = inner_words(batch, processor.vocabulary)
        found = word_region_maps(model, batch, inner, by, layers, **settings)
        words = processor.words(batch["input_ids"][inner].tolist())
        return Alignment(words, found.plans[0], regions, found.distances[0], by)

    # ------------------------------------------------------------ parts

    @cached_property
    def device(self) -> torch.device:
        """Where models run: the first GPU if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _seen(self, picture: Picture | Regions) -> Regions:
        return picture if isinstance(picture, Regions) else self.regions(picture)

    def _model(self, head: str) -> UniterPreTrainedModel:
        if head not in self.folders:
            raise ValueError(
                f"no model with a head for {head} among {', '.join(sorted({str(f) for f in self.folders.values()}))}: "
                "fine-tune one (uniter finetune), or leave the model out to use the shipped one"
            )
        if head not in self._models:
            folder = self.folders[head]
            model = HEADS[head].from_pretrained(folder)
            check_detector(model.config.detector, self.detector.fingerprint, folder, "the detector")
            processor = UniterProcessor.from_pretrained(folder)
            check_vocabulary(model, processor, folder)
            self._models[head] = model.to(self.device)  # pyrefly: ignore[bad-argument-type]  # its wrapper has no self
            self._processors[head] = processor
        return self._models[head]

    def _check(self, head: str, texts: Sequence[str]) -> UniterPreTrainedModel:
        model = self._model(head)
        processor = self._processors[head]
        for text in texts:
            if not text.strip():
                raise ValueError("the text is empty: write at least one word")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"the text is not valid UTF-8: {text[:40]!r}: type it again") from None
            pieces = processor.count(text)
            if pieces > processor.max_text:
                raise ValueError(
                    f"the text has {pieces} word pieces, the model reads at most {processor.max_text}: shorten it"
                )
        return model

    def _batch(
        self, head: str, texts: Sequence[str], regions: Sequence[Regions]
    ) -> tuple[UniterPreTrainedModel, dict[str, Tensor]]:
        model, processor = self._check(head, texts), self._processors[head]
        batch = processor.collate([processor.encode(Pair(t, r)) for t, r in zip(texts, regions, strict=True)])
        return model, batch

    @torch.inference_mode()
    def _run(self, model: UniterPreTrainedModel, batch: dict[str, Tensor]):
        output = model(**{key: value.to(self.device) for key, value in batch.items()})
        return type(output)(**{key: value.cpu() for key, value in output.items() if isinstance(value, Tensor)})

    def _kept(self, folder: Path, store: Path | None, progress: bool) -> Store:
        """The regions of a folder's pictures: those at hand, and the missing ones found now."""
        pictures = list_pictures(folder)
        if store is None:
            key = hashlib.sha256(f"{folder.resolve()}\n{self.detector.fingerprint}".encode()).hexdigest()[:20]
            store = cache_folder() / "regions" / key
            _drop_changed(pictures, store)
        else:
            _warn_of_changed(pictures, store)
        extract(folder, store, self.detector, progress=progress)
        return Store(store)


def _drop_changed(pictures: list[tuple[str, Path]], store: Path) -> None:
    """Leave in a store of the cache only what is known to be of the pictures as they are now.

    Beside the store lies a file with size and time of each picture, as they were when its regions were looked for.
    """
    file = store.with_name(f"{store.name}.json")
    now = {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in pictures}
    if store.exists():
        try:
            kept = Store(store)
            then = json.loads(file.read_text(encoding="utf-8"))
            same = [name for name in kept.names if name in now and then.get(name) == now[name]]
        except (ValueError, OSError, AttributeError):  # a cache that is damaged is made again
            shutil.rmtree(store)
        else:
            if any(name in now and then.get(name) != now[name] for name in kept.names):
                fresh = store.with_name(f"{store.name}.new")
                shutil.rmtree(fresh, ignore_errors=True)
                with StoreWriter(fresh, kept.detector, kept.class_names, kept.attribute_names) as writer:
                    for name in same:
                        writer.add(name, kept[name])
                kept.close()
                shutil.rmtree(store)
                fresh.rename(store)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, now)


def _warn_of_changed(pictures: list[tuple[str, Path]], store: Path) -> None:
    """Say so if a store of the user's own may hold the regions of an older picture of the same name."""
    index = store / "index.json"
    if not index.is_file():
        return
    written, kept = index.stat().st_mtime_ns, Store(store)
    changed = [path for name, path in pictures if name in kept and path.stat().st_mtime_ns > written]
    if changed:
        log.warning(
            "%d picture(s) newer than the regions kept in %s, such as %s: remove the store to look at them again",
            len(changed),
            store,
            changed[0],
        )
