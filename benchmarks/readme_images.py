"""Make the README's pictures: drawn scenes, the word-region alignment of one, and an expression as `predict` draws it.

python benchmarks/readme_images.py
"""

import tempfile
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from uniter import Uniter
from uniter.drawing import COLOURS, above_even_share
from uniter.inspection import Drawing
from uniter.regions.extract import extract
from uniter.run import predict
from uniter.scenes.draw import draw
from uniter.scenes.language import captions
from uniter.scenes.world import make_scene
from uniter.scenes.write import make

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SHOWN = (164, 229, 170, 261, 168, 244)  # held-out scenes with many shapes and colours
EXPRESSION = "53"  # of the world below: the model takes the hoop that is named for the thing beside it, and shows why


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
    inspection_figure(IMAGES / "inspection.png")


def inspection_figure(path: Path) -> None:
    """What `uniter predict refcoco --draw` makes of an expression, in 256 colours."""
    with tempfile.TemporaryDirectory() as folder:
        world, regions, drawn = (Path(folder) / name for name in ("world", "regions", "drawn"))
        make(world, {"test": 16}, progress=False)
        extract(world / "images", regions, progress=False)
        drawing = Drawing(drawn, world / "images", ids=[EXPRESSION])
        predict("refcoco", world, regions, "test", None, [], None, drawing=drawing)
        (made,) = drawn.glob("*.png")
        with Image.open(made) as image:
            image.convert("RGB").quantize(256).save(path, optimize=True)


def alignment_figure(uniter: Uniter, picture, text: str) -> Figure:
    """The picture with its surest regions, and the transport plan between the text's words and them."""
    regions, attributes = uniter.detector.detect_with_attributes([picture])[0]
    names = uniter.detector.words(regions, attributes)
    sure = [i for i in range(len(regions)) if regions.scores[i] > 0.5]
    plan = uniter.align(regions, text)
    lift = above_even_share(plan.plan)[:, sure]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    left.imshow(picture)
    left.axis("off")
    for row, i in enumerate(sure):
        x1, y1, x2, y2 = regions.boxes[i]
        left.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=2, edgecolor=COLOURS[row % len(COLOURS)])
        )
        left.text(x1 + 3, y1 + 12, str(row + 1), color="white", fontsize=9, backgroundcolor=COLOURS[row % len(COLOURS)])
    right.imshow(lift.T, cmap="Blues", aspect="auto", vmin=0)
    right.set_xticks(range(len(plan.words)), plan.words, rotation=45, ha="right", fontsize=10)
    right.set_yticks(range(len(sure)), [f"{row + 1}  {names[i]}" for row, i in enumerate(sure)], fontsize=10)
    figure.suptitle(f"“{text}”", fontsize=12)
    return figure


if __name__ == "__main__":
    main()
