"""The pruned tensor as an attribute: beside other classes, in copies, in autograd, and writes that cannot be seen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import masklib.adapters.prune as prune


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- other classes --------------------------------------------------------------------------------------------------


def family():
    """A base, a class whose `gate` is a parameter, and mixins that have a `gate` of their own."""

    class Base(nn.Module):
        pass

    class Pruned(Base):
        def __init__(self):
            super().__init__()
            self.gate = nn.Parameter(torch.tensor([3.0, 1.0, 2.0]))

    class Method:
        def gate(self):
            return "method"

    class Property:
        @property
        def gate(self):
            return self.__dict__.get("_gate", "property")

        @gate.setter
        def gate(self, value):
            self.__dict__["_gate"] = value

        @gate.deleter
        def gate(self):
            self.__dict__["_gate"] = "deleted"

    class Constant:
        gate = "constant"

    class Static:
        @staticmethod
        def gate():
            return "static"

    mixins = {c.__name__: type(f"With{c.__name__}", (Base, c), {}) for c in (Method, Property, Constant, Static)}
    return Pruned, mixins


def prune_gate(kind):
    module = kind()
    prune.l1_unstructured(module, "gate", 1)
    assert module.gate.tolist() == [3, 0, 2]
    return module


def test_a_class_that_is_not_pruned_keeps_its_mixins():
    kind, mixins = family()
    others = {name: mixin() for name, mixin in mixins.items()}
    prune_gate(kind)
    for made in (others, {name: mixin() for name, mixin in mixins.items()}):
        assert made["Method"].gate() == "method"
        assert made["Static"].gate() == "static"
        assert made["Constant"].gate == "constant"
        assert made["Property"].gate == "property"
        made["Property"].gate = "set"
        assert made["Property"].gate == "set"
        del made["Property"].gate
        assert made["Property"].gate == "deleted"
        made["Constant"].gate = "own"
        assert made["Constant"].gate == "own"
        del made["Constant"].gate
        assert made["Constant"].gate == "constant"
        made["Method"].gate = "own"
        assert made["Method"].gate == "own"
    assert mixins["Method"].gate(None) == "method"
    assert mixins["Constant"].gate == "constant"
    assert not hasattr(kind, "gate")


def test_ordinary_attributes_of_the_class_are_as_before():
    kind, _ = family()
    prune_gate(kind)
    other = kind()
    assert isinstance(other.gate, nn.Parameter)
    other.gate = None
    assert other.gate is None
    del other.gate
    with pytest.raises(AttributeError, match="object has no attribute 'gate'"):
        _ = other.gate
    with pytest.raises(AttributeError):
        del other.gate
    other.gate = 5
    assert other.gate == vars(other)["gate"] == 5


# ---- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [prune.remove, prune.undo])
def test_pruning_a_shallow_copy_leaves_the_module_alone(end):
    module = nn.Linear(4, 2)
    weight, dense = module.weight, module.weight.detach().clone()
    twin = copy.copy(module)
    prune.l1_unstructured(twin, "weight", 3)
    assert module.weight is weight
    assert sorted(module.state_dict()) == ["bias", "weight"]
    assert not prune.is_pruned(module)
    assert int((twin.weight == 0).sum()) == 3
    prune.l1_unstructured(module, "weight", 5)
    assert int((module.weight == 0).sum()) == 5
    assert int((twin.weight == 0).sum()) == 3
    prune.undo(module, "weight")
    end(twin, "weight")
    assert twin.weight is module.weight is weight
    assert torch.equal(weight, dense) == (end is prune.undo)


def test_pruning_the_module_leaves_a_shallow_copy_alone():
    module = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3)
    twin = copy.copy(module)
    prune.undo(module, "weight")
    assert int((twin.weight == 0).sum()) == 3
    assert int((module.weight == 0).sum()) == 0
    assert prune.is_pruned(twin)


def test_hooks_of_users_can_still_be_ended():
    module, calls = nn.Linear(4, 2), []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(1))
    prune.l1_unstructured(module, "weight", 3)
    module(torch.ones(1, 4))
    handle.remove()
    prune.remove(module, "weight")
    module(torch.ones(1, 4))
    assert calls == [1]
    assert not module._forward_pre_hooks


# ---- autograd -------------------------------------------------------------------------------------------------------


def test_one_tensor_throughout_cached():
    """Two reads are two tensors; within torch's own context they are one, as for parametrizations."""
    module = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3)
    x = torch.randn(5, 4)
    assert module.weight is not module.weight
    with parametrize.cached():
        loss = module(x).square().sum()
        (grad,) = torch.autograd.grad(loss, module.weight, retain_graph=True)
        module.weight.retain_grad()
        loss.backward()
        assert torch.equal(module.weight.grad, grad)
        assert grad.ne(0).all()
    expected = 2 * module(x).T @ x
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(module.weight_orig.grad, expected * module.weight_mask)
    assert module.weight is not module.weight


def test_the_cache_ends_with_its_context():
    module = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3)
    with parametrize.cached():
        before = module.weight
    with torch.no_grad():
        module.weight_orig.mul_(2)
    torch.testing.assert_close(module.weight, 2 * before)


# ---- writes that are lost -------------------------------------------------------------------------------------------


def test_what_to_write_into_instead():
    """`weight` is a new tensor each time: what is written into it is lost; the page says what to call instead."""
    module = prune.l1_unstructured(nn.Linear(4, 2), "weight", 3)
    before, delta = module.weight.detach().clone(), torch.ones(2, 4)
    module.weight.data.fill_(7)
    assert torch.equal(module.weight, before)
    module.weight_orig.data += delta
    alive = prune.masks(module)["weight"]
    assert torch.equal(module.weight, torch.where(alive, before + delta, 0))
    nn.init.ones_(module.weight_orig)
    assert torch.equal(module.weight, alive.float())
    with pytest.raises(AttributeError, match="weight_orig"):
        module.weight += 1
