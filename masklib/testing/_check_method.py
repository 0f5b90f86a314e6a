"""`check_method`: every law that applies to a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from masklib.groups import Groups
from masklib.testing import laws
from masklib.testing._oracle import is_fraction
from masklib.testing._refute import Law, uphold
from masklib.testing._strategies import DTYPES, KINDS, Shapes, fractions, masks, scored, scores, shapes

_NUMBERS = ("amount", "keep", "sparsity")
_HINTS = {
    laws.takes_what_is_valid: "# for a method that takes tensors only, pass mappings=False; for other shapes, shapes=",
    laws.vmaps: "# for a method that need not run under torch.vmap, pass vmap=False",
}

Trial = tuple[Law, SearchStrategy[Any]]


def check_method(
    method: Callable[..., Any],
    *,
    exact: Groups | None = None,
    ranks: Callable[[Any], Any] | None = None,
    shapes: Shapes = None,
    dtypes: Sequence[torch.dtype] | None = None,
    kinds: Sequence[str] | None = None,
    mappings: bool = True,
    vmap: bool = True,
    examples: int = 50,
    **params: Any,
) -> None:
    """Check the laws of pruning on a method, `method(scores, default_mask, **params) -> mask`.

    Scores are drawn in all dtypes, shapes and layouts, masks in all densities. A number (`amount`, `keep` or
    `sparsity`) is varied: a share within [0, 1], a count from 0 to what is given.

    Args:
        method: the method; it takes scores and a mask or None by position, and `params` by name.
        exact: the groups in which it promises exact counts; if `groups` is among the params, these.
        ranks: what it ranks of a score, as a function of one Python number, if the lowest are to die and the lower
            index among equals: `abs` for magnitudes, `operator.pos` for the scores themselves. It needs `exact`.
        shapes: a shape or a strategy of shapes that the method can take; None for all from 0-d to 4-d, empty ones
            included.
        dtypes: the dtypes it can take; None for all.
        kinds: which scores to draw, see `scores`; None for all, or for items of several elements for those whose sums
            are exact.
        mappings: whether it takes mappings by name too.
        vmap: whether it runs under torch.vmap.
        examples: how many cases to draw for each law, always the same ones.
        params: what to pass on to the method.

    Raises:
        AssertionError: if a law is broken; the first line names the law, the rest is the smallest counterexample
            found, as code.

    >>> check_method(l1_unstructured, amount=0.3, exact=elements(), ranks=abs, examples=5)
    >>> def forgetful(scores, default_mask, *, amount):
    ...     return l1_unstructured(scores, None, amount=amount)
    >>> check_method(forgetful, amount=0.3)
    Traceback (most recent call last):
    AssertionError: shrinks: f(s, m) <= m.
    ...
    """
    exact = params.get("groups", exact)
    kinds = kinds or (("small", "few") if _itemized(exact) else KINDS)
    promise = _Promise(method, exact, ranks, shapes, dtypes, kinds, mappings, params)
    for law, arguments in (*_trials(promise), *(_vmapped(promise) if vmap else ())):
        uphold(law, arguments, examples, _HINTS.get(law, ""))


def _itemized(groups: Any) -> bool:
    return hasattr(groups, "p") or hasattr(groups, "items")


class _Promise(NamedTuple):
    """What is said of a method."""

    method: Callable[..., Any]
    exact: Any
    ranks: Callable[[Any], Any] | None
    shapes: Shapes
    dtypes: Sequence[torch.dtype] | None
    kinds: Sequence[str]
    mappings: bool
    params: dict[str, Any]

    @property
    def number(self) -> dict[str, Any]:
        """The number that is varied, as a dict of one or none."""
        given = {n: self.params[n] for n in _NUMBERS if self.params.get(n) is not None}
        return {} if any(isinstance(v, Mapping) for v in given.values()) else given

    @property
    def bound(self) -> Callable[..., Any]:
        """The method with everything but the number bound."""
        others = {n: v for n, v in self.params.items() if n not in self.number}
        return partial(self.method, **others) if others else self.method

    @property
    def cases(self) -> SearchStrategy[tuple[Any, Any]]:
        """Scores and masks."""
        options: dict[str, Any] = {"dtypes": self.dtypes, "kinds": self.kinds}
        return scored(None if self.mappings else False, self.shapes, **options)

    def around(self) -> SearchStrategy[dict[str, Any]]:
        """The number and others like it."""
        if not self.number:
            return st.just({})
        ((name, value),) = self.number.items()
        values = st.just(value) | fractions() if is_fraction(value) else st.integers(0, int(value)) | st.just(value)
        return values.map(lambda x: {name: x})

    def possible(self, number: Mapping[str, Any], s: Any, m: Any) -> bool:
        """Whether there are as many items as a number says; where no groups are known, the method's word is taken."""
        if not number or all(is_fraction(x) for x in number.values()):
            return True
        if self.exact is not None:
            return laws.possible(self.exact, dict(number), s, m)
        return not laws.refusal(partial(self.bound, **number), s, m)


