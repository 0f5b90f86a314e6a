"""Everything of `updates` and `adapters.training` is given the wrong thing in each argument; nothing changes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from wrong import M, W, called, told

import masklib as ml
from masklib import schedules, updates
from masklib.adapters.training import attach, freeze, zero

CUBIC, LINEAR = schedules.cubic(0.9, stop=10, every=2), schedules.linear(0.5, stop=9)
PARAMS = {"a": W, "b": 2 * W}
STATIC = updates.static(ml.l1_unstructured, amount=2)
SEEN = updates.gradual(
    ml.compute_mask,
    schedules.linear(0.5, start=1, stop=9),
    observe=ml.scores.add_movement,
    score=lambda params, state: ml.scores.movement(state),
)


def masks_of(step: Any, params: Any, masks: Any, grads: Any) -> Any:
    return masks


def of(update: updates.Update) -> Any:
    masks = dict.fromkeys(PARAMS, M)
    return update, lambda: {"step": 3, "params": PARAMS, "masks": masks, "evidence": PARAMS}


def model() -> dict[str, Any]:
    module = nn.Sequential(nn.Linear(3, 2))
    return {"optimizer": torch.optim.SGD(module.parameters(), lr=0.1), "model": module}


def attached(**arguments: Any) -> None:
    attach(**arguments).remove()


def with_pruning(work: Any, update: updates.Update = STATIC, hold: Any = zero) -> None:
    parts = model()
    with attach(*parts.values(), update, hold=hold) as pruning:
        before = [pruning.step, *(t.clone() for t in (*parts["model"].parameters(), *pruning.masks.values()))]
        try:
            work(pruning)
        except Exception:
            after = [pruning.step, *parts["model"].parameters(), *pruning.masks.values()]
            assert before[0] == after[0]
            assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:]))
            raise


def load(key: str, update: updates.Update, hold: Any, value: Any) -> None:
    with_pruning(lambda pruning: pruning.load_state_dict(pruning.state_dict() | {key: value}), update, hold)


def entry(key: str, update: updates.Update = STATIC, hold: Any = zero) -> Any:
    with attach(*model().values(), update, hold=hold) as pruning:
        value = pruning.state_dict()[key]
    return partial(load, key, update, hold), lambda: {"value": value}


def one(key: str, name: str, update: updates.Update = STATIC, hold: Any = zero) -> Any:
    function, arguments = entry(key, update, hold)
    whole = arguments()["value"]
    return lambda value: function(whole | {name: value}), lambda: {"value": whole[name]}


CALLS: dict[str, tuple[Any, Any]] = {
    "static": (updates.static, lambda: {"method": ml.l1_unstructured, "score": ml.scores.taylor}),
    "gradual": (
        updates.gradual,
        lambda: {"method": ml.l1_unstructured, "schedule": CUBIC, "score": None, "observe": None, "budget": None},
    ),
    "lottery": (
        updates.lottery,
        lambda: {"method": ml.l1_unstructured, "schedule": CUBIC, "rewind": 2, "score": None, "budget": None},
    ),
    "rigl": (
        updates.rigl,
        lambda: {"sparsity": 0.5, "every": 3, "stop": 9, "share": 0.3, "budget": ml.budgets.erk, "key": 0},
    ),
    "set_": (
        updates.set_,
        lambda: {"sparsity": 0.5, "every": 3, "stop": 9, "share": 0.3, "budget": ml.budgets.erk, "key": 0},
    ),
    "ac_dc": (
        updates.ac_dc,
        lambda: {"method": ml.l1_unstructured, "sparsity": 0.5, "sparse": 3, "dense": 2, "stop": 10, "start": 2},
    ),
    "straight_through": (
        updates.straight_through,
        lambda: {"method": ml.l1_unstructured, "every": 2, "score": None, "decay": 0.1},
    ),
    "sr_ste": (updates.sr_ste, lambda: {"keep": 1, "of": 3, "dim": -1, "decay": 0.1}),
    "decayed": (updates.decayed, lambda: {"grads": W, "params": W, "masks": M, "decay": 0.5}),
    "Update": (
        updates.Update,
        lambda: {
            "masks": masks_of,
            "due": CUBIC.due,
            "observe": None,
            "needs_grads": False,
            "rewind": None,
            "straight_through": False,
            "decay": 0.0,
        },
    ),
    "a static": of(STATIC),
    "a static, by gradients": of(updates.static(ml.l1_unstructured, amount=2, score=ml.scores.taylor)),
    "a gradual": of(updates.gradual(ml.l1_unstructured, LINEAR)),
    "a gradual, by budget": of(updates.gradual(ml.l1_unstructured, LINEAR, budget=ml.budgets.erk)),
    "a lottery": of(updates.lottery(ml.l1_unstructured, LINEAR)),
    "a rigl": of(updates.rigl(sparsity=0.5, every=3, stop=9)),
    "a set_": of(updates.set_(sparsity=0.5, every=3)),
    "an ac_dc": of(updates.ac_dc(sparsity=0.5, sparse=3, dense=2, stop=9)),
    "an sr_ste": of(updates.sr_ste(keep=1, of=3)),
    "a straight_through": of(updates.straight_through(ml.l1_unstructured, amount=1, score=ml.scores.taylor)),
    "attach": (attached, lambda: {**model(), "update": STATIC, "names": ["0.weight"], "hold": zero, "state": None}),
    "impose": (
        lambda module: with_pruning(lambda pruning: pruning.impose(module)),
        lambda: {"module": nn.Sequential(nn.Linear(3, 2))},
    ),
    "zero": (zero, lambda: {"param": W.clone(), "mask": M, "values": W}),
    "freeze": (freeze, lambda: {"param": W.clone(), "mask": M, "values": W}),
    "load_state_dict": (
        lambda state: with_pruning(lambda pruning: pruning.load_state_dict(state)),
        lambda: {"state": attach(*model().values(), STATIC).state_dict()},
    ),
    "step of a state": entry("step"),
    "observed of a state": entry("observed"),
    "update of a state": entry("update"),
    "masks of a state": entry("masks"),
    "a mask of a state": one("masks", "0.weight"),
    "values of a state": entry("values", hold=freeze),
    "a value of a state": one("values", "0.weight", hold=freeze),
    "first of a state": entry("first", updates.lottery(ml.l1_unstructured, LINEAR)),
    "evidence of a state": entry("evidence", SEEN),
    "a piece of evidence": one("evidence", "0", SEEN),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_right_call_is_right(name):
    function, arguments = CALLS[name]
    called(function, arguments())


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:`state` is of another update")
def test_the_wrong_thing_is_told(name):
    bad = told(*CALLS[name])
    assert not bad, "\n" + bad
