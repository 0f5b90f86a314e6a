"""The classes of the drop-in, used without the functions: methods on tensors, containers by hand, subclasses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.utils.prune as theirs
from parity import described, differences, observe, same
from torch import nn

import masklib.adapters.prune as ours

METHODS = {
    "Identity": lambda p: p.Identity(),
    "L1Unstructured, 3": lambda p: p.L1Unstructured(3),
    "L1Unstructured, 0.4": lambda p: p.L1Unstructured(amount=0.4),
    "L1Unstructured, 1.0": lambda p: p.L1Unstructured(1.0),
    "RandomUnstructured, 5": lambda p: p.RandomUnstructured(5),
    "RandomUnstructured, 0.3": lambda p: p.RandomUnstructured(amount=0.3),
    "RandomStructured, 1": lambda p: p.RandomStructured(1, 0),
    "RandomStructured, 0.5": lambda p: p.RandomStructured(amount=0.5),
    "LnStructured, 1": lambda p: p.LnStructured(1, 2, 0),
    "LnStructured, 0.5": lambda p: p.LnStructured(amount=0.5, n=1),
    "LnStructured, inf": lambda p: p.LnStructured(2, n=float("inf"), dim=-1),
    "LnStructured, all": lambda p: p.LnStructured(1.0, n=3, dim=1),
    "CustomFromMask": lambda p: p.CustomFromMask(torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1]])),
}
# amount=0 of a structured method: the original hands the default mask itself back, in its dtype, and so aliases it.
NOTHING = {
    "L1Unstructured, 0": lambda p: p.L1Unstructured(0),
    "RandomUnstructured, 0.0": lambda p: p.RandomUnstructured(0.0),
    "RandomStructured, 0": lambda p: p.RandomStructured(0),
    "LnStructured, 0.0": lambda p: p.LnStructured(0.0, n=2),
}
T = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
SCORES = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
ALIVE = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1]])
MASKS = (torch.float32, torch.float64, torch.int64, torch.bool)


def both(use):
    """What a use gives with the original and with the drop-in, under equal seeds; an error is a result too."""
    results = []
    for prune in (theirs, ours):
        torch.default_generator.manual_seed(7)
        try:
            results.append(use(prune))
        except Exception as error:
            results.append(error)
    return results


def assert_same(use):
    expected, got = both(use)
    if isinstance(expected, Exception):
        assert isinstance(got, type(expected)), (expected, got)
        assert str(got).strip()
    else:
        assert not isinstance(got, Exception), (expected, got)
        assert same(expected, got), (expected, got)


def container(prune, *methods):
    result = prune.PruningContainer()
    result._tensor_name = "weight"
    for method in methods:
        method._tensor_name = "weight"
        result.add_pruning_method(method)
    return result


# ---- methods on tensors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", MASKS, ids=str)
@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_compute_mask(make, dtype):
    assert_same(lambda p: make(p).compute_mask(T, ALIVE.to(dtype)))
    assert_same(lambda p: make(p).compute_mask(T.double(), default_mask=torch.ones(3, 4, dtype=dtype)))


@pytest.mark.parametrize("make", (METHODS | NOTHING).values(), ids=METHODS | NOTHING)
def test_compute_mask_in_the_dtype_of_the_tensor(make):
    assert_same(lambda p: make(p).compute_mask(T, ALIVE.float()))
    assert_same(lambda p: make(p).compute_mask(T, torch.ones(3, 4)))


@pytest.mark.parametrize("dtype", MASKS, ids=str)
@pytest.mark.parametrize("make", (METHODS | NOTHING).values(), ids=METHODS | NOTHING)
def test_compute_mask_in_a_container(make, dtype):
    assert_same(lambda p: container(p, p.Identity(), make(p)).compute_mask(T, ALIVE.to(dtype)))


@pytest.mark.parametrize("make", (METHODS | NOTHING).values(), ids=METHODS | NOTHING)
def test_prune(make):
    assert_same(lambda p: make(p).prune(T))
    assert_same(lambda p: make(p).prune(T, ALIVE.float()))
    assert_same(lambda p: make(p).prune(T, importance_scores=SCORES))
    assert_same(lambda p: make(p).prune(T, ALIVE.float(), SCORES))
    assert_same(lambda p: make(p).prune(T, default_mask=ALIVE, importance_scores=SCORES))
    assert_same(lambda p: make(p).prune(T, importance_scores=SCORES[:2]))


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_the_gradient_of_prune(make):
    def gradient(prune):
        t = T.clone().requires_grad_()
        make(prune).prune(t, ALIVE.float(), SCORES).square().sum().backward()
        return t.grad

    assert_same(gradient)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_arguments_are_not_written_to(make):
    t, alive = T.clone(), ALIVE.float()
    make(ours).prune(t, alive, SCORES)
    container(ours, make(ours)).compute_mask(t, alive)
    assert torch.equal(t, T)
    assert torch.equal(alive, ALIVE.float())


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2), (3, 1, 2, 2), (0,), (0, 4), (3, 0)])
def test_shapes(shape):
    t = T.reshape(-1)[: torch.Size(shape).numel()].reshape(shape)
    for amount in (0, 1, 0.5, 1.0):
        assert_same(lambda p: p.L1Unstructured(amount).prune(t))
        assert_same(lambda p: p.RandomUnstructured(amount).prune(t))
        for dim in range(-t.dim() - 1, t.dim() + 1):
            assert_same(lambda p: p.RandomStructured(amount, dim).prune(t))
            assert_same(lambda p: p.LnStructured(amount, 2, dim).prune(t))
            if t.dim() > 1:  # the original takes a vector in a container for a matrix
                assert_same(lambda p: container(p, p.LnStructured(amount, 1, dim)).compute_mask(t, torch.ones(shape)))


@pytest.mark.parametrize("amount", [0, 1, 3, 7, 0.0, 0.1, 0.35, 0.5, 1.0])
def test_ties_do_not_change_how_many_die(amount):
    t = torch.tensor([0.0, 2.0, -2.0, 2.0, 0.0, -2.0, 2.0]).expand(7, 7)
    for make in (
        lambda p: p.L1Unstructured(amount).compute_mask(t.contiguous(), torch.ones(7, 7)).sum(),
        lambda p: p.LnStructured(amount, 2, 0).compute_mask(t.contiguous(), torch.ones(7, 7)).sum(),
    ):
        assert_same(make)


# ---- containers ------------------------------------------------------------------------------------------------------


def test_a_container_built_by_hand():
    def built(prune):
        one, two, three = prune.L1Unstructured(2), prune.RandomStructured(0.5, 1), prune.LnStructured(1, 2, 0)
        one._tensor_name = two._tensor_name = three._tensor_name = "weight"
        result = prune.PruningContainer(one)
        result.add_pruning_method(two)
        result.add_pruning_method(None)
        result.add_pruning_method(three)
        assert len(result) == 4
        assert list(result) == [one, two, None, three]
        assert result[0] is one
        assert result[-1] is three
        assert result[1:3] == (two, None)
        assert len(prune.PruningContainer()) == 0
        assert isinstance(result, prune.BasePruningMethod)
        return result.compute_mask(T, ALIVE.float())

    assert_same(built)


def test_a_container_applies_the_latest_method_to_what_is_alive():
    for first, last in itertools.product(METHODS.values(), METHODS.values()):
        assert_same(lambda p: container(p, first(p), last(p)).compute_mask(T, ALIVE.float()))


class Spy:
    """Makes a subclass of a library's base class that says what `compute_mask` received."""

    def __init__(self, kind, dim=None):
        self.kind, self.dim = kind, dim

    def __call__(self, prune):
        seen = self.seen = []

        class EveryOther(prune.BasePruningMethod):
            PRUNING_TYPE = self.kind
            if self.dim is not None:
                dim = self.dim

            def __init__(self, start=0):
                self.start = start

            def compute_mask(self, t, default_mask):
                seen.append((t.detach().clone(), default_mask.detach().clone()))
                mask = default_mask.clone()
                mask.view(-1)[self.start :: 2] = 0
                return mask

        return EveryOther


