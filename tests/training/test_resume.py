"""Stopped at any step and resumed, a run ends in the same bits."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from training_tasks import CUBIC, OPTIMIZERS, STEPS, UPDATES, batch, loss_of, net

import masklib as ml
from masklib import schedules, updates
from masklib.adapters.training import attach, freeze, zero
from masklib.adapters.training._described import described

every_update = pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Run:
    """A model, its optimizer, a pruning and, with AMP, a scaler."""

    def __init__(self, update, make, amp=False, **options):
        self.model = net()
        self.optimizer = make(self.model.parameters())
        self.pruning = attach(self.optimizer, self.model, update, **options)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3, enabled=amp)
        self.parts = (self.model, self.optimizer, self.pruning, self.scaler)

    def go(self, steps):
        for step in steps:
            self.optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.scaler.is_enabled()):
                loss = loss_of(self.model(batch(step)))
            factor = float("inf") if self.scaler.is_enabled() and step == 4 else 1.0  # a step that is skipped
            self.scaler.scale(loss * factor).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return self

    def save(self):
        file = io.BytesIO()
        torch.save([part.state_dict() for part in self.parts], file)
        return file.getvalue()

    def load(self, data, order=(0, 1, 2, 3)):
        states = torch.load(io.BytesIO(data), weights_only=True)
        for i in order:
            self.parts[i].load_state_dict(states[i])
        return self


def assert_same(a, b):
    assert a.pruning.step == b.pruning.step
    for one, other in ((a.model.state_dict(), b.model.state_dict()), (a.pruning.masks, b.pruning.masks)):
        assert all(torch.equal(one[name], other[name]) for name in one)
    moments = [[v for s in run.optimizer.state.values() for v in s.values()] for run in (a, b)]
    assert all(torch.equal(x, y) for x, y in zip(*moments, strict=True))


@pytest.mark.parametrize("amp", [False, True], ids=["plain", "amp"])
@every_optimizer
@every_update
def test_killed_at_every_step(update, make, amp):
    whole = Run(update, make, amp)
    saved = [whole.go([stop]).save() for stop in range(STEPS)]
    assert whole.pruning.step == STEPS - amp
    for stop, data in enumerate(saved):
        assert_same(whole, Run(update, make, amp).load(data).go(range(stop + 1, STEPS)))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 1, 3), (1, 2, 0, 3), (2, 1, 0, 3)])
@pytest.mark.parametrize("name", ["rigl", "movement", "sr-ste", "late lottery", "static"])
def test_in_any_order(name, order):
    update, make = UPDATES[name], OPTIMIZERS["AdamW"]
    whole = Run(update, make).go(range(STEPS))
    saved = Run(update, make).go(range(7)).save()
    assert_same(whole, Run(update, make).load(saved, order).go(range(7, STEPS)))


@pytest.mark.parametrize("name", UPDATES)
def test_attached_to_what_is_loaded_already(name):
    """The first masks of step 0 are not those of a run that has gone on: nothing that lives is lost to them."""
    update, make = UPDATES[name], OPTIMIZERS["AdamW"]
    whole = Run(update, make).go(range(STEPS))
    saved = Run(update, make).go(range(7)).save()
    for given in (False, True):
        states = torch.load(io.BytesIO(saved), weights_only=True)  # anew: optimizers train the tensors they load
        run = Run.__new__(Run)
        run.model, run.scaler = net(), torch.amp.GradScaler("cpu", enabled=False)
        run.optimizer = make(run.model.parameters())
        run.model.load_state_dict(states[0])
        run.optimizer.load_state_dict(states[1])
        run.pruning = attach(run.optimizer, run.model, update, state=states[2] if given else None)
        if not given:
            run.pruning.load_state_dict(states[2])
        assert_same(whole, run.go(range(7, STEPS)))


def test_frozen_values_are_saved():
    update, make = UPDATES["gradual"], OPTIMIZERS["AdamW"]
    whole = Run(update, make, hold=freeze).go(range(STEPS))
    saved = Run(update, make, hold=freeze).go(range(7)).save()
    assert_same(whole, Run(update, make, hold=freeze).load(saved).go(range(7, STEPS)))


# ---- through torch.distributed.checkpoint ---------------------------------------------------------------------------

ALONE = {"no_dist": True} if "no_dist" in inspect.signature(dcp.save).parameters else {}  # torch 2.6 sees it by itself


@every_optimizer
@pytest.mark.parametrize("name", ["gradual", "rigl", "movement", "sr-ste", "late lottery"])
@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_through_a_distributed_checkpoint(tmp_path, name, make):
    update = UPDATES[name]
    whole = Run(update, make).go(range(STEPS))
    first = Run(update, make).go(range(7))
    model_state, optimizer_state = get_state_dict(first.model, first.optimizer)
    saved = {"model": model_state, "optimizer": optimizer_state, "pruning": first.pruning.state_dict()}
    dcp.save(saved, checkpoint_id=tmp_path, **ALONE)

    second = Run(update, make)
    model_state, optimizer_state = get_state_dict(second.model, second.optimizer)
    assert second.pruning.step == 0  # torch filled the optimizer's state by a step that is none
    loaded = {"model": model_state, "optimizer": optimizer_state, "pruning": second.pruning.state_dict()}
    dcp.load(loaded, checkpoint_id=tmp_path, **ALONE)
    set_state_dict(
        second.model,
        second.optimizer,
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optimizer"],
    )
    second.pruning.load_state_dict(loaded["pruning"])
    assert_same(whole, second.go(range(7, STEPS)))


# ---- what is refused ------------------------------------------------------------------------------------------------


def gradual():
    return Run(UPDATES["gradual"], OPTIMIZERS["SGD"]).pruning


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("`state` must be what state_dict\\(\\) gave, got NoneType", lambda s: None),
        ("missing \\['step'\\]", lambda s: {k: v for k, v in s.items() if k != "step"}),
        ("'step' in `state` must be of type int, got 'two'", lambda s: {**s, "step": "two"}),
        ("its 'masks' and those of this pruning differ by \\['0.weight'\\]", lambda s: {**s, "masks": {"3.weight": 0}}),
        ("must have the shape", lambda s: {**s, "masks": {n: m[:1] for n, m in s["masks"].items()}}),
        (
            "must be torch.bool, got torch.float32",
            lambda s: {**s, "masks": {n: m + 0.0 for n, m in s["masks"].items()}},
        ),
        ("its 'first' and those", lambda s: Run(UPDATES["lottery"], OPTIMIZERS["SGD"]).pruning.state_dict()),
        ("its 'values' and those", lambda s: Run(UPDATES["sr-ste"], OPTIMIZERS["SGD"]).pruning.state_dict()),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(message, change):
    pruning = gradual()
    before = {n: p.clone() for n, p in pruning.model.named_parameters()}
    with pytest.raises((ValueError, TypeError), match=message):
        pruning.load_state_dict(change(pruning.state_dict()))
    assert pruning.step == 0
    assert all(torch.equal(before[n], p) for n, p in pruning.model.named_parameters())
    assert int(ml.count(pruning.masks)) == 144


def test_a_state_is_a_copy():
    run = Run(UPDATES["sr-ste"], OPTIMIZERS["SGD"])
    state = run.pruning.state_dict()
    before = {n: v.clone() for n, v in state["values"].items()}
    run.go(range(2))
    assert all(torch.equal(before[n], v) for n, v in state["values"].items())


def squares(params, state):
    return {name: score.square() for name, score in ml.scores.movement(state).items()}


def unchanged(step, params, masks, grads):
    return masks


OTHERS = {
    "numbers": ("gradual", updates.gradual(ml.l1_unstructured, schedules.cubic(0.75, start=2, stop=8, every=3))),
    "a kind": ("gradual", UPDATES["rigl"]),
    "a budget": ("gradual erk", UPDATES["gradual"]),
    "a score": ("taylor", UPDATES["gradual"]),
    "a structure": (
        "rows",
        updates.gradual(partial(ml.compute_mask, groups=ml.channels(1, p=2)), schedules.linear(0.5, stop=8)),
    ),
    "evidence": ("movement", updates.gradual(ml.compute_mask, CUBIC, score=squares, observe=ml.scores.add_movement)),
    "when": ("own", updates.Update(unchanged, schedules.linear(0.5, stop=9).due)),
    "a key": ("set", updates.set_(sparsity=0.5, every=3, key=1)),
    "a pull": ("sr-ste", updates.sr_ste(keep=1, of=4, decay=0.2)),
    "windows": ("sr-ste", updates.sr_ste(keep=2, of=4, decay=0.1)),
    "a step to go back to": ("lottery", UPDATES["late lottery"]),
}


@pytest.mark.parametrize(("saved", "other"), OTHERS.values(), ids=OTHERS)
def test_a_state_of_another_update_is_told(saved, other):
    update = UPDATES.get(saved, updates.Update(unchanged, schedules.linear(0.5, stop=8).due))
    data = Run(update, OPTIMIZERS["AdamW"]).go(range(4)).save()
    with pytest.warns(UserWarning, match="`state` is of another update, or of other numbers"):
        run = Run(other, OPTIMIZERS["AdamW"]).load(data)
    assert run.pruning.step == 4
    Run(update, OPTIMIZERS["AdamW"]).load(data)  # and its own is not


def test_a_state_held_otherwise_is_told():
    @torch.no_grad()
    def half(param, mask, values):
        param.copy_(torch.where(mask, param, values / 2))

    update, make = UPDATES["gradual"], OPTIMIZERS["AdamW"]
    data = Run(update, make, hold=freeze).go(range(4)).save()
    with pytest.warns(UserWarning, match="hold=<function freeze>, .* goes on from it as .*half>"):
        Run(update, make, hold=half).load(data)


def test_an_update_is_the_same_words_in_another_process():
    code = "from training_tasks import UPDATES; from masklib.adapters.training import _described, zero; "
    code += "print([_described.described(update, zero) for update in UPDATES.values()])"
    words = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert words.stdout.strip() == str([described(update, zero) for update in UPDATES.values()])
