"""What wrong methods are made of: `compute_mask` of single elements, in steps that can be done wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from masklib.testing import check_method

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
