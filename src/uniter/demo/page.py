"""The demo's page: one self-contained HTML file, no script from elsewhere, pictures inside it."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from uniter.pipeline import Alignment, Answer, Found
from uniter.regions import Regions

STYLE = """
:root { --ink:#1d2433; --soft:#5b6576; --line:#dfe3ea; --paper:#ffffff; --ground:#f5f6f9; --blue:#2457d6; --green:#127a4b; --red:#b3261e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; } h2 { font-size: 21px; margin: 44px 0 4px; }
p { margin: 6px 0 14px; max-width: 78ch; color: var(--soft); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 18px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); font-size: 15px; }
th:first-child, td:first-child { text-align: left; width: 38%; } .map th:first-child { width: auto; } thead th { color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 0; } td.win { font-weight: 700; color: var(--green); }
.tables { display: grid; gap: 28px; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(235px, 1fr)); }
figure { margin: 0; } figcaption { font-size: 14px; margin-top: 6px; color: var(--ink); overflow-wrap: anywhere; }
.picture { position: relative; display: block; line-height: 0; border-radius: 8px; overflow: hidden; background: #e9ecf2; }
.picture img { width: 100%; height: auto; } .picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.curves { width: 100%; height: auto; display: block; } .right { color: var(--green); font-weight: 600; } .wrong { color: var(--red); font-weight: 600; }
.quiet { color: var(--soft); } .answers { margin: 2px 0 8px; padding: 0; list-style: none; font-size: 14px; }
.row { display: grid; grid-template-columns: repeat(5, 1fr); gap: 10px; margin: 6px 0 18px; }
.row .picture.hit { outline: 3px solid var(--green); outline-offset: 1px; }
.map { overflow-x: auto; } .map table { width: auto; } .map td, .map th { padding: 2px; border: 0; text-align: center; font-size: 12px; }
.map th.word { text-align: right; padding-right: 8px; font-weight: 600; font-size: 14px; color: var(--ink); white-space: nowrap; cursor: default; }
.map .cell { width: 40px; height: 26px; border-radius: 4px; } .map img { width: 40px; height: 40px; object-fit: contain; background: #fff; border: 1px solid var(--line); border-radius: 4px; }
.two { display: grid; grid-template-columns: minmax(220px, 320px) 1fr; gap: 20px; align-items: start; }
@media (max-width: 720px) { .two { grid-template-columns: 1fr; } .row { grid-template-columns: repeat(2, 1fr); } }
"""

# Pointing at a word shows its row of the plan on the picture.
SCRIPT = """
document.querySelectorAll('[data-map]').forEach(function (map) {
  var boxes = map.querySelectorAll('rect');
  map.querySelectorAll('tr[data-plan]').forEach(function (row) {
    row.addEventListener('mouseenter', function () {
      var plan = row.dataset.plan.split(' ').map(Number), top = Math.max(0.3, Math.max.apply(null, plan));
      boxes.forEach(function (box, i) { box.style.opacity = Math.pow(plan[i] / top, 1.5); });
    });
    row.addEventListener('mouseleave', function () { boxes.forEach(function (box) { box.style.opacity = 0.55; }); });
  });
});
"""
COLOURS = ["#2457d6", "#d6452b", "#127a4b", "#8a3ffc", "#b7791f", "#0b7285", "#c2255c", "#5c940d"]


def escape(text: object) -> str:
    """Text that is safe inside HTML."""
    return html.escape(str(text), quote=True)


def data_uri(image: Image.Image, longest: int = 320) -> str:
    """A picture as JPEG inside a URI, at most `longest` pixels wide or high."""
    image = image.convert("RGB")
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def png_uri(path: Path) -> str:
    """A PNG file inside a URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def picture(
    image: Image.Image,
    boxes: Sequence[Sequence[float]] = (),
    colours: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    style: str = "",
    alt: str = "",
    kind: str = "",
) -> str:
    """A picture with boxes (pixels x1 y1 x2 y2) drawn over it."""
    width, height = image.size
    stroke = max(width, height) / 110
    rects = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        colour = colours[i % len(colours)] if colours else COLOURS[i % len(COLOURS)]
        title = f"<title>{escape(titles[i])}</title>" if titles else ""
        rects.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 1):.1f}" height="{max(y2 - y1, 1):.1f}" rx="{stroke:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="{stroke:.1f}" style="{style}">{title}</rect>'
        )
    overlay = f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{"".join(rects)}</svg>' if rects else ""
    return f'<span class="picture {kind}"><img src="{data_uri(image.copy())}" alt="{escape(alt)}">{overlay}</span>'


