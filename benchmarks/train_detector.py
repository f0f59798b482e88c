"""Train the detector that ships with the package, on drawn scenes.

    python benchmarks/train_detector.py --seed 0 --steps 2400 --out src/uniter/assets/detector

Two busy processor cores with bfloat16 instructions: 18 minutes. Then `python benchmarks/detector.py` measures it.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from uniter import draws
from uniter.regions.small import SmallDetector, SmallDetectorConfig
from uniter.regions.small_training import SmallLearner, calibrate
from uniter.regions.training import DetectorTraining, train_detector
from uniter.scenes.draw import draw
from uniter.scenes.shapes import SHAPES
from uniter.scenes.world import COLOURS, SIZES, TEXTURES, make_scene, scene_truth

CONFIG = SmallDetectorConfig(
    class_names=["background", *SHAPES],
    attributes={"colour": list(COLOURS), "size": list(SIZES), "texture": list(TEXTURES)},
)


class Scenes:
    """Pictures of a split with their targets; each is drawn when first asked for, and kept."""

    def __init__(self, seed: int, split: str, count: int) -> None:
        self.seed, self.split = seed, split
        self._kept: list[tuple[np.ndarray, dict[str, np.ndarray]] | None] = [None] * count

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, np.ndarray]]:
        kept = self._kept[index]
        if kept is None:
            scene = make_scene(self.seed, self.split, index)
            truth = scene_truth(scene)
            targets = {"boxes": truth["boxes"], "classes": truth["shapes"] + 1}
            targets |= {"colour": truth["colours"], "size": truth["sizes"], "texture": truth["textures"]}
            kept = self._kept[index] = (np.asarray(self._as_saved(draw(scene), index)), targets)
        return Image.fromarray(kept[0]), kept[1]

    def _as_saved(self, picture: Image.Image, index: int) -> Image.Image:
        """Half of the pictures as JPEG gives them back, of different qualities."""
        if draws.uniform(self.seed, "detector-jpeg", index) < 0.5:
            return picture
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=60 + int(draws.integers(self.seed, "detector-quality", 36, index)))
        return Image.open(data).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("src/uniter/assets/detector"))
    parser.add_argument("--checkpoint", type=Path, help="a file to continue a killed run from")
    parser.add_argument(
        "--calibrate-only", action="store_true", help="set the feature statistics of a trained one anew"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training = DetectorTraining(options.steps, options.batch, options.rate, seed=options.seed, save_every=500)
    if options.calibrate_only:
        calibrate(SmallDetector.load(options.out), Scenes(options.seed, "train", options.pictures), options.out)
        return
    train_detector(
        Scenes(options.seed, "train", options.pictures),
        SmallLearner(CONFIG, training.seed, training.mixed, options.device),
        training,
        options.out,
        options.checkpoint,
        log=lambda text: print(text, flush=True),
    )


if __name__ == "__main__":
    main()
