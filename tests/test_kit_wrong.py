"""The kit finds what is wrong: a plain method keeps every law, and wrong ones are caught by those they break."""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import masklib as ml
from masklib.testing import _refute, check_method, laws

MUTANTS: dict[str, tuple[object, str]] = {}


def breaks(law, **options):
    """Note which law a wrong method breaks, and with what else to check it."""

    def note(wrong):
        MUTANTS[wrong.__name__] = (partial(check_it, wrong(), **options), law)
        return wrong

    return note


def check_it(method, **options):
    check_method(method, **{"amount": 0.3, "examples": 30, **options})


class Plain:
    """`compute_mask` of single elements in a few lines of torch, in steps that can be done wrongly."""

    def __call__(self, s, m=None, *, amount=None, sparsity=None, keep=None):
        scores = s if isinstance(s, Mapping) else {"": s}
        masks = dict.fromkeys(scores) if m is None else m if isinstance(s, Mapping) else {"": m}
        names = self.names(scores)
        alive = {n: self.start(scores[n], masks[n]) for n in names}
        killed = self.kill({n: scores[n] for n in names}, alive, amount, sparsity, keep) if names else {}
        return self.result(s, {n: killed[n] for n in scores})

    def kill(self, scores, alive, amount, sparsity, keep):
        """One pool of them all, in the order of names."""
        values = torch.cat([self.flat(t) for t in self.comparable(scores)])
        live = torch.cat([self.flat(t) for t in alive.values()])
        self.refuse_nan(values, live)
        die = self.die(int(live.sum()), len(live), amount, sparsity, keep)
        self.refuse_impossible(die, int(live.sum()))
        places = live.nonzero()[:, 0]
        mask = live.clone()
        mask[self.doomed(values[places], places, die)] = False
        parts = mask.split([t.numel() for t in alive.values()])
        return {n: self.shaped(part, alive[n]) for n, part in zip(alive, parts)}

    def names(self, scores):
        return sorted(scores)

    def start(self, t, m):
        return torch.ones(t.shape, dtype=torch.bool, device="cpu") if m is None else m.clone()

    def comparable(self, scores):
        floating = any(t.is_floating_point() for t in scores.values())
        return [t.detach().double() if floating else t.long() for t in scores.values()]

    def flat(self, t):
        return t.reshape(-1)

    def shaped(self, part, t):
        return part.reshape(t.shape).clone()

    def refuse_nan(self, values, live):
        if values[live].isnan().any():
            raise ValueError("NaN in scores")

    def refuse_impossible(self, die, alive):
        if not 0 <= die <= alive:
            raise ValueError(f"`amount` must be between 0 and {alive}")

    def die(self, alive, items, amount, sparsity, keep):
        if keep is not None:
            if keep > items:
                raise ValueError(f"`keep` must be between 0 and {items}")
            return max(0, alive - keep)
        if sparsity is not None:
            return max(0, round(sparsity * items) - (items - alive))
        return round(amount * alive) if isinstance(amount, float) else amount

    def doomed(self, values, places, die):
        return places[values.argsort(stable=True)[:die]]

    def result(self, s, masks):
        return masks if isinstance(s, Mapping) else masks[""]


@pytest.mark.parametrize("number", [{"amount": 0.3}, {"amount": 3}, {"sparsity": 0.5}, {"keep": 2}], ids=str)
def test_the_plain_method_keeps_every_law(number):
    check_method(Plain(), **number, forks="amount" in number, examples=40)


# ---- how many -------------------------------------------------------------------------------------------------------


@breaks("is_exact")
class CountsInFloat32(Plain):
    def die(self, alive, items, amount, *_):
        return round((torch.tensor(amount, dtype=torch.float32, device="cpu") * alive).item())


@breaks("is_exact")
class RoundsHalvesUp(Plain):
    def die(self, alive, items, amount, *_):
        return math.floor(amount * alive + 0.5)


@breaks("is_exact")
class RoundsDown(Plain):
    def die(self, alive, items, amount, *_):
        return int(amount * alive)


@breaks("is_exact")
class CountsTheDead(Plain):
    """As many of all as there should be of the living; and it picks among all of them."""

    def kill(self, scores, alive, *number):
        every = {n: torch.ones_like(t) for n, t in alive.items()}
        return super().kill(scores, every, *number)


