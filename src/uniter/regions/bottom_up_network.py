"""The network of bottom-up attention: ResNet-101 up to its fourth stage, proposals, and a fifth stage for each region.

Anderson et al., CVPR 2018. Modules are named as in the public PyTorch port, so a file of its weights fits as it is.
Torchvision's RoIPool is the original's; its ResNet and its proposal network are not (other strides, pooling, dilation
and anchors), so these are written out here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uniter.regions.detectors import vision_ops

STRIDE = 16  # of the map that boxes are proposed on and regions are pooled from
POOLED = 14  # places a side of a pooled region
CHUNK = 50  # regions that the fifth stage looks at together: 300 of the published size would take gigabytes
LEAST_SIDE = 16  # pixels; anything smaller is padded, or nothing would be left of it
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class BottomUpConfig:
    """The sizes of a `BottomUpNetwork`; by default the published ones.

    Args:
        depth: of the ResNet: 50, 101 or 152.
        stem_channels: of the first convolution.
        res2_channels: the second stage's outputs; each later stage has twice as many.
        bottleneck_channels: the second stage's inner ones; each later stage has twice as many.
        rpn_channels: hidden channels of the proposal network.
        anchors: boxes that every place proposes.
        classes: without background.
        attributes: without "none".
    """

    depth: int = 101
    stem_channels: int = 64
    res2_channels: int = 256
    bottleneck_channels: int = 64
    rpn_channels: int = 512
    anchors: int = 12
    classes: int = 1600
    attributes: int = 400

    def __post_init__(self) -> None:
        if self.depth not in _BLOCKS:
            raise ValueError(f"depth is one of {', '.join(map(str, _BLOCKS))}, got {self.depth}")

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return 8 * self.res2_channels


class _Conv(nn.Conv2d):
    """Convolution and normalisation; `fold` makes one of both."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, input: Tensor) -> Tensor:
        return self.norm(super().forward(input))

    def fold(self) -> None:
        if isinstance(norm := self.norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            self.weight, self.bias = nn.utils.fusion.fuse_conv_bn_weights(
                self.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            self.norm = nn.Identity()


class _Block(nn.Module):
    """Three convolutions around which the input passes; the stride is the first one's, as in He et al. 2016."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.shortcut = _Conv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1 = _Conv(inputs, inner, 1, stride)
        self.conv2 = _Conv(inner, inner, 3, dilation=dilation)
        self.conv3 = _Conv(inner, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.conv3(F.relu(self.conv2(F.relu(self.conv1(maps)))))
        return F.relu(inner + (maps if self.shortcut is None else self.shortcut(maps)))


def _stage(config: BottomUpConfig, number: int, stride: int, dilation: int = 1) -> nn.Sequential:
    wider = 2 ** (number - 2)
    outputs, inner = config.res2_channels * wider, config.bottleneck_channels * wider
    inputs = config.stem_channels if number == 2 else outputs // 2
    blocks = [_Block(inputs, inner, outputs, stride, dilation)]
    blocks += [_Block(outputs, inner, outputs, 1, dilation) for _ in range(_BLOCKS[config.depth][number - 2] - 1)]
    return nn.Sequential(*blocks)


class _Stem(nn.Module):
    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        self.conv1 = _Conv(3, config.stem_channels, 7, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(pixels)), 3, 2, ceil_mode=True)


class _Backbone(nn.Sequential):
    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        self.stem = _Stem(config)
        for number, stride in ((2, 1), (3, 2), (4, 2)):
            self.add_module(f"res{number}", _stage(config, number, stride))


class _Anchors(nn.Module):
    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        self.cell_anchors = nn.ParameterList([nn.Parameter(torch.zeros(config.anchors, 4))])


class _ProposalHead(nn.Module):
    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * config.res2_channels, config.rpn_channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(config.rpn_channels, config.anchors, 1)
        self.anchor_deltas = nn.Conv2d(config.rpn_channels, 4 * config.anchors, 1)


class _Proposals(nn.Module):
    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        self.anchor_generator = _Anchors(config)
        self.rpn_head = _ProposalHead(config)


class _Predictor(nn.Module):
    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        size = config.feature_size
        self.cls_score = nn.Linear(size, config.classes + 1)
        self.bbox_pred = nn.Linear(size, 4 * config.classes)
        self.cls_embedding = nn.Embedding(config.classes + 1, size // 8)
        self.fc_attr = nn.Linear(size + size // 8, size // 4)
        self.attr_score = nn.Linear(size // 4, config.attributes + 1)


class _RegionHeads(nn.Module):
    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        self.res5 = _stage(config, 5, stride=1, dilation=2)
        self.box_predictor = _Predictor(config)


class BottomUpNetwork(nn.Module):
    """The parameters of a `BottomUpDetector`; 65.5 million at the published size.

    Columns of what it says: background is the last of the classes, "none" the last of the attributes.
    """

    def __init__(self, config: BottomUpConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _Backbone(config)
        self.proposal_generator = _Proposals(config)
        self.roi_heads = _RegionHeads(config)
        self.requires_grad_(False).eval()

    def fold(self) -> "BottomUpNetwork":
        """Fold every normalisation into its convolution: the same numbers in fewer steps."""
        for module in list(self.modules()):
            if isinstance(module, _Conv):
                module.fold()
        return self.requires_grad_(False)

    def maps(self, pixels: Tensor) -> Tensor:
        """Maps that boxes are proposed on and regions are pooled from.

        Args:
            pixels: (B, 3, H, W), blue green red, the mean taken off.

        Returns:
            (B, C, H / 16, W / 16), both rounded up or so.
        """
        smaller = [max(LEAST_SIDE - side, 0) for side in pixels.shape[:1:-1]]
        return self.backbone(F.pad(pixels, (0, smaller[0], 0, smaller[1])))

    def propose(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What every anchor says: objectness logits (B, A, h, w) and deltas (B, 4 A, h, w), four behind each other."""
        head = self.proposal_generator.rpn_head
        hidden = F.relu(head.conv(maps))
        return head.objectness_logits(hidden), head.anchor_deltas(hidden)

    def anchors(self, height: int, width: int) -> Tensor:
        """(h * w * A, 4) boxes in pixels, place by place in rows."""
        cell = self.proposal_generator.anchor_generator.cell_anchors[0]
        y, x = (torch.arange(side, device=cell.device, dtype=cell.dtype) * STRIDE for side in (height, width))
        y, x = torch.meshgrid(y, x, indexing="ij")
        return (torch.stack([x, y, x, y], dim=2)[:, :, None] + cell).reshape(-1, 4)

    def describe(self, maps: Tensor, boxes: list[Tensor]) -> Tensor:
        """The features (N, F) of all images' regions, float32.

        Args:
            maps: (B, C, h, w).
            boxes: of each image (n, 4) pixels x1 y1 x2 y2.
        """
        stage = self.roi_heads.res5
        kind = next(stage.parameters()).dtype
        images = torch.cat([b.new_full((len(b), 1), number) for number, b in enumerate(boxes)])
        features = []
        for part in torch.cat([images, torch.cat(boxes)], dim=1).split(CHUNK):
            pooled = vision_ops().roi_pool(maps, part, POOLED, 1 / STRIDE)
            pooled = pooled.to(kind).contiguous(memory_format=torch.channels_last)
            features.append(stage(pooled).float().mean(dim=(2, 3)))
        return torch.cat(features)

    def classes(self, features: Tensor) -> Tensor:
        """Class logits (N, classes + 1) of regions."""
        return self.roi_heads.box_predictor.cls_score(features)

    def deltas(self, features: Tensor) -> Tensor:
        """Of each region and class how to mend the box, (N, classes, 4)."""
        return self.roi_heads.box_predictor.bbox_pred(features).view(len(features), -1, 4)

    def attributes(self, features: Tensor, classes: Tensor) -> Tensor:
        """Attribute logits (N, attributes + 1) of regions with these features and class logits."""
        heads = self.roi_heads.box_predictor
        both = torch.cat([features, heads.cls_embedding(classes.argmax(1))], dim=1)
        return heads.attr_score(F.relu(heads.fc_attr(both)))
