"""Images a second of every kind of detector on one processor core, beside plain loops over torchvision's own models.

    python benchmarks/detectors.py

Networks have their real sizes and random weights, for nothing is downloaded; what is found means nothing, and how long
it takes hardly depends on it but for the number of regions, which is 36 throughout. One core: about four minutes.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model, resnet101
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from machine import processor
from uniter.files import write_text
from uniter.regions.bottom_up_network import BottomUpConfig, BottomUpNetwork
from uniter.regions.detectors import load_detector
from uniter.scenes.draw import draw
from uniter.scenes.world import make_scene

SIZE = (640, 480)
KEEP = "least=36,most=36"
MOBILE, RESNET = "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn_v2"


def seconds_each(look: Callable[[Image.Image], object], images: list[Image.Image], most: float) -> tuple[float, int]:
    """Median seconds of the processor an image, and of how many; no more images than fit into `most` seconds."""
    look(images[0])  # pays for set-up
    started, times = time.process_time(), []
    for image in images:
        begin = time.process_time()
        look(image)
        times.append(time.process_time() - begin)
        if time.process_time() - started > most:
            break
    return float(np.median(times)), len(times)


def ours(name: str) -> Callable[[Image.Image], object]:
    """A detector of the package, image by image."""
    detector = load_detector(name, "cpu")
    return lambda image: detector.detect([image])


class _Fifth(nn.Module):
    """The last stage of a ResNet as the box head of `FasterRCNN`."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.stage(pooled).mean(dim=(2, 3))


def c4() -> nn.Module:
    """Bottom-up attention's design of torchvision's parts: ResNet-101 C4, twelve anchors, 300 proposals, 1,600 classes."""
    torch.manual_seed(0)
    whole = resnet101(weights=None, replace_stride_with_dilation=[False, False, True])
    parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    trunk: Any = nn.Sequential(*(getattr(whole, part) for part in parts))
    trunk.out_channels = 1024
    return FasterRCNN(
        trunk,
        min_size=600,
        max_size=1000,
        rpn_anchor_generator=AnchorGenerator(((64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        rpn_post_nms_top_n_test=300,
        rpn_pre_nms_top_n_test=6000,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 0),
        box_head=_Fifth(whole.layer4),
        box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(2048, 1601),
        box_score_thresh=0.0,
        box_detections_per_img=36,
    )


def save_bottom_up(folder: Path) -> Path:
    """Random weights of the published size, as a file that `bottom-up:FILE` opens."""
    torch.manual_seed(0)
    network = BottomUpNetwork(BottomUpConfig())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, folder / "bottom_up.safetensors")
    return folder / "bottom_up.safetensors"


def plain(model: Callable[[], nn.Module]) -> Callable[[Image.Image], object]:
    """A loop as one would write it: torchvision's own forward pass, which gives no features."""
    network = model().eval()

    @torch.inference_mode()
    def look(image: Image.Image) -> object:
        return network([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255])

    return look


def whole(name: str) -> nn.Module:
    """One of torchvision's own models."""
    torch.manual_seed(0)
    return get_model(name, weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=36)


def save_random(folder: Path) -> dict[str, Path]:
    """Transformers' models in their usual sizes."""
    labels = {"num_labels": 80}
    made = {
        "d_fine": (
            transformers.DFineForObjectDetection(transformers.DFineConfig(**labels)),
            transformers.RTDetrImageProcessor(),
        ),
        "yolos": (
            transformers.YolosForObjectDetection(
                transformers.YolosConfig(
                    hidden_size=192,
                    num_attention_heads=3,
                    intermediate_size=768,
                    image_size=[800, 1333],
                    use_mid_position_embeddings=False,
                    num_labels=91,
                )
            ),
            transformers.YolosImageProcessor(size={"shortest_edge": 512, "longest_edge": 1333}),
        ),
        "dinov2": (
            transformers.Dinov2Model(
                transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224, patch_size=14)
            ),
            transformers.BitImageProcessor(),
        ),
    }
    for name, parts in made.items():
        for part in parts:
            part.save_pretrained(folder / name)
    return {name: folder / name for name in made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=9.0, help="seconds a row")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("docs/results/detectors.md"))
    parser.add_argument("--only", default="", help="only rows whose title holds this; written nowhere")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    images = [draw(make_scene(0, "test", index)).resize(SIZE) for index in range(options.images)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        saved, bottom_up = save_random(Path(folder)), save_bottom_up(Path(folder))
        named = {
            "`scenes` (trained)": "scenes",
            f"`torchvision:{MOBILE}`": f"torchvision:{MOBILE},{KEEP}",
            f"`torchvision:{RESNET},min_size=480,proposals=300`": f"torchvision:{RESNET},{KEEP},min_size=480,proposals=300",
            f"`torchvision:{RESNET}`": f"torchvision:{RESNET},{KEEP}",
            "`huggingface:` D-FINE, 640 x 640": f"huggingface:{saved['d_fine']},{KEEP}",
            "the same, `features=vit:` DINOv2-small at 224": f"huggingface:{saved['d_fine']},{KEEP},features=vit:{saved['dinov2']}",
            "`huggingface:` YOLOS-tiny, 512": f"huggingface:{saved['yolos']},{KEEP}",
            "`bottom-up:` (600 x 800, 300 proposals)": f"bottom-up:{bottom_up}",
            "`bottom-up-bf16:`": f"bottom-up-bf16:{bottom_up}",
            "`bottom-up-port:` (800 x 1067, 300 proposals)": f"bottom-up-port:{bottom_up}",
            "`grid:7x7`": "grid:7x7",
            "`grid:7x7@` DINOv2-small at 224": f"grid:7x7@{saved['dinov2']}",
        }
        looks: dict[str, Callable[[], Callable[[Image.Image], object]]] = {
            title: partial(ours, name) for title, name in named.items()
        }
        looks |= {
            f"plain loop over torchvision's `{name}`, no features": partial(plain, partial(whole, name))
            for name in (MOBILE, RESNET)
        }
        looks["plain loop over torchvision's `FasterRCNN` around ResNet-101 C4, no features"] = partial(plain, c4)
        for title, make in looks.items():
            if options.only not in title:
                continue
            each, count = seconds_each(make(), images, options.most)
            rows.append(f"| {title} | {1 / each:.2f} | {1000 * each:.0f} | {count} |")
            print(rows[-1], flush=True)
    table = "\n".join(["| detector | images a second | ms an image | images |", "|---|---:|---:|---:|", *rows])
    text = f"""# Detectors on one processor core

Images of {SIZE[0]} x {SIZE[1]} pixels, one by one, median of so many images as the last column says, in time of the
processor. Random weights in
the networks' usual sizes except for `scenes`: the numbers are of time, not of quality. 36 regions an image (`scenes`
decides for itself, a grid has 49). The plain loops are what one would write without the package; they give boxes and
scores, no features.

{table}

- command: `python benchmarks/detectors.py`
- machine: {processor()}, one thread, shared with others
- versions: Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, transformers {transformers.__version__}
"""
    if not options.only:
        write_text(options.out, text)


if __name__ == "__main__":
    main()