@breaks("is_exact")
class CountsShareOfAll(Plain):
    def die(self, alive, items, amount, *_):
        return min(alive, round(amount * items))


@breaks("everything_takes_everything")
class KeepsAtLeastOne(Plain):
    def die(self, alive, *number):
        return min(super().die(alive, *number), max(0, alive - 1))


@breaks("nothing_takes_nothing")
class KillsAtLeastOne(Plain):
    def die(self, alive, *number):
        return max(super().die(alive, *number), min(alive, 1))


@breaks("is_exact", amount=None, sparsity=0.5)
class SparsityOfTheAlive(Plain):
    """Each round takes its share of what is left."""

    def die(self, alive, items, amount, sparsity, keep):
        return round(sparsity * alive)


@breaks("is_idempotent", exact=False, amount=None, sparsity=0.5)
class SparsityOfTheAliveUnseen(SparsityOfTheAlive):
    """The same, of which no exact count is promised."""


@breaks("keeps_fewer_after_more", ranks=None, amount=None, keep=3)
class KeepsMoreTheSecondTime(Plain):
    """It keeps one more of those that are not alone from the start."""

    def doomed(self, values, places, die):
        return super().doomed(values, places, 0 if len(values) == 3 and die < 3 else die)


@breaks("refuses_the_impossible", amount=3)
class ClampsWhatIsImpossible(Plain):
    def die(self, alive, *number):
        return min(super().die(alive, *number), alive)


# ---- who ------------------------------------------------------------------------------------------------------------


@breaks("takes_the_lower_index_of_equals")
class TakesTheHigherIndex(Plain):
    def doomed(self, values, places, die):
        return places.flip(0)[values.flip(0).argsort(stable=True)[:die]]


@breaks("takes_the_lower_index_of_equals", kinds=["few"], dtypes=[torch.float32], mappings=False)
class TakesNegativeZeroFirst(Plain):
    def doomed(self, values, places, die):
        order = sorted(range(len(values)), key=lambda i: (values[i].item(), not values[i].signbit()))
        return places[torch.tensor(order[:die], dtype=torch.int64, device="cpu")]


@breaks("is_exact")
class TakesAllEquals(Plain):
    """A threshold with `<=`."""

    def doomed(self, values, places, die):
        return places[values <= values.sort()[0][die - 1]] if die else places[:0]


@breaks("everything_takes_everything")
class SparesAllEquals(Plain):
    """A threshold with `<`."""

    def doomed(self, values, places, die):
        return places[values < values.sort()[0][die - 1]] if die else places[:0]


@breaks("takes_the_lowest")
class TakesTheHighest(Plain):
    def doomed(self, values, places, die):
        return places[values.argsort(stable=True)[len(values) - die :]]


@breaks("takes_the_lowest")
class ComparesInFloat32(Plain):
    def comparable(self, scores):
        return [t.detach().float() for t in scores.values()]


@breaks("takes_the_lowest")
class WrapsTheLeastInteger(Plain):
    """abs(-128) of an int8 is -128."""

    def comparable(self, scores):
        return super().comparable({n: t.abs() for n, t in scores.items()})


@breaks("refuses_nan")
class RanksNan(Plain):
    def refuse_nan(self, values, live):
        pass


@breaks("is_nested")
class DrawsAnewForEachNumber(Plain):
    def doomed(self, values, places, die):
        return (places if die % 2 else places.flip(0))[:die]


@breaks("is_exact")
class PrunesEachTensorAlone(Plain):
    def kill(self, scores, alive, *number):
        return {n: super(PrunesEachTensorAlone, self).kill({n: scores[n]}, {n: alive[n]}, *number)[n] for n in alive}


@breaks("takes_items_whole", counts=ml.channels(0), ranks=None, shapes=(3, 2), mappings=False)
class TakesItemsInPart(Plain):
    """As many rows die as should; where any do, the last that lives on loses an element besides."""

    def kill(self, scores, alive, amount, *_):
        mask = alive[""].clone()
        rows = mask.any(1).nonzero()[:, 0]
        mask[rows[: round(amount * len(rows))]] = False
        if not torch.equal(mask, alive[""]) and bool((mask.sum(1) > 1).any()):
            mask[mask.sum(1).argmax(), 0] = False
        return {"": mask}


