"""Every name of torch.nn.utils.prune is in the drop-in, and takes every call that the original takes."""

from __future__ import annotations

import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as theirs
from torch import nn

import masklib.adapters.prune as ours

inf = float("inf")
NAMES = [n for n, v in vars(theirs).items() if getattr(v, "__module__", None) == theirs.__name__]
CLASSES = [n for n in NAMES if inspect.isclass(getattr(theirs, n))]
HELPERS = {
    "_validate_pruning_amount_init",
    "_validate_pruning_amount",
    "_validate_structured_pruning",
    "_compute_nparams_toprune",
    "_validate_pruning_dim",
    "_compute_norm",
}


def own_methods(name):
    """What a class of the original defines itself, constructors and container protocol included."""
    machinery = (
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__abstractmethods__",
        "__annotations__",
        "_abc_impl",
    )
    return [
        n for n, v in vars(getattr(theirs, name)).items() if n not in machinery and callable(getattr(v, "__func__", v))
    ]


CALLABLES = [*NAMES, *(f"{c}.{m}" for c in CLASSES for m in own_methods(c))]


def find(module, path):
    for part in path.split("."):
        module = getattr(module, part)
    return module


def test_the_names_are_those_people_import():
    assert set(NAMES) >= HELPERS
    assert set(NAMES) >= {"identity", "remove", "is_pruned", "global_unstructured", "PruningContainer"}
    assert "PruningContainer.add_pruning_method" in CALLABLES
    assert "LnStructured.__init__" in CALLABLES


@pytest.mark.parametrize("path", CALLABLES)
def test_a_name_takes_the_calls_of_the_original(path):
    """The same names in the same order with the same defaults; more may follow, if they may be left out."""
    expected, got = (list(inspect.signature(find(m, path)).parameters.values()) for m in (theirs, ours))
    positional = [p for p in got if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    for theirs_, ours_ in zip(
        [p for p in expected if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)], positional
    ):
        assert (ours_.name, ours_.kind, ours_.default) == (theirs_.name, theirs_.kind, theirs_.default)
    by_name = {p.name: p for p in got}
    assert [p.name for p in expected if p.name not in by_name] == []
    assert all(by_name[p.name].default == p.default for p in expected)
    more = [p for n, p in by_name.items() if n not in {p.name for p in expected}]
    assert all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty for p in more)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_what_the_original_has(name):
    expected, got = getattr(theirs, name), getattr(ours, name)
    assert [n for n in dir(expected) if not hasattr(got, n)] == []
    assert [c.__name__ for c in got.__mro__] == [c.__name__ for c in expected.__mro__]
    assert inspect.isabstract(got) == inspect.isabstract(expected)
    assert getattr(got, "PRUNING_TYPE", None) == getattr(expected, "PRUNING_TYPE", None)
    assert (got.__name__, got.__qualname__) == (expected.__name__, expected.__qualname__)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_documented_and_says_where_it_lives(name):
    assert getattr(ours, name).__doc__
    if not name.startswith("_"):
        assert getattr(ours, name).__module__ == ours.__name__


# ---- the helpers -----------------------------------------------------------------------------------------------------

T = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
CALLS = {
    "_validate_pruning_amount_init": [
        *[(a,) for a in (0, 1, 1500, 0.0, 0.34, 1.0, np.int64(3), np.float32(0.5), Fraction(1, 3))],
        *[(a,) for a in (-1, -10, 1.1, 20.0, -0.1, inf, "some", None, 1j, [1], Fraction(4, 3), torch.tensor(1))],
    ],
    "_validate_pruning_amount": [(20, 19), (19, 20), (0, 0), (1, 1), (0.3, 0), (1.0, 5), (np.int64(7), 6)],
    "_validate_structured_pruning": [(torch.zeros(shape),) for shape in [(), (3,), (3, 2), (0, 4), (2, 1, 2)]],
    "_compute_nparams_toprune": [
        *[(a, 15) for a in (0, 1, 10, 20, 0.0, 0.1, 0.3, 0.5, 1.0, np.int64(4), np.float64(0.3), Fraction(1, 3))],
        *[(0.5, size) for size in range(8)],
        (0.4, 17),
        (0.1, 2**31),
    ],
    # Below -t.dim() the original raises later on, if at all.
    "_validate_pruning_dim": [(T, dim) for dim in (-3, -1, 0, 2, 3, 100)],
    "_compute_norm": [
        *[(T, n, dim) for n in (1, 2, 3, 0.5, inf, -inf, 0, -1, "fro", "nuc") for dim in (-3, -1, 0, 2)],
        *[(T[0], n, dim) for n in (1, 2, inf, "fro") for dim in (-2, 0, 1)],
        *[(T[None, ..., None].double(), n, dim) for n in (1, 2, inf) for dim in (-5, 0, 1, 4)],
        (T, 2, -4),
    ],
}


def test_every_helper_is_called():
    assert set(CALLS) == HELPERS


@pytest.mark.parametrize(("name", "args"), [(n, args) for n, calls in CALLS.items() for args in calls])
def test_a_helper_returns_or_raises_the_same(name, args):
    def call(module):
        try:
            return getattr(module, name)(*args)
        except Exception as error:
            return error

    expected, got = call(theirs), call(ours)
    if isinstance(expected, Exception):
        assert isinstance(got, type(expected))
        assert str(got).strip()
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected)
    else:
        assert type(got) is type(expected)
        assert got == expected


# ---- what may be passed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "amount", [np.int64(4), np.float64(0.3), np.float32(0.3), np.float16(0.3), Fraction(1, 3)], ids=repr
)
@pytest.mark.parametrize("function", ["l1_unstructured", "random_unstructured", "random_structured", "ln_structured"])
def test_any_real_number_is_an_amount(function, amount):
    """The number of units is `_compute_nparams_toprune` of it, in the arithmetic of its own type."""
    more = {"random_structured": {"dim": 1}, "ln_structured": {"dim": 1, "n": 2}}.get(function, {})
    masks = []
    for prune in (theirs, ours):
        torch.default_generator.manual_seed(0)
        masks.append(getattr(prune, function)(nn.Linear(5, 3), "weight", amount=amount, **more).weight_mask)
    assert torch.equal(*masks)


PARAMETERS = {
    "a list of tuples": lambda m: [(m, "weight"), (m, "bias")],
    "a tuple of tuples": lambda m: ((m, "weight"), (m, "bias")),
    "a list of lists": lambda m: [[m, "weight"], [m, "bias"]],
    "a set": lambda m: {(m, "weight")},
    "the keys of a dict": lambda m: {(m, "weight"): 1, (m, "bias"): 2}.keys(),
    "a dict": lambda m: {(m, "bias"): 1},
}


@pytest.mark.parametrize("make", PARAMETERS.values(), ids=PARAMETERS)
def test_global_unstructured_takes_any_collection_of_pairs(make):
    states = []
    for prune in (theirs, ours):
        torch.default_generator.manual_seed(0)
        module = nn.Linear(5, 3)
        prune.global_unstructured(make(module), prune.L1Unstructured, amount=2)
        states.append(module.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_global_unstructured_takes_whatever_makes_a_method():
    masks = []
    for prune in (theirs, ours):
        torch.default_generator.manual_seed(0)
        module = nn.Linear(5, 3)
        prune.global_unstructured(
            parameters=[(module, "weight")],
            pruning_method=lambda share, prune=prune: prune.L1Unstructured(share / 100),
            importance_scores=None,
            share=40,
        )
        masks.append(module.weight_mask)
    assert torch.equal(*masks)
