"""Object detectors of transformers': D-FINE, RT-DETR v2, DETR, YOLOS, ...; Grounding DINO, OWLv2 for any words.

A region is a query of the decoder; its feature is the decoder's last state, or what a frozen vision transformer sees in
its box. Some of these detectors score each class by itself: `distribution` says what is made of that.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from uniter.regions.choosing import (
    Selection,
    clip,
    fingerprint_of,
    given_boxes,
    groups,
    half,
    read_name,
    refuse_rest,
    take_settings,
)
from uniter.regions.frozen_vit import FrozenViT
from uniter.regions.hub import pretrained
from uniter.regions.pictures import upright_rgb
from uniter.regions.regions import Regions

BACKGROUND = "background"
SOFTMAX = "softmax"
SIGMOID = "sigmoid, as a distribution: softmax of the logits beside a background of logit 0"
VIT = "vit:"
_SLIMMEST = 16  # times as long as wide is a picture looked at


@dataclass(frozen=True)
class Candidates:
    """What a network offers for one image.

    Args:
        boxes: (Q, 4) fractions x1 y1 x2 y2 of the image.
        probs: (Q, C) class probabilities, background first.
        scores: (Q,) confidences: the network's own probability of the best class.
        states: (Q, F).
    """

    boxes: Tensor
    probs: Tensor
    scores: Tensor
    states: Tensor


def distribution(logits: Tensor, exclusive: bool) -> tuple[Tensor, Tensor]:
    """Class probabilities (Q, C + 1), background first, and confidences (Q,).

    Args:
        logits: (Q, C + 1) of a softmax whose last column means nothing is there; or (Q, C) of one sigmoid a class.
        exclusive: whether it is a softmax.

    Sigmoids are no distribution. Taken as independent, and given that at most one class is there, the chance of class
    k is in proportion to p/(1-p) = exp(logit), and that of none to 1: a softmax of the logits beside a 0. The
    confidence stays the largest sigmoid.
    """
    logits = logits.float()
    if exclusive:
        probs = logits.softmax(-1)
        probs = torch.cat([probs[:, -1:], probs[:, :-1]], dim=1)
        return probs, probs[:, 1:].amax(1)
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1).softmax(1), logits.sigmoid().amax(1)


def corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) of centre and sides as x1 y1 x2 y2."""
    centre, sides = boxes.float().split(2, dim=-1)
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=-1)