# ---- from what ------------------------------------------------------------------------------------------------------


@breaks("shrinks")
class ForgetsTheMask(Plain):
    def start(self, t, m):
        return torch.ones(t.shape, dtype=torch.bool, device="cpu")


@breaks("starts_from_all")
class TakesNoMaskForNonzero(Plain):
    def start(self, t, m):
        return t.detach() != 0 if m is None else m.clone()


@breaks("looks_at_survivors_only")
class LooksAtTheDead(Plain):
    """All scores are checked for NaN, those of dead entries too."""

    def refuse_nan(self, values, live):
        super().refuse_nan(values, torch.ones_like(live))


@breaks("is_layout_blind")
class CountsInMemoryOrder(Plain):
    def flat(self, t):
        return t.permute(order(t)).reshape(-1)

    def shaped(self, part, t):
        by_stride = order(t)
        back = sorted(range(t.dim()), key=by_stride.__getitem__)
        return part.reshape([t.shape[d] for d in by_stride]).permute(back).clone()


def order(t: Tensor) -> list[int]:
    return sorted(range(t.dim()), key=lambda d: -t.stride(d))


@breaks("is_order_blind")
class TakesNamesAsTheyCome(Plain):
    def names(self, scores):
        return list(scores)


@breaks("looks_at_no_default_device")
class UsesTheDefaultDevice(Plain):
    def start(self, t, m):
        return torch.ones(t.shape, dtype=torch.bool) if m is None else m.clone()


@breaks("takes_what_is_valid")
class RefusesEmptyTensors(Plain):
    def start(self, t, m):
        if not t.numel():
            raise ValueError("scores are empty")
        return super().start(t, m)


@breaks("is_detached")
class CannotReadWhatNeedsAGradient(Plain):
    def comparable(self, scores):
        return [torch.from_numpy(t.to(torch.float64).numpy()) for t in scores.values()]


# ---- what is left behind --------------------------------------------------------------------------------------------


@breaks("changes_no_input")
class WritesIntoTheMask(Plain):
    def result(self, s, masks):
        return masks if isinstance(s, Mapping) else masks[""]

    def start(self, t, m):
        return m if m is not None and m.is_contiguous() else super().start(t, m)

    def shaped(self, part, t):
        return t.logical_and_(part.reshape(t.shape)).clone()


@breaks("changes_no_input")
class WritesIntoTheScores(Plain):
    def __call__(self, s, m=None, **number):
        mask = super().__call__(s, m, **number)
        if isinstance(s, Tensor) and s.is_contiguous():
            s.detach().masked_fill_(~mask, 0)
        return mask


@breaks("shares_no_memory")
class ReturnsTheMaskItWasGiven(Plain):
    def __call__(self, s, m=None, **number):
        mask = super().__call__(s, m, **number)
        return m if isinstance(m, Tensor) and torch.equal(mask, m) else mask


@breaks("shares_no_memory")
class ReturnsOneBuffer(Plain):
    """Every result is written to the same memory."""

    buffer = torch.empty(4096, dtype=torch.bool)

    def result(self, s, masks):
        if isinstance(s, Mapping):
            return masks
        out = self.buffer[: masks[""].numel()].view(masks[""].shape)
        return out.copy_(masks[""])


@breaks("touches_no_generator")
class BreaksTiesByChance(Plain):
    def doomed(self, values, places, die):
        torch.rand(1, device="cpu")
        return super().doomed(values, places, die)


@breaks("takes_the_lowest", shapes=(3,), mappings=False)
class RanksOnce(Plain):
    """The order of the scores that came first, of each shape, is kept."""

    def __init__(self):
        self.kept = {}

    def doomed(self, values, places, die):
        ranking = self.kept.setdefault((tuple(places.tolist()), values.dtype), values.argsort(stable=True))
        return places[ranking[:die]]


@breaks("remembers_nothing")
class ChangesItsMind(Plain):
    """Every other call takes the highest."""

    calls = 0

    def doomed(self, values, places, die):
        self.calls += 1
        return super().doomed(values if self.calls % 2 else -values, places, die)


@breaks("touches_no_generator", mappings=False, examples=5)
class SeedsTheGenerator(Plain):
    """As many do before they draw."""

    def doomed(self, values, places, die):
        torch.manual_seed(0)
        return super().doomed(values, places, die)


