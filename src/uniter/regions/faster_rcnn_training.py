"""What a Faster R-CNN of torchvision's learns from: torchvision's own losses."""

import os
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from uniter import draws
from uniter.regions.coco import Targets
from uniter.regions.faster_rcnn import FasterRCNNDetector
from uniter.regions.pictures import upright_rgb
from uniter.regions.training import Pictures, feature_statistics

_NAMES = {
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "distance",
}


class FasterRCNNLearner:
    """Trains a Faster R-CNN of torchvision's for classes of one's own.

    Args:
        detector: where it starts; its predictor is replaced by a new one for these classes.
        class_names: index 0 is `background`.
        fresh: the weights are random ones, so that normalisations learn too; those of trained weights stay as they are,
            since a batch of a few pictures says little about them.
        seed: of the new predictor.
        mixed: compute in bfloat16.
    """

    def __init__(
        self, detector: FasterRCNNDetector, class_names: list[str], fresh: bool, seed: int = 0, mixed: bool = True
    ) -> None:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

        self.start, self.class_names, self.fresh, self.mixed = detector, list(class_names), fresh, mixed
        self.network = detector.network
        torch.manual_seed(draws.number(seed, "detector-weights") % 2**31)
        predictor = FastRCNNPredictor(self.network.feature_size, len(class_names))
        self.network.model.roi_heads.box_predictor = predictor.to(detector.device)
        for name in ("mask_head", "mask_predictor", "keypoint_head", "keypoint_predictor"):
            if getattr(self.network.model.roi_heads, name, None) is not None:
                raise ValueError(f"{detector.name} also learns masks or keypoints: train a fasterrcnn_... on boxes")

    def losses(self, batch: list[tuple[Image.Image, Targets]]) -> dict[str, Tensor]:
        """Torchvision's four losses, of both stages classes and boxes."""
        self.network.train()
        if not self.fresh:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        device = self.start.device
        pixels = [
            torch.from_numpy(np.array(upright_rgb(image))).permute(2, 0, 1).to(device) / 255 for image, _ in batch
        ]
        targets = [
            {
                "boxes": torch.as_tensor(target["boxes"], dtype=torch.float32, device=device).reshape(-1, 4),
                "labels": torch.as_tensor(target["classes"], dtype=torch.int64, device=device),
            }
            for _, target in batch
        ]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
            losses = cast(Any, self.network.model)(pixels, targets)
        return {_NAMES[name]: value.float() for name, value in losses.items()}

    def _detector(self) -> FasterRCNNDetector:
        start = self.start
        return FasterRCNNDetector(
            self.network, start.name, self.class_names, start.settings, start.selection, start.device
        )

    def save(self, out: str | os.PathLike) -> None:
        """Write the detector as it is now."""
        self._detector().save(out)

    def finish(self, pictures: Pictures, out: str | os.PathLike) -> FasterRCNNDetector:
        """Set what features are standardised by, write the detector, and load it."""
        network = self.network
        mean, scale = cast(Tensor, network.feature_mean), cast(Tensor, network.feature_scale)
        mean.zero_()
        scale.fill_(1.0)
        found = feature_statistics(self._detector(), pictures)
        mean.copy_(found[0])
        scale.copy_(found[1])
        self.save(out)
        return FasterRCNNDetector.load(out, self.start.device)
