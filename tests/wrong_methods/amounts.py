"""Methods that kill another number than they were told."""

from __future__ import annotations

import math

import torch

from wrong_methods.plain import Plain, breaks


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