def _broad(image: Image.Image) -> Image.Image:
    """A picture that is far longer than wide made wider, or a side would be scaled to nothing; fractions stay."""
    least = -(-max(image.size) // _SLIMMEST)
    if min(image.size) >= least:
        return image
    return image.resize((max(image.width, least), max(image.height, least)))


class Network(ABC):
    """A detector's network with what prepares its pictures.

    Args:
        name: folder or `hub:` name.
        device: where to compute.
        words: class names of one's own, without background, of detectors that take any. Or none.

    Raises:
        ValueError: the folder cannot be read, or the words cannot be used.
    """

    state: str  # what a region's feature is
    class_names: list[str]
    exclusive = False  # whether the classes' scores are a softmax

    def __init__(self, name: str, device: torch.device, words: Sequence[str] = ()) -> None:
        from transformers import AutoImageProcessor

        self.name, self.device = name, device
        self.images: Any = pretrained(AutoImageProcessor, name)
        self.model: Any = self._open(words).eval().to(device)

    @abstractmethod
    def _open(self, words: Sequence[str]) -> Any:
        """The model; sets `class_names`."""

    @abstractmethod
    def look(self, images: list[Image.Image]) -> list[Candidates]:
        """What is in images of one size."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Numbers in a query's state."""

    def settings(self) -> dict[str, Any]:
        """What regions follow from beside the weights."""
        return {
            "model": self.model.config.model_type,
            "classes": self.class_names,
            "images": str(self.images.to_dict()),
        }

    def _pixels(self, images: list[Image.Image]) -> dict[str, Tensor]:
        made = self.images(images=images, return_tensors="pt")
        return {key: made[key].to(self.device) for key in ("pixel_values", "pixel_mask") if key in made}


class FixedClasses(Network):
    """D-FINE, RT-DETR, DETR, YOLOS and their kin: the classes are those that they were trained on."""

    state = "last state of the decoder's query"

    def _open(self, words: Sequence[str]) -> Any:
        from transformers import AutoModelForObjectDetection

        if words:
            raise ValueError(
                f"{self.name} knows the classes that it was trained on: leave the vocabulary out, or take Grounding "
                "DINO or OWLv2"
            )
        model = pretrained(AutoModelForObjectDetection, self.name)
        names = model.config.id2label
        self.class_names = [BACKGROUND, *(str(names[number]) for number in sorted(names))]
        self.exclusive = model.config.model_type in EXCLUSIVE
        return model

    @property
    def feature_size(self) -> int:
        """Numbers in a query's state."""
        return getattr(self.model.config, "d_model", None) or self.model.config.hidden_size

    def look(self, images: list[Image.Image]) -> list[Candidates]:
        """What is in images of one size."""
        out = self.model(**self._pixels(images))
        columns = len(self.class_names) - (not self.exclusive)
        if out.logits.shape[2] != columns:
            raise ValueError(
                f"{self.name} ({self.model.config.model_type}) scores {out.logits.shape[2]} classes where {columns} "
                "were expected: this kind of detector is not known here"
            )
        states = out.last_hidden_state[:, -out.logits.shape[1] :]  # YOLOS has its patches before the queries
        boxes, found = corners(out.pred_boxes), []
        for logits, box, state in zip(out.logits, boxes, states, strict=True):
            found.append(Candidates(box, *distribution(logits, self.exclusive), state))
        return found


class GroundingDino(Network):
    """Grounding DINO: one text names all classes; a class scores the mean of its word pieces' sigmoids."""

    state = "last state of the decoder's query"

    def _open(self, words: Sequence[str]) -> Any:
        from transformers import AutoModelForZeroShotObjectDetection, AutoTokenizer

        self.class_names = [BACKGROUND, *words]
        model = pretrained(AutoModelForZeroShotObjectDetection, self.name)
        tokenizer = pretrained(AutoTokenizer, self.name)
        text = "".join(f"{word}. " for word in words).strip()
        made = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        pieces, most = made["input_ids"].shape[1], model.config.max_text_len
        if pieces > most:
            raise ValueError(
                f"the vocabulary of {len(words)} names has {pieces} word pieces, {self.name} reads {most}: shorten it, "
                "or take OWLv2, which reads name by name"
            )
        starts = np.cumsum([0, *(len(word) + 2 for word in words)])
        offsets = made.pop("offset_mapping")[0]
        of_class = torch.zeros(len(words), most)
        for number, word in enumerate(words):
            inside = (offsets[:, 0] >= starts[number]) & (offsets[:, 1] <= starts[number] + len(word))
            inside &= offsets[:, 1] > offsets[:, 0]  # CLS and SEP are nowhere
            if not bool(inside.any()):
                raise ValueError(f"the name {word!r} has no word pieces that {self.name} knows: leave it out")
            of_class[number, : len(inside)] = inside / inside.sum()
        self.of_class = of_class.to(self.device)
        self.text = {key: value.to(self.device) for key, value in made.items()}
        return model

    @property
    def feature_size(self) -> int:
        """Numbers in a query's state."""
        return self.model.config.d_model

    def look(self, images: list[Image.Image]) -> list[Candidates]:
        """What is in images of one size."""
        text = {key: value.expand(len(images), -1) for key, value in self.text.items()}
        out = self.model(**self._pixels(images), **text)
        scores = out.logits.float().sigmoid() @ self.of_class.T
        logits = torch.logit(scores, eps=1e-6)
        boxes, found = corners(out.pred_boxes), []
        for row, box, state in zip(logits, boxes, out.last_hidden_state, strict=True):
            found.append(Candidates(box, *distribution(row, False), state))
        return found


class Owl(Network):
    """OWLv2 and OWL-ViT: a box for each patch; a class is a text of its own, which is read once."""

    state = "class embedding of the patch"

    def _open(self, words: Sequence[str]) -> Any:
        from transformers import AutoModelForZeroShotObjectDetection, AutoTokenizer

        self.class_names = [BACKGROUND, *words]
        model = pretrained(AutoModelForZeroShotObjectDetection, self.name).eval()
        tokenizer = pretrained(AutoTokenizer, self.name)
        most = model.config.text_config.max_position_embeddings
        longest = max(words, key=lambda word: len(tokenizer(word)["input_ids"]))
        if len(tokenizer(longest)["input_ids"]) > most:
            raise ValueError(f"the name {longest!r} has more than the {most} word pieces that {self.name} reads")
        trunk = model.owlv2 if hasattr(model, "owlv2") else model.owlvit
        parts = []
        with torch.inference_mode():
            for first in range(0, len(words), 64):
                some = list(words[first : first + 64])
                made = tokenizer(some, padding="max_length", max_length=most, return_tensors="pt")
                pooled = trunk.text_model(made["input_ids"], made["attention_mask"]).pooler_output
                parts.append(trunk.text_projection(pooled))
        self.queries = torch.cat(parts).to(self.device)
        return model

    @property
    def feature_size(self) -> int:
        """Numbers in a patch's embedding."""
        return self.model.config.text_config.hidden_size

    def look(self, images: list[Image.Image]) -> list[Candidates]:
        """What is in images of one size."""
        grid, _ = self.model.image_embedder(**self._pixels(images))
        patches = grid.flatten(1, 2)
        queries = self.queries[None].expand(len(images), -1, -1)
        logits, states = self.model.class_predictor(patches, queries, None)
        boxes = corners(self.model.box_predictor(patches, grid, False))
        if self.model.config.model_type == "owlv2":  # its fractions are of the square that the picture is padded to
            width, height = images[0].size
            boxes = boxes * (max(width, height) / torch.tensor([width, height] * 2, device=boxes.device))
        return [
            Candidates(box, *distribution(row, False), state)
            for row, box, state in zip(logits, boxes, states, strict=True)
        ]


NETWORKS: dict[str, type[Network]] = {
    "grounding-dino": GroundingDino,
    "mm-grounding-dino": GroundingDino,
    "owlv2": Owl,
    "owlvit": Owl,
}
EXCLUSIVE = ("detr", "yolos", "table-transformer")  # the others have a sigmoid a class


class HuggingFaceDetector:
    """An object detector of transformers', ready for use.

    Args:
        network: what finds the boxes.
        selection: which of them are kept.
        vit: describes the boxes in the place of the network's own states. Or None.
    """

    def __init__(self, network: Network, selection: Selection | None = None, vit: FrozenViT | None = None) -> None:
        self.network, self.selection, self.vit = network, selection or Selection(), vit
        self.class_names = network.class_names
        said = {"network": network.settings(), "selection": asdict(self.selection)}
        modules: list[nn.Module] = [network.model]
        if vit is not None:
            said["vit"] = vit.settings
            modules.append(vit.model)
        self.fingerprint = fingerprint_of("huggingface", said, *modules)
        self.notes = {
            "detector": f"huggingface {network.model.config.model_type}",
            "features": network.state if vit is None else f"{vit.kind}, pooled in the box",
            "class_probs": SOFTMAX if network.exclusive else SIGMOID,
        }

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return self.network.feature_size if self.vit is None else self.vit.feature_size

    @torch.inference_mode()
    def detect(self, images: list[Image.Image]) -> list[Regions]:
        """The regions of each image, most confident first.

        Args:
            images: pictures of any size and mode.

        Returns:
            float16 features, class probabilities, confidences (the network's own).
        """
        images = [upright_rgb(image) for image in images]
        found: dict[int, Regions] = {}
        for group in groups(images, self.network.device):
            for place, seen in zip(group, self.network.look([_broad(images[place]) for place in group]), strict=True):
                found[place] = self._choose(images[place], seen)
        return [found[place] for place in range(len(images))]

    def _choose(self, image: Image.Image, seen: Candidates) -> Regions:
        centres = (seen.boxes[:, :2] + seen.boxes[:, 2:]) / 2
        inside = torch.nonzero(((centres >= 0) & (centres <= 1)).all(1))[:, 0]
        inside = inside if len(inside) else torch.arange(len(centres), device=centres.device)
        boxes = clip(seen.boxes * torch.tensor([*image.size] * 2, device=centres.device), *image.size)
        kept = inside[self.selection.choose(boxes[inside], seen.scores[inside])]
        final = boxes[kept].cpu().numpy()
        return Regions(
            features=half(seen.states[kept] if self.vit is None else self.vit.describe(image, final)),
            boxes=final,
            width=image.width,
            height=image.height,
            class_probs=seen.probs[kept].cpu().numpy(),
            scores=seen.scores[kept].cpu().numpy(),
        )

    def features(self, image: Image.Image, boxes: np.ndarray) -> Regions:
        """The regions at given boxes, in that order, without class probabilities; needs a frozen vision transformer.

        Raises:
            ValueError: there is none, or boxes have another shape, or none is given.
        """
        if self.vit is None:
            raise ValueError(
                f"{self.network.name} describes the boxes that it finds itself and no others: for given boxes load it "
                "with features of a vision transformer, `huggingface:...,features=vit:FOLDER`"
            )
        image = upright_rgb(image)
        given = given_boxes(boxes, *image.size)
        return Regions(half(self.vit.describe(image, given)), given, image.width, image.height)


def load(text: str, device: torch.device | str = "cpu") -> HuggingFaceDetector:
    """A detector by what stands after `huggingface:` in its name.

    Args:
        text: a folder that `save_pretrained` wrote of model and image processor, or `hub:NAME` to download it; then
            settings: `,features=vit:FOLDER`, `,vocabulary=FILE` (a class name a line, for Grounding DINO and OWLv2),
            and those of `Selection`.
        device: where to compute.

    Raises:
        ValueError: there is no such folder or setting.
    """
    from transformers import AutoConfig

    where = f"huggingface:{text}"
    name, given = read_name(text)
    selection = take_settings(Selection(), given, where)
    features, vocabulary = given.pop("features", ""), given.pop("vocabulary", "")
    refuse_rest(given, ("features", "vocabulary", *Selection.__dataclass_fields__), where)
    if features and not features.startswith(VIT):
        raise ValueError(f"{where}: features should be {VIT}FOLDER, got {features!r}")
    kind = NETWORKS.get(pretrained(AutoConfig, name).model_type, FixedClasses)
    words = read_vocabulary(vocabulary) if vocabulary else []
    if kind is not FixedClasses and not words:
        raise ValueError(f"{where} finds what it is told to: add vocabulary=FILE, a file with a class name a line")
    network = kind(name, torch.device(device), words)
    return HuggingFaceDetector(network, selection, FrozenViT(features[len(VIT) :], device) if features else None)


def read_vocabulary(file: str) -> list[str]:
    """The class names of a file, one a line.

    Raises:
        ValueError: there is no such file, no name in it, or one twice.
    """
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the vocabulary {file} cannot be read ({error}): give a text file, a name a line") from None
    words = [line for line in lines if line]
    twice = [word for word in words if words.count(word) > 1]
    if not words or twice or BACKGROUND in words:
        wrong = repr(twice[0]) if twice else BACKGROUND if words else "it is empty"
        raise ValueError(f"the vocabulary {file} needs names, each once, none called {BACKGROUND}: {wrong}")
    return words
