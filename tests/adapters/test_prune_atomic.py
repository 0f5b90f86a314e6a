"""All or nothing: an exception at any call inside the adapter leaves no trace, whatever the method and the history."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from prunings import METHODS
from torch import nn

import masklib.adapters.prune as prune

ADAPTERS = Path(prune.__file__).parents[1]
SPARED = ("__exit__", "_put_back", "put_back", "<genexpr>")  # what puts back, and closing generators


class Injected(Exception):
    """Raised where nobody expects it."""


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


class Doubled(prune.BasePruningMethod):
    """A method of one's own that writes into what it is given."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        t.mul_(0)
        return default_mask.mul_(torch.rand_like(default_mask) < 0.5)


def tied(model, method=prune.RandomUnstructured):
    return [(model.embedding, "weight"), (model.head, "weight")], method


LINEAR = {name: lambda m, call=call: call(m, "weight") for name, call in METHODS.items()}
RECURRENT = {name: lambda m, call=call: call(m, "weight_hh_l0") for name, call in METHODS.items()}
CASES = {
    **{f"linear, {name}": (lambda: nn.Linear(6, 5), call) for name, call in LINEAR.items()},
    **{f"recurrent, {name}": (lambda: nn.GRU(3, 4), call) for name, call in RECURRENT.items()},
    "a method of one's own": (lambda: nn.Linear(6, 5), lambda m: Doubled.apply(m, "weight")),
    "tied": (Tied, lambda m: prune.ln_structured(m.head, "weight", 1, n=2, dim=0, root=m)),
    "tied, global": (Tied, lambda m: prune.global_unstructured(*tied(m), amount=3)),
    "several": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Conv1d(2, 3, 2)),
        lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=4),
    ),
}
ENDINGS = {
    "remove": lambda m: prune.remove(m, "weight"),
    "undo": lambda m: prune.undo(m, "weight"),
    "remove, tied": lambda m: prune.remove(m.head, "weight", root=m),
    "undo, tied": lambda m: prune.undo(m.head, "weight", root=m),
}


def calling(function, fails_at):
    """Call the function; raise at the n-th call of a function of the adapter. Whether it got that far."""
    calls = count()

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(str(ADAPTERS)) or frame.f_code.co_name in SPARED:
            return
        if next(calls) == fails_at:
            sys.settrace(None)
            raise Injected(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Injected:
        return True
    finally:
        sys.settrace(before)
    return False


def seen(model):
    """All there is to see of a model, by value and by identity."""
    return [_seen(m) for m in model.modules()], torch.get_rng_state().tolist()


def _seen(module):
    tensors = {**module._parameters, **module._buffers}
    return (
        type(module),
        [(n, id(t), None if t is None else t.tolist()) for n, t in tensors.items()],
        [(k, id(h), _hook(h)) for k, h in module._forward_pre_hooks.items()],
        {n: id(h) for n, h in vars(module).get("_masklib_pruned", {}).items()},
        sorted(vars(module)),
        set(module._non_persistent_buffers_set),
        [id(w) for w in vars(module).get("_flat_weights", ())],
    )


def _hook(hook):
    steps = [_hook(h) for h in hook] if isinstance(hook, prune.PruningContainer) else None
    record = getattr(hook, "_record", None)
    return (
        id(hook),
        sorted(vars(hook)),
        steps,
        record and (record.died.tolist(), record.numbers, [id(m) for m in record.steps]),
    )


def assert_atomic(model, function):
    before = seen(model)
    for n in count():
        if not calling(function, n):
            return n
        assert seen(model) == before, f"after the call number {n}"


@pytest.mark.parametrize("earlier", [0, 1, 2])
@pytest.mark.parametrize(("make", "call"), CASES.values(), ids=CASES)
def test_a_pruning_call_that_fails_anywhere_leaves_no_trace(make, call, earlier):
    torch.manual_seed(0)
    model = make()
    for _ in range(earlier):
        call(model)
    assert assert_atomic(model, lambda: call(model)) > 20
    assert prune.is_pruned(model)


@pytest.mark.parametrize(("name", "end"), ENDINGS.items(), ids=ENDINGS)
@pytest.mark.parametrize("earlier", [1, 2])
def test_an_ending_that_fails_anywhere_leaves_no_trace(name, end, earlier):
    torch.manual_seed(0)
    model = Tied() if "tied" in name else nn.Linear(4, 6)
    for _ in range(earlier):
        if isinstance(model, Tied):
            prune.global_unstructured(*tied(model), amount=3)
        else:
            prune.l1_unstructured(model, "weight", 3)
    assert assert_atomic(model, lambda: end(model)) > 3
    assert not prune.is_pruned(model)


def test_the_last_steps_of_a_full_record_are_atomic_too():
    torch.manual_seed(0)
    model = nn.Linear(20, 20)
    for _ in range(255):
        prune.random_unstructured(model, "weight", 1)
    assert_atomic(model, lambda: prune.random_unstructured(model, "weight", 1))
    hook = next(iter(model._forward_pre_hooks.values()))
    assert len(hook) == len(hook.history()) == 256


def test_a_first_call_that_fails_anywhere_leaves_no_half_of_what_classes_get():
    """The class gets its descriptors with the first call: the next one has to find all of them, or none."""
    for fails_at in count():

        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(3, 2))

        if not calling(lambda: prune.l1_unstructured(Layer(), "weight", 2), fails_at):
            break
        module = prune.l1_unstructured(Layer(), "weight", 2)
        with pytest.raises(AttributeError, match="weight_orig"):
            module.weight = nn.Parameter(torch.ones(3, 2))
    assert fails_at > 20
