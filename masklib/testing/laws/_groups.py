"""The laws of groups: plain data, told apart from others, and equal to the labels that say the same."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from functools import partial
from operator import attrgetter
from typing import Any

import masklib as ml
from masklib.testing import _oracle as oracle
from masklib.testing._oracle import named
from masklib.testing.laws._compare import like, same
from masklib.testing.laws._methods import Method, Number
from masklib.testing.laws._rules import possible, raises


def is_the_labels_form(groups: Any, number: Number, s: Any, m: Any, method: Method = ml.compute_mask) -> None:
    """method(s, m, groups) = method(s, m, labels(items, pools)), for sums, refusals included.

    >>> is_the_labels_form(rows(), {"keep": 1}, torch.ones(2, 2), None)
    """
    said = oracle.labels(groups, {n: tuple(t.shape) for n, t in named(s).items()})
    if said is None:
        return
    general = partial(method, groups=ml.labels(*(like(s, part) for part in said)), **number)
    if possible(groups, number, s, m):
        assert same(general(s, m), method(s, m, groups=groups, **number))
    else:
        assert raises(general, s, m)
        assert raises(partial(method, groups=groups, **number), s, m)


def is_plain_data(groups: Any) -> None:
    """groups = copy(groups) = loads(dumps(groups)) = eval(repr(groups)), with equal hashes.

    What evaluates the repr has the names of masklib, and the types of the value and of those it couples. Pickle finds a
    class by its module and name; a value of a class that cannot be found so, a local one, is held to the rest.

    >>> is_plain_data(rows())
    """
    twins = [copy.deepcopy(groups)]
    if all(map(_is_found, _types(groups))):
        twins.append(pickle.loads(pickle.dumps(groups)))
    if "tensor(" not in repr(groups):
        names = {kind.__name__: kind for kind in _types(groups)}
        twins.append(eval(repr(groups), {**names, **vars(ml), "inf": math.inf, "nan": math.nan}))
    for twin in twins:
        assert type(twin) is type(groups)
        assert twin == groups
        assert (twin != groups) is False
        assert hash(twin) == hash(groups)


def _is_found(kind: type) -> bool:
    """Whether a class is what its module has by its name."""
    try:
        return attrgetter(kind.__qualname__)(sys.modules.get(kind.__module__)) is kind
    except AttributeError:
        return False


def _types(groups: Any) -> list[type]:
    """The type of a value, and of those that it couples."""
    coupled = (value for members in getattr(groups, "members", ()) for _, value in members)
    return [type(groups), *map(type, coupled)]


def equals_what_folds_alike(groups: Any, other: Any, s: Any) -> None:
    """groups = other only if both have the same items and the same pools.

    >>> equals_what_folds_alike(rows(0), rows(1), torch.ones(2, 3))
    """
    if groups == other or other == groups:
        shapes = {n: tuple(t.shape) for n, t in named(s).items()}
        alike = type(other) is type(groups) and oracle.pools(groups, shapes) == oracle.pools(other, shapes)
        assert alike, f"{other!r} is equal to it"