@breaks("remembers_nothing", ranks=None, dtypes=[torch.float32], mappings=False, vmap=False)
class RanksFromTheLastMean(Plain):
    """Up or down, as the mean of the last call was."""

    mean = 0.0

    def doomed(self, values, places, die):
        sign, self.mean = 1 if self.mean > 0 else -1, values.clamp(-9, 9).sum()
        return super().doomed(sign * values, places, die)


@breaks("refuses_nan")
class LooksForNanAtTheFirst(Plain):
    def refuse_nan(self, values, live):
        super().refuse_nan(values[live][:1], slice(None))


@breaks("is_exact")
class RoundsUp(Plain):
    def die(self, alive, items, amount, *_):
        return math.ceil(amount * alive)


@breaks("changes_no_input", amount=1, exact=False, ranks=None, mappings=False, dtypes=[torch.float32])
class MakesMagnitudesOfItsInput(Plain):
    def comparable(self, scores):
        return super().comparable({n: t.detach().abs_() if t.is_contiguous() else t for n, t in scores.items()})


# ---- its form -------------------------------------------------------------------------------------------------------


@breaks("is_a_mask")
class ReturnsFloats(Plain):
    def result(self, s, masks):
        return super().result(s, {n: mask.float() for n, mask in masks.items()})


@breaks("is_a_mask")
class ReturnsSortedNames(Plain):
    def result(self, s, masks):
        return super().result(s, {n: masks[n] for n in sorted(masks)})


@breaks("is_a_mask")
class FlattensTheMask(Plain):
    def shaped(self, part, t):
        return part.clone()


@breaks("vmaps", vmap=True)
class ReadsItemsUnderVmap(Plain):
    """Correct on its own, but nothing that reads data can be mapped over a batch."""


@breaks("vmaps_if_at_all", mappings=False)
class GivesUpUnderVmap(Plain):
    def __call__(self, s, m=None, *, amount):
        if torch._C._functorch.is_batchedtensor(s):
            return torch.ones_like(s, dtype=torch.bool)
        return super().__call__(s, m, amount=amount)


# ---- wherever it is called from -------------------------------------------------------------------------------------

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


@pytest.fixture(autouse=True)
def modes():
    """What a wrong method leaves behind does not reach the next test."""
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


# ---- what is seldom wrong -------------------------------------------------------------------------------------------


@breaks("takes_the_lowest", mappings=False, nan=False, examples=100)
class ClampsInfinities(Plain):
    """An infinity becomes the largest finite value of its dtype."""

    def comparable(self, scores):
        floating = {n: t.is_floating_point() for n, t in scores.items()}
        return super().comparable({n: torch.nan_to_num(t) if floating[n] else t for n, t in scores.items()})


@breaks("takes_the_lowest", mappings=False)
class NegatesTheScores:
    def __call__(self, s, m=None, *, amount):
        return ml.compute_mask(-s.double(), m, amount=amount)


@breaks("is_exact")
class SparesOneWhereTheCutIsTied(Plain):
    def doomed(self, values, places, die):
        order = values.sort()[0]
        tied = 0 < die < len(values) and bool(order[die - 1] == order[die])
        return super().doomed(values, places, die - tied)


@breaks("is_exact")
class SubtractsBeforeItRounds(Plain):
    """Half to even is not the same before and after an odd number is taken away."""

    def die(self, alive, items, amount, *_):
        return alive - round(alive - amount * alive)


@breaks("is_exact", dtypes=[torch.float32, torch.float64], ranks=None)
class CutsAtAQuantile(Plain):
    def doomed(self, values, places, die):
        if not len(values):
            return places
        return places[values <= values.quantile(die / len(values))] if values.isfinite().all() else places[:die]


@breaks("takes_the_lower_index_of_equals", amount=5)
class TakesWhateverTopkTakes(Plain):
    def doomed(self, values, places, die):
        return places[values.topk(die, largest=False).indices]


@breaks("counts_beyond_float32", amount=None, keep=2, large=True, examples=1)
class KeepsAFloat32(Plain):
    """Right up to 2**24."""

    def __call__(self, s, m=None, *, keep, amount=None):
        if isinstance(s, Mapping) or s.numel() < 2**24:
            return super().__call__(s, m, keep=keep)
        return torch.arange(s.numel()) >= s.numel() - int(np.float32(keep))


