"""Methods that kill others than the lowest."""

from __future__ import annotations

import torch
from torch import Tensor

import masklib as ml
from wrong_methods.plain import Plain, breaks

# ---- who -------------------------------------------------------------------------------------------------------------


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


# ---- from what -------------------------------------------------------------------------------------------------------


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
