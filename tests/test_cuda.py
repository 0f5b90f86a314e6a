"""The script for GPUs runs, on the CPU for want of one, and would see a mask that differs."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import hostile
import pytest
import torch

import masklib as ml

SCRIPT = Path(__file__).parent / "benchmarks" / "cuda.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_cuda", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_runs_without_a_gpu(script, capsys):
    assert script.main(["--device", "cpu", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "0 differ" in printed
    assert all(word in printed for word in ("GB/s", "2:4 on", "of each row", "72 matrices", "torch 2."))
    assert "Error" not in printed


def test_a_table_without_rich(script, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    script.show([("a work", "1 ms", *[""] * 6)])
    assert capsys.readouterr().out.splitlines() == [
        "work    masklib  " + "  ".join(script.HEADINGS[2:]),
        "a work  1 ms",
    ]


def test_no_time_is_said(script):
    count, wrong = hostile.check(torch.device("cpu"), True, -math.inf)
    assert count == 0
    assert wrong == ["not finished in time: stopped at side_stream"]
    assert {line[1] for line in list(script.table(torch.device("cpu"), True, -math.inf))[1:]} == {"no time left"}


def test_a_failing_work_leaves_the_other_lines(script, monkeypatch):
    monkeypatch.setattr(ml, "n_of_m", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(script, "whole_tensors", lambda *args: iter(()))
    lines = list(script.table(torch.device("cpu"), True, math.inf))
    assert [line[1] for line in lines[1:5]] == ["ZeroDivisionError"] * 4
    assert all(line[1].endswith("ms") for line in lines[5:])


@pytest.mark.parametrize("density", [None, 0.7])
def test_a_mask_that_differs_is_seen(density):
    scores = hostile.draw((4, 6))
    good = hostile.outcome(lambda s, *m: ml.l1_unstructured(s, *m, amount=3), scores, density)
    bad = hostile.outcome(lambda s, *m: ml.l1_unstructured(s, *m, amount=4), scores, density)
    refusal = hostile.outcome(lambda s, *m: ml.l1_unstructured(s, *m, amount=25), scores, density)
    assert hostile.same(good, good)
    assert hostile.same(refusal, refusal)
    assert not hostile.same(good, bad)
    assert not hostile.same(good, refusal)


def test_hostile_scores_are_the_same_wherever_they_are_made():
    first, second = (list(hostile.inputs((4, 6), hostile.CPU)) for _ in range(2))
    assert len(first) == len({name for name, _ in first}) > 30
    for (_, a), (_, b) in zip(first, second):
        a, b = (x if isinstance(x, dict) else {"": x} for x in (a, b))
        assert all(torch.equal(a[n], b[n]) or a[n].isnan().any() for n in a)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_of_the_gpu_are_those_of_the_cpu():
    count, wrong = hostile.check(torch.device("cuda"), False, math.inf)
    assert count > 1000
    assert not wrong