@breaks("takes_the_lowest")
class RanksIntegersAsFloats(Plain):
    """int64 beyond 2**53."""

    def comparable(self, scores):
        return [t.detach().double() for t in scores.values()]


@breaks("takes_the_lowest")
class RanksBytesAsSigned(Plain):
    def comparable(self, scores):
        return super().comparable({n: t.char() if t.dtype == torch.uint8 else t for n, t in scores.items()})


@breaks("takes_the_lower_index_of_equals")
class TakesTheHigherIndexOfHalves(Plain):
    """Of float16 alone."""

    def kill(self, scores, alive, *number):
        halves = any(t.dtype == torch.float16 for t in scores.values())
        self.take = TakesTheHigherIndex.doomed if halves else Plain.doomed
        return super().kill(scores, alive, *number)

    def doomed(self, values, places, die):
        return self.take(self, values, places, die)


@breaks("takes_the_lowest")
class FlushesDenormals(Plain):
    def comparable(self, scores):
        flushed = {n: t.clone() for n, t in scores.items()}
        for t in flushed.values():
            if t.is_floating_point():
                t[t.abs() < torch.finfo(t.dtype).tiny] = 0
        return super().comparable(flushed)


@breaks("takes_the_lowest", tensors=False, examples=100)
class CastsToTheFirstDtype(Plain):
    """What is in one pool becomes what its first tensor is."""

    def comparable(self, scores):
        first = next(iter(scores.values())).dtype
        return super().comparable({n: t.to(first) for n, t in scores.items()})


@breaks("takes_the_lower_index_of_equals", tensors=False)
class SortsNamesByLength(Plain):
    def names(self, scores):
        return sorted(scores, key=len)


@breaks("refuses_nan")
class LooksForNanInFloat32(Plain):
    def kill(self, scores, alive, *number):
        self.careful = all(t.dtype == torch.float32 for t in scores.values())
        return super().kill(scores, alive, *number)

    def refuse_nan(self, values, live):
        if self.careful:
            super().refuse_nan(values, live)


@breaks("shares_no_memory", amount=0)
class ReturnsAViewWhereNothingIsAskedFor(Plain):
    def __call__(self, s, m=None, *, amount):
        mask = super().__call__(s, m, amount=amount)
        return m.view(m.shape) if isinstance(m, Tensor) and not amount else mask


@breaks("is_layout_blind")
class ReadsTheStorage(Plain):
    """What stands in memory before the first element counts."""

    def doomed(self, values, places, die):
        return super().doomed(values if self.offset % 2 == 0 else -values, places, die)

    def kill(self, scores, alive, *number):
        self.offset = sum(t.storage_offset() for t in scores.values())
        return super().kill(scores, alive, *number)


@pytest.fixture
def unshrunk(monkeypatch):
    """Broken laws are reported with the first cases that broke them."""
    monkeypatch.setattr(_refute, "_shrunk", lambda trials, found, cases, examples: found)


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.usefixtures("unshrunk")
def test_a_wrong_method_is_caught_by_the_law_it_breaks(name):
    check, law = MUTANTS[name]
    with pytest.raises(AssertionError) as caught:
        check()
    broken = {text.split(":")[0]: text for text in str(caught.value).split("\n\n")}
    assert law in broken
    assert f"laws.{law}(" in broken[law]


def test_there_are_wrong_methods_enough():
    assert len(MUTANTS) >= 70
    assert {law for _, law in MUTANTS.values()} > {law.__name__ for law in (*laws.METHODS, *laws.ANYWHERE)}


@pytest.mark.parametrize("name", ["TakesTheHigherIndex", "CountsInMemoryOrder", "TakesNamesAsTheyCome", "RanksNan"])
def test_what_is_shown_can_be_pasted(name):
    """Strides, names and labels included."""
    with pytest.raises(AssertionError) as caught:
        MUTANTS[name][0]()
    wrong = globals()[name]
    for text in str(caught.value).split("\n\n"):
        assert f"# yours is the {name}\n" in text + "\n"
        with pytest.raises((AssertionError, ValueError)):
            exec("\n".join(text.splitlines()[1:]), {"yours": wrong(), "pos": operator.pos})
