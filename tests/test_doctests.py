"""Every example in a docstring runs, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from functools import partial

import pytest
import torch
from hypothesis import find

import masklib
import masklib.adapters
import masklib.adapters.accelerate
import masklib.adapters.depth
import masklib.adapters.files
import masklib.adapters.oneshot
import masklib.adapters.prune
import masklib.adapters.report
import masklib.adapters.structural
import masklib.adapters.training
import masklib.testing

CORE = [masklib, masklib.budgets, masklib.groups, masklib.schedules, masklib.scores, masklib.selection]
CORE += [masklib.surgery, masklib.updates]
ADAPTERS = [masklib.adapters, masklib.adapters.files, masklib.adapters.oneshot, masklib.adapters.structural]
ADAPTERS += [masklib.adapters.training, masklib.adapters.report, masklib.adapters.accelerate]
ADAPTERS += [masklib.adapters.depth]
PACKAGES = [*CORE, masklib.testing, masklib.testing.laws, *ADAPTERS]
MODULES = [
    f"{package.__name__}.{info.name}"
    for package in PACKAGES
    for info in pkgutil.iter_modules(package.__path__)
    if not info.ispkg
]
PUBLIC = {
    **{f"masklib.{n}": v for n, v in vars(masklib).items() if not n.startswith("_") and callable(v)},
    **{
        f"masklib.{space.__name__.split('.')[1]}.{n}": v
        for space in (masklib.scores, masklib.budgets, masklib.schedules, masklib.updates)
        for n, v in vars(space).items()
        if inspect.isfunction(v) and not n.startswith("_") and v.__module__.startswith(space.__name__)
    },
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    host = {
        "torch": torch,
        "nn": torch.nn,
        "partial": partial,
        "masklib": masklib,
        "ml": masklib,
        "prune": masklib.adapters.prune,
    }
    names = {**vars(masklib), **host, "find": find, **vars(module)}
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example(name):
    doc = inspect.getdoc(PUBLIC[name]) or ""
    assert ">>> " in doc
    assert "Returns:" in doc or "see `polynomial`" in doc or name.split(".")[1] in vars(masklib.groups)


def test_the_surface_is_the_designs():
    methods = "compute_mask identity l1_unstructured random_unstructured ln_structured random_structured n_of_m"
    groups = "elements rows channels heads blocks windows coupled labels Folding"
    others = "custom_from_mask fold scan chain layerwise select"
    algebra = "intersection union difference complement overlap sparsity count alive dense apply dense_grad regrow"
    others += " sparsegpt admm reconstruct"
    names = {n.split(".")[1] for n in PUBLIC if n.count(".") == 1}
    assert names == set(f"{methods} {groups} {others} {algebra}".split())
