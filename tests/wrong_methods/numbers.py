"""Methods that are wrong about few numbers: infinities, rounding, sizes of integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

import masklib as ml
from wrong_methods.plain import Plain, breaks
from wrong_methods.ranking import TakesTheHigherIndex


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
