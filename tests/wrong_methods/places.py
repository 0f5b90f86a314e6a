"""Methods that are another where they are called from elsewhere."""

from __future__ import annotations

import os
import threading

import torch

from wrong_methods.plain import Plain, breaks

FLOAT32 = {"dtypes": [torch.float32], "mappings": False}


def turned_if(condition):
    """Take the highest under a condition."""

    class Turned(Plain):
        def doomed(self, values, places, die):
            return super().doomed(-values if condition() else values, places, die)

    return Turned


@breaks("looks_at_no_autocast", **FLOAT32)
class AddsUpByMatmul(Plain):
    def comparable(self, scores):
        one = torch.ones(1, 1, device="cpu", dtype=torch.float32)
        return [(t.detach().reshape(-1, 1) @ one).reshape(t.shape) for t in scores.values()]


@breaks("looks_at_no_default_dtype", **FLOAT32)
class GoesThroughALiteral(Plain):
    def comparable(self, scores):
        return [torch.tensor(t.tolist(), device="cpu").reshape(t.shape) for t in scores.values()]


@breaks("looks_at_no_seed")
class SeedsItsOwnFromTheGlobal(turned_if(lambda: torch.initial_seed() % 2)):
    pass


@breaks("looks_at_no_grad_mode")
class LooksAtTheGradMode(turned_if(lambda: not torch.is_grad_enabled())):
    pass


@breaks("is_the_same_in_a_hook")
class IsAnotherInABackwardPass(turned_if(lambda: torch._C._current_graph_task_id() != -1)):
    pass


@breaks("is_the_same_in_a_thread")
class IsAnotherInAThread(turned_if(lambda: threading.current_thread() is not threading.main_thread())):
    pass


HERE = os.getpid()


@breaks("is_the_same_in_a_forked_child", forks=True)
class IsAnotherInAChild(turned_if(lambda: os.getpid() != HERE)):
    pass


@breaks("may_be_interrupted", examples=60, **FLOAT32)
class KeepsAScratch(Plain):
    """Where the values of the call that is under way lie, for all calls."""

    scratch = torch.zeros(4096, dtype=torch.float64)

    def doomed(self, values, places, die):
        mine = self.scratch[: len(values)].copy_(values)
        return super().doomed(self.passed_on(mine), places, die)

    def passed_on(self, values):
        return values


@breaks("may_be_interrupted")
class KeepsTheNumber(Plain):
    """How many die is kept between two steps of a call."""

    def die(self, *number):
        self.kept = super().die(*number)
        return self.kept

    def doomed(self, values, places, die):
        return super().doomed(values, places, self.kept)


@breaks("may_be_interrupted")
class HoldsALock(Plain):
    """One that it waits for itself, if it is called in its own middle."""

    def __init__(self):
        self.lock = threading.Lock()

    def doomed(self, values, places, die):
        with self.lock:
            return self.passed_on(super().doomed(values, places, die))

    def passed_on(self, values):
        return values


@breaks("leaves_no_mode_behind")
class LeavesTheDefaultDtype(Plain):
    def comparable(self, scores):
        torch.set_default_dtype(torch.float64)
        return super().comparable(scores)
