"""The demo end to end, and what a user is told when it cannot run."""

from __future__ import annotations

import builtins
import sys

import pytest
import torch
from matplotlib.image import imread

from masklib import __version__
from masklib.adapters import cli, demo


def test_the_demo_prunes_and_draws(tmp_path, capsys):
    out = tmp_path / "new" / "demo.png"
    assert cli.main(["demo", "--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.replace("\n", "")  # a long path is wrapped
    assert all(word in printed for word in ("dense", "95.0 %", "38,160", "1,908", "demo.png"))
    height, width, _ = imread(out).shape
    assert width > 1000
    assert height > 500


def test_equal_seeds_give_equal_results(tmp_path):
    first, second, other = (
        [(r.accuracy, r.nonzeros) for r in demo.run(seed, tmp_path / "demo.png", 2, 0.9, quick=True)]
        for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other
    assert [nonzeros for _, nonzeros in first] == [38160, 8109, 3816]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--sparsity", "1.5"], "must be float in [0, 1], got '1.5'"),
        (["demo", "--rounds", "0"], "must be int in [1, 100], got '0'"),
        (["demo", "--seed", "x"], "must be int in"),
        (["demo", "--out", "picture.txt"], "must end in .png, .pdf or .svg, got 'picture.txt'"),
        ([], "required: command"),
    ],
)
def test_bad_flags_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_one_clear_sentence(monkeypatch, capsys):
    real = builtins.__import__

    def without_rich(name, *args, **kwargs):
        if name.startswith("rich"):
            raise ModuleNotFoundError("No module named 'rich'", name="rich")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "masklib.adapters.demo")
    monkeypatch.delattr("masklib.adapters.demo")
    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "masklib demo needs rich. Install it with: pip install 'masklib[demo]'\n"


def test_another_missing_module_is_not_blamed_on_the_extra(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("rich"):
            raise ModuleNotFoundError("No module named 'masklib.nothing'", name="masklib.nothing")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "masklib.adapters.demo")
    monkeypatch.delattr("masklib.adapters.demo")
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(ModuleNotFoundError, match=r"masklib\.nothing"):
        cli.main(["demo"])


def test_a_picture_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run", lambda *args: pytest.fail("trained"))
    (tmp_path / "folder.png").mkdir()
    assert cli.main(["demo", "--out", str(tmp_path / "folder.png")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("masklib demo cannot write `--out`")
    assert "Is a directory" in error


def test_looking_whether_it_can_write_changes_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "run", lambda *args: None)
    old, new = tmp_path / "old.png", tmp_path / "new" / "new.png"
    old.write_bytes(b"a picture")
    assert [cli.main(["demo", "--out", str(path)]) for path in (old, new)] == [0, 0]
    assert old.read_bytes() == b"a picture"
    assert not new.exists()


def test_the_demo_leaves_the_number_of_threads(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        demo.run(0, tmp_path / "demo.png", 1, 0.5, quick=True)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"masklib {__version__}\n"
