"""The gallery: every script runs, is short, says what it shows, and draws a picture that is not empty."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
SCRIPTS = sorted(path.stem for path in GALLERY.glob("plot_*.py"))
SLOW = {"plot_methods": pytest.mark.slow}


@pytest.fixture
def alone(monkeypatch):
    """Agg, and the folder of the gallery on the path, as sphinx-gallery has it."""
    plt.switch_backend("agg")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(GALLERY)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a script may add to it
    monkeypatch.setattr(sys, "argv", ["script"])
    monkeypatch.setattr(plt, "show", lambda: None)
    with mpl.rc_context():
        yield
    plt.close("all")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(GALLERY.parent)):
            del sys.modules[name]


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in SCRIPTS])
def test_a_script_draws(name, alone, capsys):
    runpy.run_path(str(GALLERY / f"{name}.py"))
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert figures
    for figure in figures:
        figure.canvas.draw()
        image = np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3)
        ink = (image != image[0]).any(1).mean()
        assert 0.02 < ink < 0.98, ink
        assert len(np.unique(image[::7], axis=0)) > 20
        assert all(ax.has_data() or not ax.axison for ax in figure.axes), "an empty panel"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_and_says_what_it_shows(name):
    text = (GALLERY / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 60
    title, line, blank, *prose = text.removeprefix('"""\n').split('"""')[0].splitlines()
    assert set(line) == {"="}
    assert len(line) == len(title)
    assert not blank
    assert len(" ".join(prose).split()) > 15
    assert text.count("\n# %%\n") >= 1 or name == "plot_cut"
    assert text.rstrip().endswith("plt.show()")


def test_there_are_a_dozen():
    assert len(SCRIPTS) == 12
