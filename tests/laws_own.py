"""The laws of what only masklib has: histories, `layerwise`, `regrow`, and the wording of refusals.

`f` and `g` are methods with their numbers bound, `s` are scores, `m` is a mask or None; of `regrow`, `g` are grow
scores of the form of `s`, and `share` is in [0, 1].
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import masklib as ml
from masklib.testing import laws
from masklib.testing._oracle import flat, named
from masklib.testing.laws import below, same

# ---- histories and mappings -----------------------------------------------------------------------------------------


def folds(f: Any, g: Any, s: Any, m: Any) -> None:
    """fold((f, g), s, m) = g(s, f(s, m)) = chain(f, g)(s, m) = scan((f, g), s, m)[-1]."""
    between, last = f(s, ml.identity(s, m)), g(s, f(s, m))
    assert same(ml.fold((f, g), s, m), last)
    assert same(ml.chain(f, g)(s, m), last)
    scanned = ml.scan((f, g), s, m)
    assert len(scanned) == 3
    assert all(same(a, b) for a, b in zip(scanned, (ml.identity(s, m), between, last)))


def is_layerwise(method: Any, numbers: Mapping[str, dict[str, Any]], s: Mapping[str, Tensor], m: Any) -> None:
    """layerwise(f)(s, m, **numbers)[name] = f({name: s[name]}, {name: m[name]}, **numbers[name])[name]."""
    arguments = {a for number in numbers.values() for a in number}
    given = {a: {n: numbers[n][a] for n in s} for a in arguments}
    got = ml.layerwise(method)(s, m, **given)
    for n in s:
        alone = method({n: s[n]}, None if m is None else {n: m[n]}, **numbers[n])
        assert torch.equal(got[n], alone[n])


# ---- refusals -------------------------------------------------------------------------------------------------------


def follows_the_rule(
    method: Any, groups: Any, number: dict[str, Any], s: Any, m: Any, ranks: Any = operator.pos
) -> None:
    """The law of the kit; and what is impossible is refused in words: by the argument and its limits."""
    laws.follows_the_rule(method, groups, number, s, m, ranks)
    if not laws.possible(groups, number, s, m):
        (argument,) = number
        assert f"`{argument}` must be between 0 and" in refusal(partial(method, **number), s, m)


def refusal(f: Any, *arguments: Any) -> str:
    """What the ValueError of a call says, nothing if it raises none."""
    try:
        f(*arguments)
    except ValueError as error:
        return str(error)
    return ""


# ---- regrowth -------------------------------------------------------------------------------------------------------


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