# ---- which laws, on what --------------------------------------------------------------------------------------------


def _trials(p: _Promise) -> Iterator[Trial]:
    for law in laws.METHODS:
        yield law, _functions(p)
    if p.number:
        yield from _numbered(p)
    if p.exact is not None and p.number:
        yield from _counted(p)
    if p.ranks is not None:
        yield laws.refuses_nan, _functions(p)


def _functions(p: _Promise) -> SearchStrategy[Any]:
    """(f, s, m)."""
    drawn = st.tuples(p.around(), p.cases).filter(lambda x: p.possible(x[0], *x[1]))
    return drawn.map(lambda x: (partial(p.bound, **x[0]) if x[0] else p.bound, *x[1]))


def _numbered(p: _Promise) -> Iterator[Trial]:
    (name,) = p.number
    whole = not is_fraction(p.number[name])
    if name != "keep":
        yield laws.nothing_takes_nothing, _fixed(p, {name: 0 if whole else 0.0})
    if name == "keep" or not whole:
        yield laws.everything_takes_everything, _fixed(p, {name: 0 if whole else 1.0})
    yield laws.is_nested, _two(p)
    if name != "amount":
        yield laws.is_idempotent, _one(p)
        yield laws.keeps_fewer_after_more, _two(p)


def _fixed(p: _Promise, number: dict[str, Any]) -> SearchStrategy[Any]:
    return p.cases.map(lambda case: (p.bound, number, *case))


def _one(p: _Promise) -> SearchStrategy[Any]:
    """(method, number, s, m)."""
    drawn = st.tuples(p.around(), p.cases).filter(lambda x: p.possible(x[0], *x[1]))
    return drawn.map(lambda x: (p.bound, x[0], *x[1]))


def _two(p: _Promise) -> SearchStrategy[Any]:
    """(method, small, large, s, m), of which the first takes no more than the second."""
    drawn = st.tuples(p.around(), p.around(), p.cases)
    allowed = drawn.filter(lambda x: all(p.possible(number, *x[2]) for number in x[:2]))
    return allowed.map(lambda x: (p.bound, *sorted(x[:2], key=_taken), *x[2]))


def _taken(number: Mapping[str, Any]) -> float:
    ((name, value),) = number.items()
    return -float(value) if name == "keep" else float(value)


def _counted(p: _Promise) -> Iterator[Trial]:
    one = _one(p)
    yield laws.is_exact, one.map(lambda x: (x[0], p.exact, *x[1:]))
    yield laws.takes_items_whole, one.map(lambda x: (x[0], p.exact, *x[1:]))
    if p.ranks is not None:
        ranked = one.map(lambda x: (x[0], p.exact, p.ranks, *x[1:]))
        yield laws.takes_the_lowest, ranked
        yield laws.takes_the_lower_index_of_equals, ranked
    if not all(is_fraction(x) for x in p.number.values()):
        (name,) = p.number
        beyond = st.tuples(st.integers(0, 700).map(lambda x: {name: x}), p.cases)
        yield laws.refuses_the_impossible, beyond.map(lambda x: (p.bound, p.exact, x[0], *x[1]))


def _vmapped(p: _Promise) -> Iterator[Trial]:
    batches = st.tuples(p.around(), _batch(p)).filter(
        lambda x: all(p.possible(x[0], *one) for one in laws.unstacked(*x[1]))
    )
    yield laws.vmaps, batches.map(lambda x: (partial(p.bound, **x[0]) if x[0] else p.bound, *x[1]))


@st.composite
def _batch(draw: st.DrawFn, p: _Promise) -> tuple[Any, Any]:
    """Two scores and two masks of one shape, stacked."""
    drawn = p.shapes if isinstance(p.shapes, SearchStrategy) else shapes() if p.shapes is None else st.just(p.shapes)
    shape, dtype = draw(drawn), draw(st.sampled_from(p.dtypes or DTYPES))
    one = scores(shape, dtypes=[dtype], kinds=p.kinds)
    return tuple(torch.stack([draw(part), draw(part)]) for part in (one, masks(shape)))  # type: ignore[return-value]
