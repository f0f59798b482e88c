"""Curves as pictures."""

import matplotlib.figure
from PIL import Image

from uniter.curves import draw_panels


def test_a_panel_for_each_number_and_intervals_in_its_own(tmp_path, monkeypatch):
    points = [(1, 0.2), (2, 0.4)]
    names = ("accuracy", "accuracy_low", "accuracy_high", "loss", "highest_low")
    seen, add = [], matplotlib.figure.Figure.add_subplot

    def watched(figure, *place):
        seen.append((figure, add(figure, *place)))
        return seen[-1][1]

    monkeypatch.setattr(matplotlib.figure.Figure, "add_subplot", watched)
    draw_panels(tmp_path / "validation.png", dict.fromkeys(names, points))
    assert [axes.get_title() for _, axes in seen] == ["accuracy", "loss", "highest_low"]
    assert [len(axes.collections) for _, axes in seen] == [1, 0, 0], "one band"
    assert Image.open(tmp_path / "validation.png").width > 900
