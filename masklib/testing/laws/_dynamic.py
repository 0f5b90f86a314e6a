"""The laws of regrowth and of budgets.

`g` are grow scores of the form of `s`, `share` is in [0, 1], and `budget` a function `budget(params, sparsity)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

import masklib as ml
from masklib.testing._oracle import flat, named
from masklib.testing.laws._compare import below, same


def keeps_the_count(s: Any, m: Any, g: Any, share: float) -> None:
    """|regrow(s, m, grow_scores=g, amount=share)| = |m|."""
    assert ml.count(ml.regrow(s, m, grow_scores=g, amount=share)) == ml.count(ml.identity(s, m))


def keeps_who_was_not_dropped(s: Any, m: Any, g: Any, share: float) -> None:
    """compute_mask(s, m, amount=share) <= regrow(s, m, grow_scores=g, amount=share)."""
    assert below(ml.compute_mask(s, m, amount=share), ml.regrow(s, m, grow_scores=g, amount=share))


def grows_the_highest(s: Any, m: Any, g: Any, share: float) -> None:
    """Of what was dead or just dropped, none that stays dead has a higher g than one that grows."""
    outside = named(ml.complement(ml.compute_mask(s, m, amount=share)))
    got = named(ml.regrow(s, m, grow_scores=g, amount=share))
    entries = [
        (value, lives)
        for n, t in named(g).items()
        for value, lives, out in zip(flat(t), flat(got[n]), flat(outside[n]))
        if out
    ]
    grown, rest = ([value for value, lives in entries if lives == wanted] for wanted in (True, False))
    assert not grown or not rest or max(rest) <= min(grown)


def regrows_nothing_for_nothing(s: Any, m: Any, g: Any) -> None:
    """regrow(s, m, grow_scores=g, amount=0) = m."""
    assert same(ml.regrow(s, m, grow_scores=g, amount=0), ml.identity(s, m))


def adds_up(budget: Callable[..., Mapping[str, float]], params: Mapping[str, Tensor], sparsity: float) -> None:
    """sum(budget(params, sparsity)[name] * size[name]) = sparsity * sum(size), each share in [0, 1], up to rounding."""
    shares = budget(params, sparsity)
    sizes = {n: t.numel() for n, t in params.items()}
    total = sum(sizes.values())
    assert shares.keys() == sizes.keys()
    assert all(0 <= share <= 1 for share in shares.values())
    assert abs(sum(shares[n] * sizes[n] for n in sizes) - sparsity * total) <= 1e-9 * max(total, 1)
