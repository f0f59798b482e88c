"""What only the demo's page has: figures of its examples, and its tables."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from uniter.alignment import Alignment
from uniter.drawing import (
    COLOURS,
    RIGHT,
    TRUE,
    WRONG,
    Mark,
    WordMap,
    above_even_share,
    beside,
    data_uri,
    escape,
    picture,
    picture_row,
    word_map,
)
from uniter.pipeline import Answer, Found
from uniter.regions import Regions

STYLE = """
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); font-size: 15px; }
.tables th:first-child, .tables td:first-child { text-align: left; width: 38%; } thead th { color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 0; } td.win { font-weight: 700; color: var(--green); }
.tables { display: grid; gap: 28px; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(235px, 1fr)); }
.curves { width: 100%; height: auto; display: block; border-radius: 8px; } .answers { margin: 2px 0 8px; padding: 0; list-style: none; font-size: 14px; }
.map td i { min-width: 40px; height: 26px; }
"""


def regions_figure(image: Image.Image, regions: Regions, words: Sequence[str], shown: int = 12) -> str:
    """A picture with its regions; what the detector calls them below."""
    count = min(shown, len(regions))
    scores = regions.scores if regions.scores is not None else np.ones(len(regions))
    sure = [i for i in range(count) if scores[i] > 0.5]
    names = ", ".join(f"{words[i]}" for i in sure)
    marks = [Mark(regions.boxes[i], COLOURS[k % len(COLOURS)], words[i]) for k, i in enumerate(sure)]
    drawn = picture(image, marks, alt="a drawn scene with its regions")
    return f"<figure>{drawn}<figcaption>{escape(names)}</figcaption></figure>"


def question_figure(image: Image.Image, rows: Sequence[tuple[str, str, list[Answer]]]) -> str:
    """A picture, questions about it, the model's answers and the truth."""
    items = []
    for question, truth, answers in rows:
        best = answers[0]
        verdict = "right" if best.text == truth else "wrong"
        said = f'<span class="{verdict}">{escape(best.text)}</span> <span class="quiet">{best.score:.0%}</span>'
        also = "" if verdict == "right" else f' <span class="quiet">(truth: {escape(truth)})</span>'
        items.append(f"<li>{escape(question)} — {said}{also}</li>")
    return f'<figure>{picture(image, alt="a drawn scene")}<figcaption><ul class="answers">{"".join(items)}</ul></figcaption></figure>'


def found_figure(image: Image.Image, phrase: str, found: Found, truth: Sequence[float], right: bool) -> str:
    """A picture with the region a phrase was found in, and the true box, dashed."""
    chosen = Mark(found.box, RIGHT if right else WRONG, f"found, {found.score:.0%}")
    drawn = picture(image, [chosen, Mark(truth, TRUE, "true box", dashed=True)], alt=f"found: {phrase}")
    verdict = "right" if right else "wrong"
    return (
        f"<figure>{drawn}<figcaption>“{escape(phrase)}” "
        f'<span class="{verdict}">{"✓" if right else "✗"}</span> <span class="quiet">{found.score:.0%}</span></figcaption></figure>'
    )


def search_row(text: str, hits: Sequence[tuple[Image.Image, float, bool]]) -> str:
    """A text and the pictures found for it, best first; the picture that it was written for is outlined."""
    row = picture_row([(image, f"{score:+.2f}", true, f"found: {text}") for image, score, true in hits])
    return f"<div><strong>“{escape(text)}”</strong>{row}</div>"


def alignment_map(image: Image.Image, alignment: Alignment, names: Sequence[str], shown: int = 14) -> str:
    """The transport plan as a table, with a crop of each region above its column."""
    columns = list(range(min(shown, len(alignment.regions))))
    crops, marks = [], []
    for i in columns:
        x1, y1, x2, y2 = (int(v) for v in alignment.regions.boxes[i])
        crop = data_uri(image.crop((x1, y1, max(x2, x1 + 2), max(y2, y1 + 2))), 64)
        crops.append(f'<img src="{crop}" alt="{escape(names[i])}">')
        marks.append(Mark(alignment.regions.boxes[i], COLOURS[i % len(COLOURS)], names[i], region=i))
    values = above_even_share(alignment.plan)[:, columns]
    plan = WordMap("", alignment.words, columns, values, "# times above its even share", least=0.3)
    drawn = picture(image, marks, alt="the regions of the map")
    return beside(drawn, [word_map(plan, crops, [names[i] for i in columns])])


def table(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
    compare: Sequence[tuple[int, int]] = (),
    title: str = "",
) -> str:
    """A table of numbers; for each `(a, b)` of `compare` column b is marked where it beats column a."""
    head = "".join(f"<th>{escape(column)}</th>" for column in (title, *columns))
    body = []
    for name, values in rows:
        cells = []
        for number, value in enumerate(values):
            others = [other for a, b in compare if b == number and (other := values[a]) is not None]
            win = ' class="win"' if value is not None and others and round(value, 1) > round(max(others), 1) else ""
            cells.append(f"<td{win}>{'–' if value is None else f'{value:.1f}'}</td>")
        body.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
