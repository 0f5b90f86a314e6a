"""Where a call is made from makes no difference to what it gives: modes, defaults, threads, callbacks, finalizers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import masklib as ml
from masklib import schedules, scores, updates
from masklib.adapters import accelerate, checkpoint, depth, oneshot, parametrize, plot, prune, structural
from masklib.adapters.report import report
from masklib.adapters.training import attach
from masklib.testing.laws._compare import default_dtype

# ---- what is called --------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


class Net(nn.Module):
    """Blocks between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.blocks, self.out = nn.Linear(3, 4), nn.ModuleList([Block(), Block(), Block()]), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for block in self.blocks:
            x = block(x)
        return self.out(x)


torch.manual_seed(0)
NET, X = Net(), [torch.randn(5, 3) for _ in range(2)]
PARAMS = {name: p.detach() for name, p in NET.named_parameters() if p.dim() == 2}
FOUND = structural.structure(NET, (X[0],))
SCORES = {name: NET.get_parameter(name).detach() for name in FOUND.names}
UNITS = ml.compute_mask(SCORES, amount=4, groups=FOUND.groups(p=2))
RUNS = depth.measure(NET, X)
PRUNED = prune.ln_structured(copy.deepcopy(NET).out, "weight", 1, n=2, dim=0)
HESSIAN, NORMS = scores.add_hessian(None, torch.randn(9, 4)), scores.add_input_norms(None, torch.randn(9, 4))
OUT = NET.out.weight.detach()
HALF = partial(ml.l1_unstructured, amount=0.5)


def walked(rule: Any) -> Any:
    model = copy.deepcopy(NET)
    return oneshot.prune(model, X, rule, sparsity=0.5).masks, model.state_dict()


def trained(update: updates.Update) -> Any:
    """The masks of three steps, and where they led."""
    model = copy.deepcopy(NET)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with attach(optimizer, model, update) as pruning:
        for _ in range(3):
            for p in model.parameters():
                p.grad = p.detach() * 0.5 - 0.1
            optimizer.step()
        return dict(pruning.masks), model.state_dict(), pruning.state_dict(), str(pruning.report())


def after(change: Callable[[nn.Module], Any]) -> Any:
    model = copy.deepcopy(NET)
    change(model)
    return model.state_dict()