REFUSED = {
    "another type": lambda p: container(p).add_pruning_method(3),
    "a string": lambda p: container(p).add_pruning_method("L1Unstructured"),
    "a class": lambda p: container(p).add_pruning_method(p.L1Unstructured),
    "another tensor": lambda p: container(p).add_pruning_method(named(p.L1Unstructured(1), "bias")),
    "PRUNING_TYPE": lambda p: container(p, Spy("magic")(p)()).compute_mask(T, ALIVE.float()),
    "structured without dim": lambda p: container(p, Spy("structured")(p)()).compute_mask(T, ALIVE.float()),
    "structured, dim too large": lambda p: container(p, Spy("structured", 2)(p)()).compute_mask(T, ALIVE.float()),
    "structured, dim too small": lambda p: container(p, Spy("structured", -3)(p)()).compute_mask(T, ALIVE.float()),
    "an abstract method": lambda p: p.BasePruningMethod(),
    "no amount": lambda p: p.L1Unstructured(),
    "no norm": lambda p: p.LnStructured(1),
    "an unknown argument": lambda p: p.L1Unstructured(amount=1, dim=0),
    "more than there are": lambda p: p.L1Unstructured(13).prune(T),
    "more channels than there are": lambda p: p.LnStructured(4, 2, 0).prune(T),
    "more channels than there are, at random": lambda p: p.RandomStructured(5).prune(T),
    "a mask of another shape": lambda p: p.CustomFromMask(torch.ones(4, 3)).prune(T),
    "channels of a vector": lambda p: p.LnStructured(1, 2, 0).prune(T[0]),
    "a name that is no parameter": lambda p: p.identity(nn.Linear(2, 3), "in_features"),
    "a name that is nothing": lambda p: p.L1Unstructured.apply(nn.Linear(2, 3), "wait", 1),
    "remove what is not pruned": lambda p: p.remove(nn.Linear(2, 3), "weight"),
    "no pairs": lambda p: p.global_unstructured(3, p.L1Unstructured, amount=1),
    "scores not by pair": lambda p: p.global_unstructured([(nn.Linear(2, 3), "bias")], p.L1Unstructured, T, amount=1),
    "global and structured": lambda p: p.global_unstructured([(nn.Linear(2, 3), "bias")], p.RandomStructured, amount=1),
    "global without amount": lambda p: p.global_unstructured([(nn.Linear(2, 3), "bias")], p.L1Unstructured),
}


