"""Features of a frozen vision transformer in given boxes: a description of regions that no detector has a part in."""

import os
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from uniter.regions.detectors import vision_ops
from uniter.regions.hub import pretrained

_BINS = 3  # a side of the grid that is pooled in a box; its mean is the feature


class FrozenViT:
    """A vision transformer that says what is in boxes: the mean of its last patch states there (RoIAlign).

    The whole picture is scaled to the square that the transformer was made for, whatever its shape.

    Args:
        name: folder of a model of transformers' with patches (DINOv2, ViT, SigLIP, CLIP, ...), or `hub:NAME`.
        device: where to compute.

    Raises:
        ValueError: there is no such folder, or the model has no patches.
    """

    def __init__(self, name: str | os.PathLike, device: torch.device | str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.device, self.name = torch.device(device), str(name)
        model: Any = pretrained(AutoModel, self.name)
        model = getattr(model, "vision_model", model)  # of a model of pictures and texts the half that looks
        self.model: nn.Module = model.eval().to(self.device)
        self.patch, self.side = getattr(model.config, "patch_size", None), getattr(model.config, "image_size", None)
        if not isinstance(self.patch, int) or not isinstance(self.side, int):
            raise ValueError(f"{name} is no vision transformer of square patches ({model.config.model_type}): give one")
        processor: Any = pretrained(AutoImageProcessor, self.name)
        self.mean, self.deviation = (
            np.array(getattr(processor, key) or default, np.float32).reshape(3, 1, 1)
            for key, default in (("image_mean", [0.5] * 3), ("image_std", [0.5] * 3))
        )

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return cast(Any, self.model).config.hidden_size

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return f"patches of a frozen {cast(Any, self.model).config.model_type}"

    @property
    def settings(self) -> dict[str, Any]:
        """What its features follow from beside the weights."""
        colours = {"mean": self.mean.ravel().tolist(), "deviation": self.deviation.ravel().tolist()}
        return {"side": self.side, "bins": _BINS, **colours}

    @torch.inference_mode()
    def describe(self, image: Image.Image, boxes: np.ndarray) -> Tensor:
        """Features (R, F) of boxes.

        Args:
            image: RGB.
            boxes: (R, 4) pixels x1 y1 x2 y2.
        """
        assert self.side is not None and self.patch is not None
        scaled = np.asarray(image.resize((self.side, self.side), Image.Resampling.BICUBIC), np.float32)
        pixels = torch.from_numpy((scaled.transpose(2, 0, 1) / 255 - self.mean) / self.deviation)[None]
        states = cast(Any, self.model)(pixel_values=pixels.to(self.device)).last_hidden_state
        cells = self.side // self.patch
        patches = states[:, states.shape[1] - cells * cells :]  # the class and the registers stand before
        grid = patches.transpose(1, 2).reshape(1, -1, cells, cells).float()
        given = torch.as_tensor(boxes, dtype=torch.float32, device=self.device)
        scale = torch.tensor([cells / image.width, cells / image.height] * 2, device=self.device)
        return vision_ops().roi_align(grid, [given * scale], _BINS, 1.0, sampling_ratio=2, aligned=True).mean((2, 3))