def regions_figure(image: Image.Image, regions: Regions, words: Sequence[str], shown: int = 12) -> str:
    """A picture with its regions; what the detector calls them below."""
    count = min(shown, len(regions))
    scores = regions.scores if regions.scores is not None else np.ones(len(regions))
    sure = [i for i in range(count) if scores[i] > 0.5]
    names = ", ".join(f"{words[i]}" for i in sure)
    drawn = picture(
        image, [regions.boxes[i] for i in sure], titles=[words[i] for i in sure], alt="a drawn scene with its regions"
    )
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
    colour = "#127a4b" if right else "#b3261e"
    drawn = picture(image, [found.box], [colour], [f"found, {found.score:.0%}"], alt=f"found: {phrase}")
    x1, y1, x2, y2 = truth
    width = max(image.size) / 160
    dashed = (
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none" stroke="#1d2433" '
        f'stroke-width="{width:.1f}" stroke-dasharray="{width * 3:.1f}"><title>true box</title></rect></svg>'
    )
    verdict = "right" if right else "wrong"
    return (
        f"<figure>{drawn.replace('</svg>', dashed)}<figcaption>“{escape(phrase)}” "
        f'<span class="{verdict}">{"✓" if right else "✗"}</span> <span class="quiet">{found.score:.0%}</span></figcaption></figure>'
    )


def search_row(text: str, hits: Sequence[tuple[Image.Image, float, bool]]) -> str:
    """A text and the pictures found for it, best first; the picture that it was written for is outlined."""
    cells = "".join(
        f'<figure>{picture(image, kind="hit" if true else "", alt=text)}<figcaption class="quiet">{score:+.2f}</figcaption></figure>'
        for image, score, true in hits
    )
    return f'<div><strong>“{escape(text)}”</strong><div class="row">{cells}</div></div>'


def alignment_map(image: Image.Image, alignment: Alignment, names: Sequence[str], shown: int = 14) -> str:
    """The transport plan as a table: a row a word, a column a region; pointing at a word lights its regions up."""
    columns = list(range(min(shown, len(alignment.regions))))
    boxes = [alignment.regions.boxes[i] for i in columns]
    crops = []
    for box in boxes:
        x1, y1, x2, y2 = (int(v) for v in box)
        crop = image.crop((x1, y1, max(x2, x1 + 2), max(y2, y1 + 2)))
        crops.append(data_uri(crop, 64))
    head = "".join(
        f'<th><img src="{crop}" alt="{escape(name)}" title="{escape(name)}"></th>'
        for crop, name in zip(crops, names, strict=False)
    )
    body = []
    # How much more than its even share each region gets: the plan's margins are uniform, so every cell holds something.
    plan = np.clip(alignment.plan[:, columns] * len(alignment.regions) - 1, 0, None)
    strongest = float(plan.max())
    for word, row in zip(alignment.words, plan, strict=True):
        cells = "".join(
            f'<td><div class="cell" style="background:rgba(36,87,214,{float(value) / max(strongest, 1e-9):.3f})" '
            f'title="{escape(word)}: {1 + value:.1f} times its even share"></div></td>'
            for value in row
        )
        values = " ".join(f"{value:.4f}" for value in row)
        body.append(f'<tr data-plan="{values}"><th class="word">{escape(word)}</th>{cells}</tr>')
    drawn = picture(image, boxes, style="opacity:.55", titles=list(names), alt="the regions of the map")
    return f'<div class="two" data-map><div>{drawn}</div><div class="map"><table><tr><th></th>{head}</tr>{"".join(body)}</table></div></div>'


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


def page(title: str, lead: str, parts: Sequence[tuple[str, str, str]]) -> str:
    """The whole page: parts of heading, explanation and body."""
    sections = "".join(f"<h2>{escape(h)}</h2><p>{escape(p)}</p><section>{body}</section>" for h, p, body in parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>'
        f"<p>{escape(lead)}</p>{sections}</main><script>{SCRIPT}</script></body></html>"
    )
