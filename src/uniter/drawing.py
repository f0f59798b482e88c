"""Drawing for people to look at, as HTML: pictures with regions, bars, maps of words by regions, and the page around them.

A page is one file: pictures are inside it, nothing comes from elsewhere. It is readable in light and in dark, without a
pointer, and read aloud.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("#2457d6", "#d6452b", "#127a4b", "#8a3ffc", "#b7791f", "#0b7285", "#c2255c", "#5c940d")
RIGHT, WRONG, TRUE = "#127a4b", "#b3261e", "#1d2433"  # a right box, a wrong one, the true one (dashed)

STYLE = """
:root { color-scheme: light dark; --ink:#1d2433; --soft:#5b6576; --line:#dfe3ea; --paper:#ffffff; --ground:#f5f6f9; --blue:#2457d6;
  --green:#127a4b; --red:#b3261e; --heat:36 87 214; --bar:#c9d6f7; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ef; --soft:#a3acbb; --line:#343b49; --paper:#1b202a; --ground:#12161d; --blue:#8fb0ff;
  --green:#5fd39a; --red:#ff8a80; --heat:126 164 255; --bar:#33477a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; } h2 { font-size: 21px; margin: 44px 0 4px; overflow-wrap: anywhere; } h3 { font-size: 15px; margin: 14px 0 4px; }
p { margin: 6px 0 14px; max-width: 78ch; color: var(--soft); } p strong { color: var(--ink); } a { color: var(--blue); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 18px; }
figure { margin: 0; } figcaption { font-size: 14px; margin-top: 6px; color: var(--ink); overflow-wrap: anywhere; }
.picture { position: relative; display: block; line-height: 0; border-radius: 8px; overflow: hidden; background: #e9ecf2; }
.picture img { width: 100%; height: auto; } .picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.picture rect { vector-effect: non-scaling-stroke; } .picture text { font-weight: 700; fill: #fff; paint-order: stroke; stroke-linejoin: round; }
.right { color: var(--green); font-weight: 600; } .wrong { color: var(--red); font-weight: 600; } .quiet { color: var(--soft); }
.row { display: grid; grid-template-columns: repeat(5, 1fr); gap: 10px; margin: 6px 0 18px; }
.row .picture.hit { outline: 3px solid var(--green); outline-offset: 1px; }
.map { overflow-x: auto; } .map table { width: auto; border-collapse: collapse; }
.map td, .map th { padding: 2px; border: 0; text-align: center; font-size: 12px; color: var(--soft); font-weight: 600; }
.map th.word { text-align: right; padding-right: 8px; font-size: 14px; color: var(--ink); white-space: nowrap; cursor: default;
  position: sticky; left: 0; background: var(--paper); }
.map td i { display: block; min-width: 19px; height: 22px; border-radius: 4px; background: linear-gradient(rgb(var(--heat) / var(--w)) 0 0), var(--ground); }
.map tr:focus, .map tr:hover { outline: 1px solid var(--blue); }
.map img { width: 40px; height: 40px; object-fit: contain; background: #fff; border: 1px solid var(--line); border-radius: 4px; vertical-align: middle; }
.two { display: grid; grid-template-columns: minmax(220px, 340px) minmax(0, 1fr); gap: 20px; align-items: start; }
.maps { display: flex; flex-wrap: wrap; gap: 4px 28px; } .maps > div { min-width: 0; max-width: 100%; } .maps h3 { margin-top: 0; }
.bars { list-style: none; margin: 0; padding: 0; font-size: 15px; } .bars li { margin: 0 0 6px; }
.bars .track { display: block; height: 8px; border-radius: 4px; background: var(--line); overflow: hidden; }
.bars .track i { display: block; height: 100%; background: var(--blue); } .bars b { font-weight: 600; } .bars .true .track i { background: var(--green); }
.bars span.label { display: flex; justify-content: space-between; gap: 12px; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 720px) { .two { grid-template-columns: 1fr; } .row { grid-template-columns: repeat(2, 1fr); } }
"""

# Pointing at a word, or going to it by the keyboard, shows its row on the picture; pointing at a cell says its number.
SCRIPT = """
document.querySelectorAll('[data-maps]').forEach(function (group) {
  var marks = group.querySelectorAll('[data-region]');
  function show(row) {
    var values = row.dataset.row.split(' ').map(Number), top = Math.max(Number(row.dataset.least), Math.max.apply(null, values));
    marks.forEach(function (mark) { var v = values[row.dataset.at.split(' ').indexOf(mark.dataset.region)] || 0; mark.style.opacity = Math.pow(v / top, 1.5); });
  }
  function rest() { marks.forEach(function (mark) { mark.style.opacity = ''; }); }
  group.querySelectorAll('tr[data-row]').forEach(function (row) {
    row.addEventListener('mouseenter', function () { show(row); });
    row.addEventListener('mouseleave', rest);
    row.addEventListener('focus', function () { show(row); });
    row.addEventListener('blur', rest);
    row.addEventListener('mouseover', function (event) {
      var cell = event.target.closest('td');
      if (cell) { cell.title = row.dataset.word + ': ' + row.dataset.say.replace('#', Number(row.dataset.row.split(' ')[cell.cellIndex - 1]).toFixed(2)); }
    });
  });
});
"""


@dataclass(frozen=True, eq=False)
class Mark:
    """A box on a picture.

    Args:
        box: pixels x1 y1 x2 y2 of the picture.
        colour: of its edge.
        title: what it is, said when it is pointed at.
        label: short text at one of its corners. Or none.
        dashed: as the true box is.
        region: number of the region that a map's column of this number lights up. Or None.
        faint: in the background until it is lit up.
    """

    box: Sequence[float]
    colour: str = COLOURS[0]
    title: str = ""
    label: str = ""
    dashed: bool = False
    region: int | None = None
    faint: bool = False


@dataclass(frozen=True, eq=False)
class WordMap:
    """Words by regions.

    Args:
        title: what it shows.
        words: its rows.
        columns: numbers of the regions that its columns are, from 0.
        values: (words, columns) numbers of 0 or more; the largest is the darkest.
        say: what a value means, # in the value's place ("# times its even share").
        least: a row whose largest value is below it lights its regions up less.
    """

    title: str
    words: Sequence[str]
    columns: Sequence[int]
    values: np.ndarray
    say: str
    least: float = 0.0


def above_even_share(plan: np.ndarray) -> np.ndarray:
    """How much more than its even share each region gets of each word; margins of a plan are even, every cell has some.

    Args:
        plan: (words, regions), rows sum to 1.
    """
    return np.clip(plan * plan.shape[1] - 1, 0, None)


# ---------------------------------------------------------------- pictures


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


def label_places(marks: Sequence[Mark], width: float, height: float, size: float) -> list[tuple[float, float]]:
    """Where each label goes, top left: at a corner of its box where it lies on no earlier one, if there is such a corner.

    Args:
        marks: boxes with labels.
        width: of the picture, pixels.
        height: of the picture, pixels.
        size: height of a label, pixels; a letter is 0.7 of it wide.
    """
    taken: list[tuple[float, float, float]] = []
    for mark in marks:
        x1, y1, x2, y2 = mark.box
        wide = size * (0.4 + 0.7 * len(mark.label))
        inside = [(x, y) for y in (y1, y2 - size) for x in (x1, x2 - wide)]
        outside = [(x, y) for y in (y1 - size, y2) for x in (x1, x2 - wide)]
        covers = wide > (x2 - x1) / 2  # then it would hide what is in the box
        corners = outside + inside if covers else inside + outside
        corners = [(min(max(x, 0), width - wide), min(max(y, 0), height - size)) for x, y in corners]
        free = [
            (x, y)
            for x, y in corners
            if all(x + wide <= a or a + w <= x or y + size <= b or b + size <= y for a, b, w in taken)
        ]
        taken.append((*(free or corners)[0], wide))
    return [(x, y) for x, y, _ in taken]


def picture(image: Image.Image, marks: Sequence[Mark] = (), alt: str = "", kind: str = "", longest: int = 320) -> str:
    """A picture with boxes over it.

    Args:
        image: the picture.
        marks: boxes in its pixels.
        alt: what it shows, for those who do not see it.
        kind: a class of the style.
        longest: pixels of its longer side.
    """
    width, height = image.size
    stroke = max(width, height) / 110
    drawn = []
    for mark in marks:
        x1, y1, x2, y2 = (float(value) for value in mark.box)
        title = f"<title>{escape(mark.title)}</title>" if mark.title else ""
        dash = ' stroke-dasharray="6 5"' if mark.dashed else ""
        region = "" if mark.region is None else f' data-region="{mark.region}"'
        faint = ' opacity=".3"' if mark.faint else ""
        place = (
            f'x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 1):.1f}" height="{max(y2 - y1, 1):.1f}" rx="{stroke:.1f}"'
        )
        if mark.dashed:  # on white, to be seen on dark pictures too
            drawn.append(f'<rect {place} fill="none" stroke="#fff" stroke-width="3"></rect>')
        # transparent, not none: the inside of a box catches the pointer too, for the title
        drawn.append(
            f'<rect {place} fill="{"none" if mark.dashed else "transparent"}" stroke="{mark.colour}" '
            f'stroke-width="{2 if mark.faint else 3}"{dash}{region}{faint}>{title}</rect>'
        )
    labelled = [mark for mark in marks if mark.label]
    size = max(width, height) / 20
    for mark, (x, y) in zip(labelled, label_places(labelled, width, height, size), strict=True):
        region = "" if mark.region is None else f' data-region="{mark.region}"'
        drawn.append(
            f'<text x="{x + size * 0.2:.1f}" y="{y + size * 0.85:.1f}" font-size="{size:.1f}" stroke="{mark.colour}" '
            f'stroke-width="{size * 0.3:.1f}"{region}>{escape(mark.label)}</text>'
        )
    overlay = (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{"".join(drawn)}</svg>'
        if drawn
        else ""
    )
    return f'<span class="picture {kind}"><img src="{data_uri(image.copy(), longest)}" alt="{escape(alt)}">{overlay}</span>'


def picture_row(hits: Sequence[tuple[Image.Image, str, bool, str]]) -> str:
    """Pictures side by side: each with what stands below it, whether it is outlined as the right one, and its alt text."""
    cells = "".join(
        f"<figure>{picture(image, kind='hit' if true else '', alt=f'{alt}, the right one' if true else alt)}"
        f'<figcaption class="quiet">{escape(below)}</figcaption></figure>'
        for image, below, true, alt in hits
    )
    return f'<div class="row">{cells}</div>'


# ---------------------------------------------------------------- bars and maps


def bars(rows: Sequence[tuple[str, float, bool | None]]) -> str:
    """Bars: of each its text, its length between 0 and 1, and whether it stands for what is right, which is ticked."""
    items = []
    for text, share, true in rows:
        tick = ' <span class="right">✓<span class="aloud"> right</span></span>' if true else ""
        items.append(
            f'<li{" class=true" if true else ""}><span class="label"><span>{escape(text)}{tick}</span> <b>{share:.1%}</b></span>'
            f'<span class="track" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span></li>'
        )
    return f'<ul class="bars">{"".join(items)}</ul>'


def word_map(shown: WordMap, heads: Sequence[str], names: Sequence[str]) -> str:
    """A map as a table: a row a word, a column a region; the script lights a word's regions up on the picture beside it.

    Args:
        shown: the map.
        heads: HTML above each of its columns.
        names: what to call each of its columns.
    """
    head = "".join(f'<th scope="col" title="{escape(name)}">{top}</th>' for top, name in zip(heads, names, strict=True))
    strongest = float(shown.values.max(initial=0.0)) or 1.0
    at = " ".join(map(str, shown.columns))
    body = []
    for word, row in zip(shown.words, shown.values, strict=True):
        cells = "".join(f'<td aria-hidden="true"><i style="--w:{value / strongest:.2f}"></i></td>' for value in row)
        best = [i for i in np.argsort(-row, kind="stable")[:3] if row[i] > 0]
        aloud = (
            "; ".join(f"{names[i]}, {shown.say.replace('#', f'{row[i]:.2f}')}" for i in best)
            or "no region more than others"
        )
        body.append(
            f'<tr tabindex="0" data-word="{escape(word)}" data-say="{escape(shown.say)}" data-least="{shown.least:g}" data-at="{at}" '
            f'data-row="{" ".join(f"{value:.3f}" for value in row)}"><th class="word" scope="row">{escape(word)}'
            f'<span class="aloud">: {escape(aloud)}</span></th>{cells}</tr>'
        )
    title = f"<h3>{escape(shown.title)}</h3>" if shown.title else ""
    return (
        f'<div>{title}<div class="map" role="region" tabindex="0" aria-label="{escape(shown.title or "words by regions")}">'
        f"<table><tr><td></td>{head}</tr>{''.join(body)}</table></div></div>"
    )


def beside(drawn: str, maps: Sequence[str]) -> str:
    """A picture, and the maps whose words light its regions up."""
    return f'<div class="two" data-maps><div>{drawn}</div><div class="maps">{"".join(maps)}</div></div>'


def page(title: str, lead: str, parts: Sequence[tuple[str, str, str]], style: str = "") -> str:
    """The whole page: parts of heading, explanation and body; `style` is what only this page has."""
    sections = "".join(
        f"<h2>{escape(h)}</h2>{f'<p>{escape(p)}</p>' if p else ''}<section>{body}</section>" for h, p, body in parts
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{escape(title)}</title><style>{STYLE}{style}</style></head><body><main><h1>{escape(title)}</h1>'
        f"<p>{escape(lead)}</p>{sections}</main><script>{SCRIPT}</script></body></html>\n"
    )
