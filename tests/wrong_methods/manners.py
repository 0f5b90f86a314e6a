"""Methods that leave something behind, or answer in another form."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from wrong_methods.plain import Plain, breaks

# ---- what is left behind ---------------------------------------------------------------------------------------------


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


# ---- its form --------------------------------------------------------------------------------------------------------


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