def named(method, name):
    method._tensor_name = name
    return method


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_refused_with_an_error_of_the_same_type(use):
    assert isinstance(both(use)[0], Exception)
    assert_same(use)


# ---- subclasses ------------------------------------------------------------------------------------------------------

FIRST = {
    "nothing": lambda p, m: None,
    "entries": lambda p, m: p.l1_unstructured(m, "weight", 7),
    "channels": lambda p, m: p.ln_structured(m, "weight", 2, 2, 0),
    "all": lambda p, m: p.random_unstructured(m, "weight", 1.0),
}
KINDS_OF_METHOD = [("unstructured", None), ("structured", 0), ("structured", -2), ("global", None)]


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize(("kind", "dim"), KINDS_OF_METHOD)
def test_a_subclass_receives_what_its_type_promises(kind, dim, first):
    """The live entries, the live channels or all of the tensor; the first call of all sees the whole tensor."""

    def seen_by(prune):
        torch.default_generator.manual_seed(3)
        net, spy = nn.ModuleDict({"a": nn.Conv2d(3, 5, 2)}), Spy(kind, dim)
        first(prune, net["a"])
        method = spy(prune)
        hooks = [described(method.apply(net["a"], "weight", start=i)) for i in range(2)]
        return spy.seen, observe(net, prune), hooks

    (a, after_a, hooks_a), (b, after_b, hooks_b) = both(seen_by)
    assert len(a) == len(b) == 2
    for (t, alive), (u, living) in zip(a, b):
        assert same(t, u)
        assert same(alive, living)
    assert differences(after_a, after_b) == []
    assert hooks_a == hooks_b