CUBIC = schedules.cubic(0.8, stop=2)
CALLS: dict[str, Callable[[], Any]] = {
    "walk, wanda": lambda: walked(oneshot.wanda()),
    "walk, sparsegpt": lambda: walked(oneshot.sparsegpt()),
    "walk, admm": lambda: walked(oneshot.admm()),
    "measure": lambda: oneshot.measure(NET, X, scores.curvature, loss=lambda out, x: out.square().sum()),
    "structure": lambda: str(structural.structure(NET, (X[0],))),
    "units": lambda: ml.compute_mask(SCORES, amount=4, groups=FOUND.groups(p=2)),
    "select": lambda: FOUND.select(lambda units: units.units > 4).names,
    "within": lambda: structural.within(FOUND, SCORES, parameters=80, groups=FOUND.groups(p=2)),
    "count": lambda: tuple(structural.count(FOUND, UNITS)),
    "shrink": lambda: structural.shrink(NET, UNITS, FOUND).state_dict(),
    "depth, measure": lambda: depth.measure(NET, X).scores,
    "depth, masks": lambda: RUNS.lowest(),
    "depth, drop": lambda: depth.drop(NET, RUNS.lowest(), (X[0],)).state_dict(),
    "accelerate": lambda: str(accelerate.accelerate(copy.deepcopy(NET), (X[0],), timer=first_is_best)[1].layers),
    "sparse layer": lambda: accelerate.SparseLinear(PRUNED).state_dict(),
    "report": lambda: str(report(PRUNED)),
    "report, inputs": lambda: str(report(copy.deepcopy(NET), masks=UNITS, inputs=(X[0],))),
    "plot": lambda: plot.sparsity(PRUNED).get_title(),
    "rigl": lambda: trained(updates.rigl(sparsity=0.7, every=1, stop=3)),
    "set": lambda: trained(updates.set_(sparsity=0.7, every=1)),
    "gradual": lambda: trained(updates.gradual(ml.l1_unstructured, CUBIC)),
    "movement": lambda: trained(
        updates.gradual(
            ml.compute_mask,
            schedules.linear(0.5, start=1, stop=3),
            observe=scores.add_movement,
            score=lambda params, state: scores.movement(state),
        )
    ),
    "lottery": lambda: trained(updates.lottery(ml.l1_unstructured, CUBIC, rewind=1)),
    "straight through": lambda: trained(updates.straight_through(ml.l1_unstructured, amount=0.5)),
    "owl": lambda: ml.budgets.owl({n: w.abs() for n, w in PARAMS.items()}, 0.5),
    "pooled": lambda: ml.budgets.pooled({n: w.abs() for n, w in PARAMS.items()}, 0.5),
    "erk, kept": lambda: ml.budgets.kept(PARAMS, ml.budgets.erk(PARAMS, 0.5)),
    "heads": lambda: ml.compute_mask(OUT, amount=1, groups=ml.heads(2, dim=1, p=2)),
    "reconstruct": lambda: ml.reconstruct(OUT, HESSIAN, OUT > 0),
    "sparsegpt": lambda: ml.sparsegpt(OUT, HESSIAN, sparsity=0.5),
    "admm": lambda: ml.admm(OUT, HESSIAN, sparsity=0.5),
    "scores": lambda: [scores.lamp(OUT), scores.fpgm(OUT), scores.ria(OUT, NORMS), scores.wanda(OUT, NORMS)],
    "drop-in": lambda: after(lambda m: prune.ln_structured(m.out, "weight", 1, n=2, dim=1)),
    "drop-in, key": lambda: after(lambda m: prune.random_structured(m.out, "weight", 1, dim=1, key=3)),
    "drop-in, global": lambda: after(lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=0.5)),
    "parametrize": lambda: after(lambda m: parametrize.prune(m, HALF)),
    "bake": lambda: prune.bake(PRUNED).state_dict(),
    "to dense": lambda: checkpoint.to_dense(PRUNED.state_dict()),
}


def first_is_best(calls: Mapping[str, Any]) -> dict[str, float]:
    return {name: 1.0 + i for i, name in enumerate(calls)}


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, to the bit."""
    if isinstance(a, Tensor):
        return (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


EXPECTED = {name: call() for name, call in CALLS.items()}


# ---- where from ------------------------------------------------------------------------------------------------------


class Functions(TorchFunctionMode):
    """A mode that calls what it is given."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Dispatch(TorchDispatchMode):
    """The same, one level down."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def in_a_thread(call: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def in_a_finalizer(call: Callable[[], Any]) -> Any:
    results: list[Any] = []

    class Last:
        def __del__(self) -> None:
            results.append(call())

    last = Last()
    del last
    return results[0]


def in_a_hook(call: Callable[[], Any]) -> Any:
    results: list[Any] = []
    module = nn.Linear(1, 1)
    module.register_forward_hook(lambda *_: results.append(call()))
    module(torch.ones(1, 1))
    return results[0]


def inside(make: Callable[[], Any], call: Callable[[], Any]) -> Any:
    with make():
        return call()


ROOMS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "float64": partial(inside, partial(default_dtype, torch.float64)),
    "bfloat16": partial(inside, partial(default_dtype, torch.bfloat16)),
    "meta": partial(inside, partial(torch.device, "meta")),
    "no grad": partial(inside, torch.no_grad),
    "functions": partial(inside, Functions),
    "dispatch": partial(inside, Dispatch),
    "thread": in_a_thread,
    "finalizer": in_a_finalizer,
    "hook": in_a_hook,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.filterwarnings("ignore")  # matplotlib's, in threads
def test_a_call_gives_the_same_wherever_it_is_made(room, call):
    got = ROOMS[room](CALLS[call])
    assert same(EXPECTED[call], got)
