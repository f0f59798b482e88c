"""Make the README's pictures: drawn scenes, and the word-region alignment of one of them by the shipped model.

python benchmarks/readme_images.py
"""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from uniter import Uniter
from uniter.scenes.draw import draw
from uniter.scenes.language import captions
from uniter.scenes.world import make_scene

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SHOWN = (164, 229, 170, 261, 168, 244)  # held-out scenes with many shapes and colours
COLOURS = ["#2457d6", "#d6452b", "#127a4b", "#8a3ffc", "#b7791f", "#0b7285", "#c2255c", "#5c940d", "#333333", "#999999"]


def main() -> None:
    (IMAGES / "scenes").mkdir(parents=True, exist_ok=True)
    uniter = Uniter.load()
    for index in SHOWN:
        scene = make_scene(0, "test", index)
        draw(scene).save(IMAGES / "scenes" / f"scene_{index}.png", optimize=True)
        print(index, captions(scene, 0, 3))
    scene = make_scene(0, "test", SHOWN[0])
    picture = draw(scene)
    picture.save(IMAGES / "scene.png", optimize=True)
    text = captions(scene, 0, 5)[0]
    alignment_figure(uniter, picture, text).savefig(IMAGES / "alignment.png", dpi=110)


def alignment_figure(uniter: Uniter, picture, text: str) -> Figure:
    """The picture with its surest regions, and the transport plan between the text's words and them."""
    regions, attributes = uniter.detector.detect_with_attributes([picture])[0]
    names = uniter.detector.words(regions, attributes)
    sure = [i for i in range(len(regions)) if regions.scores[i] > 0.5]
    plan = uniter.align(regions, text)
    lift = np.clip(plan.plan[:, sure] * len(regions) - 1, 0, None)  # how much more than an even share
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    left.imshow(picture)
    left.axis("off")
    for row, i in enumerate(sure):
        x1, y1, x2, y2 = regions.boxes[i]
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=2, edgecolor=COLOURS[row % 10]))
        left.text(x1 + 3, y1 + 12, str(row + 1), color="white", fontsize=9, backgroundcolor=COLOURS[row % 10])
    right.imshow(lift.T, cmap="Blues", aspect="auto", vmin=0)
    right.set_xticks(range(len(plan.words)), plan.words, rotation=45, ha="right", fontsize=10)
    right.set_yticks(range(len(sure)), [f"{row + 1}  {names[i]}" for row, i in enumerate(sure)], fontsize=10)
    figure.suptitle(f"“{text}”", fontsize=12)
    return figure


if __name__ == "__main__":
    main()
