"""No call depends on the default device: tensors that the library makes for itself say where they are."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.files import load_masks, save_masks
from masklib.adapters.report import report
from masklib.adapters.structural import shrink, structure
from masklib.adapters.training import attach

ROOT = Path(__file__).parents[1]
MAKERS = {"arange", "empty", "eye", "full", "linspace", "normal", "ones", "rand", "randint", "randn", "randperm"} | {
    "as_tensor",
    "scalar_tensor",
    "tensor",
    "zeros",
}
THEIRS = ("masklib/testing", "adapters/demo.py", "adapters/prune/_amounts.py")  # which make what a caller would


def made_anywhere(path):
    """Calls of torch that make a tensor on whatever the default device is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            if of_torch and node.func.attr in MAKERS and not {"device", None} & {k.arg for k in node.keywords}:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_every_tensor_that_is_made_says_where():
    files = [p for folder in ("masklib", "adapters") for p in (ROOT / folder).rglob("*.py")]
    files = [p for p in files if not str(p.relative_to(ROOT).as_posix()).startswith(THEIRS)]
    assert len(files) > 200
    assert [call for path in files for call in made_anywhere(path)] == []
    assert len(list(made_anywhere(Path(__file__)))) == 1  # the one at the end


def net():
    with torch.device("cpu"):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), device="cpu")
HALF = partial(ml.l1_unstructured, amount=0.5)


def filed(folder):
    save_masks(folder / "masks.safetensors", HALF(dict(net().named_parameters())))
    return load_masks(folder / "masks.safetensors").masks


def cut(_):
    model = net()
    found = structure(model, (X,))
    weights = {n: p.detach() for n, p in model.named_parameters() if n in found.names}
    return shrink(model, ml.compute_mask(weights, amount=2, groups=found.groups(p=2)), found).state_dict()


def trained(_):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = attach(optimizer, model, ml.updates.rigl(sparsity=0.5, every=1, stop=9))
    for _ in range(3):
        model(X).square().sum().backward()
        optimizer.step()
    return pruning.masks


def in_one_shot(_):
    return oneshot.prune(net(), [X], oneshot.sparsegpt(), sparsity=0.5).masks


def reported(_):
    return {"": torch.tensor(list(str(report(HALF(dict(net().named_parameters())))).encode()), device="cpu")}


@pytest.mark.parametrize("call", [filed, cut, trained, in_one_shot, reported])
def test_adapters_under_a_default_device(call, tmp_path):
    """As inside `torch.set_default_device`; `meta` stands for any that is not the CPU."""
    for folder in ("before", "within"):
        (tmp_path / folder).mkdir()
    expected = call(tmp_path / "before")
    with torch.device("meta"):
        found = call(tmp_path / "within")
    assert found.keys() == expected.keys()
    assert all(torch.equal(t, found[n]) for n, t in expected.items())
    assert torch.zeros(1).device.type == "cpu"  # made where the default device says, which `made_anywhere` finds