def test_a_subclass_receives_the_importance_scores():
    def seen_by(prune):
        spy, module = Spy("global"), nn.Linear(4, 3)
        spy(prune).apply(module, "weight", importance_scores=SCORES)
        spy(prune).apply(module, "weight", 1, importance_scores=SCORES)
        return spy.seen[-1][0]

    assert_same(seen_by)


def test_a_subclass_prunes_globally():
    def masks(prune):
        torch.default_generator.manual_seed(5)
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        prune.random_unstructured(net[0], "weight", 4)
        prune.global_unstructured([(m, "weight") for m in net], Spy("unstructured")(prune), start=1)
        return torch.cat([m.weight_mask.flatten() for m in net])

    assert_same(masks)


def test_a_subclass_of_a_method_may_call_the_method():
    def pruned(prune):
        class AtLeastOne(prune.L1Unstructured):
            def __init__(self, amount, floor):
                super().__init__(amount)
                self.floor = floor

            @classmethod
            def apply(cls, module, name, amount, floor):
                return super(prune.L1Unstructured, cls).apply(module, name, amount=amount, floor=floor)

            def compute_mask(self, t, default_mask):
                mask = super().compute_mask(t.abs().clamp(min=self.floor), default_mask)
                mask.view(-1)[t.abs().argmax()] = 1
                return mask

        torch.default_generator.manual_seed(2)
        module = nn.Linear(5, 5)
        AtLeastOne.apply(module, "weight", 0.9, 0.0)
        AtLeastOne.apply(module, "weight", 0.9, floor=0.0)
        return module.weight

    assert_same(pruned)


def test_a_subclass_may_apply_its_mask_in_its_own_way():
    """What `apply_mask` returns is the pruned tensor, and what `remove` leaves."""

    def halved(prune):
        class Halve(prune.L1Unstructured):
            def apply_mask(self, module):
                return super().apply_mask(module) / 2

        torch.default_generator.manual_seed(2)
        module = nn.Linear(5, 5)
        Halve.apply(module, "weight", 0.5)
        output = module(torch.ones(5))
        before = module.weight.clone()
        prune.remove(module, "weight")
        return torch.stack([*before, *module.weight, output]).detach()

    assert_same(halved)


# ---- hooks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_hook_computes_and_removes(make):
    def used(prune):
        torch.default_generator.manual_seed(4)
        module = nn.Linear(4, 3)
        method = make(prune)
        arguments = {"mask": method.mask} if hasattr(method, "mask") else {}
        arguments |= {k: getattr(method, k) for k in ("amount", "n", "dim") if hasattr(method, k)}
        hook = type(method).apply(module, "weight", **arguments)
        hook(module, (torch.ones(4),))
        effective = hook.apply_mask(module)
        assert torch.equal(effective, module.weight)
        hook.remove(module)
        assert sorted(module.state_dict()) == ["bias", "weight"]
        return torch.stack([effective, module.weight]).detach()

    assert_same(used)


def test_a_pruned_state_dict_of_the_original_loads_and_the_other_way_round():
    nets = []
    for prune in (theirs, ours):
        net = nn.Sequential(nn.Conv2d(3, 5, 2), nn.Linear(4, 3))
        prune.random_unstructured(net[0], "weight", 0.3)
        prune.ln_structured(net[1], "weight", 1, 2, 1)
        nets.append(net)
    for source, target in (nets, nets[::-1]):
        for p in source.parameters():
            nn.init.normal_(p)
        target.load_state_dict(source.state_dict())
        assert differences(source.state_dict(), target.state_dict()) == []
        for module in (*source, *target):
            for hook in module._forward_pre_hooks.values():
                hook(module, ())  # what a forward does, for the original
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(source, target))
