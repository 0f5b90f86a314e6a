"""What is said of a method, what is drawn for it, and which laws that makes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from masklib.algebra import count
from masklib.groups import elements
from masklib.methods import identity
from masklib.testing import _options as options
from masklib.testing import laws
from masklib.testing._fit import itemized
from masklib.testing._numbers import fractions
from masklib.testing._oracle import is_fraction
from masklib.testing._refute import Failure, Law, Trial, refuted, wanted_of
from masklib.testing._strategies import DTYPES, KINDS, SUMMABLE, Shapes, masks, scored, scores, shapes

_NUMBERS = ("amount", "keep", "sparsity")
_VALID = (
    "# for a method that takes tensors only, pass mappings=False; mappings only, tensors=False; "
    "else what it takes as shapes=, dtypes= or kinds="
)
_EXACT = (
    "# for a method that promises no exact counts, pass exact=False; for one that counts rows, channels, ..., its "
    "groups as counts="
)
_RANKS = (
    "# for a method that does not take the lowest scores, pass ranks=None; for one that ranks magnitudes, "
    "ranks=torch.abs; another score, a function of a tensor"
)
_TIES = "# for a method that promises no order among equals, pass ties=False"
_NAN = "# for a method that does not refuse NaN, pass nan=False"
_VMAP = "# for a method that nobody runs under torch.vmap, pass vmap=False"


class Promise(NamedTuple):
    """What is said of a method: the arguments of `check_method`."""

    method: Callable[..., Any]
    counts: Any
    exact: bool
    ranks: Callable[[Any], Any] | None
    ties: bool
    nan: bool
    without: Collection[Law]
    shapes: Shapes
    dtypes: Sequence[torch.dtype] | None
    kinds: Sequence[str] | None
    tensors: bool
    mappings: bool
    vmap: bool | None
    compiles: bool
    forks: bool
    large: bool
    params: dict[str, Any]

    @property
    def groups(self) -> Any:
        """The groups whose items are counted."""
        return next((g for g in (self.counts, self.params.get("groups")) if g is not None), elements())

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

    def bind(self, number: Mapping[str, Any]) -> Callable[..., Any]:
        """The method with a number bound too."""
        return partial(self.bound, **number) if number else self.bound

    def possible(self, number: Mapping[str, Any], s: Any, m: Any) -> bool:
        """Whether there are as many items as a number says; the method's word is taken if it promises no counts."""
        if not number or all(is_fraction(x) for x in number.values()):
            return True
        if self.exact:
            return laws.possible(self.groups, dict(number), s, m)
        try:
            self.bind(number)(*copy.deepcopy((s, m)))
        except ValueError:
            return False
        except Exception:  # for the laws to say
            return True
        return True


def results(p: Promise, examples: int) -> dict[str, Failure | None]:
    """By the name of each law that applies, None if it holds, or what broke it."""
    _refuse(p, examples)
    drawn = [_drawn(p, mapping) for mapping, wanted in ((False, p.tensors), (True, p.mappings)) if wanted]
    found = refuted(drawn, wanted_of(_trials(p), p.without), examples)
    for cases, trials, most in _once(p, drawn[0]):
        found |= refuted([cases], wanted_of(trials, p.without), min(examples, most))
    return found


def _refuse(p: Promise, examples: int) -> None:
    """Refuse what cannot be checked, before anything is drawn."""
    options.is_callable("method", p.method, "check_method(ml.compute_mask, amount=0.3)")
    options.is_positive("examples", examples)
    options.are_forms(p.tensors, p.mappings)
    options.are_dtypes(p.dtypes)
    options.are_kinds(p.kinds)
    options.are_laws(p.without)
    options.are_bools(exact=p.exact, ties=p.ties, nan=p.nan, compiles=p.compiles, forks=p.forks, large=p.large)
    if p.counts is not None:
        options.is_groups("counts", p.counts)
    if p.ranks is not None:
        options.is_callable("ranks", p.ranks, "ranks=torch.abs")
    options.are_numbers(p.number)
    if p.large and not p.number:
        raise ValueError("`large` needs a number to count with, got none: amount=0.3.")


# ---- what is drawn --------------------------------------------------------------------------------------------------


def _drawn(p: Promise, mapping: bool) -> SearchStrategy[tuple[Any, ...]]:
    """A number; two of which the first takes no more than the second; scores and a mask."""
    cases = scored(mapping, p.shapes, dtypes=p.dtypes, kinds=_kinds(p))

    def numbered(case: tuple[Any, Any]) -> SearchStrategy[tuple[Any, ...]]:
        around = _around(p, int(count(identity(*case))))
        return st.tuples(around, around).map(lambda pair: (pair[0], *sorted(pair, key=_taken), *case))

    return cases.flatmap(numbered)


def _kinds(p: Promise) -> Sequence[str]:
    return p.kinds or (SUMMABLE if itemized(p.groups) else KINDS)


def _around(p: Promise, alive: int | None = None) -> SearchStrategy[dict[str, Any]]:
    """The number and others like it, where so many elements are alive."""
    if not p.number:
        return st.just({})
    ((name, value),) = p.number.items()
    others = fractions(alive) if is_fraction(value) else st.integers(0, int(value))
    return (st.just(value) | others).map(lambda x: {name: x})


def _taken(number: Mapping[str, Any]) -> float:
    return max((-float(x) if name == "keep" else float(x) for name, x in number.items()), default=0.0)


@st.composite
def _batches(draw: st.DrawFn, p: Promise) -> tuple[Any, ...]:
    """A number, and two scores and two masks of one shape, stacked."""
    number = draw(_around(p))
    drawn = p.shapes if isinstance(p.shapes, SearchStrategy) else shapes() if p.shapes is None else st.just(p.shapes)
    shape, dtype = draw(drawn), draw(st.sampled_from(p.dtypes or DTYPES))
    one = scores(shape, dtypes=[dtype], kinds=_kinds(p))
    return number, *(torch.stack([draw(part), draw(part)]) for part in (one, masks(shape)))


# ---- which laws, on what --------------------------------------------------------------------------------------------


def _trials(p: Promise) -> Iterator[Trial]:
    for law in (*laws.METHODS, *laws.ANYWHERE):
        yield Trial(law, partial(_bound, p), _VALID if law is laws.takes_what_is_valid else "")
    if p.number:
        yield from _numbered(p)
        yield from _counted(p)
    if p.nan:
        yield Trial(laws.refuses_nan, partial(_bound, p), _NAN)


def _bound(p: Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...] | None:
    """(f, s, m)."""
    return (p.bind(number), s, m) if p.possible(number, s, m) else None


def _one(p: Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...] | None:
    """(method, number, s, m)."""
    return (p.bound, number, s, m) if p.possible(number, s, m) else None


def _two(p: Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...] | None:
    """(method, small, large, s, m)."""
    return (p.bound, small, large, s, m) if p.possible(small, s, m) and p.possible(large, s, m) else None


def _numbered(p: Promise) -> Iterator[Trial]:
    """The laws of the number."""
    (name,) = p.number
    whole = not is_fraction(p.number[name])
    none, every = ({name: int(x) if whole else x} for x in (0.0, 1.0))
    if name != "keep":
        yield Trial(laws.nothing_takes_nothing, lambda number, small, large, s, m: (p.bound, none, s, m))
    if p.exact and (name == "keep" or not whole):
        all_of_it = none if name == "keep" else every
        everything = lambda number, small, large, s, m: (p.bound, all_of_it, s, m)  # noqa: E731
        yield Trial(laws.everything_takes_everything, everything, _EXACT)
    yield Trial(laws.is_nested, partial(_two, p))
    if name != "amount":
        yield Trial(laws.is_idempotent, partial(_one, p))
        if p.exact:
            yield Trial(laws.keeps_fewer_after_more, partial(_two, p), _EXACT)


def _counted(p: Promise) -> Iterator[Trial]:
    """The laws of the one rule."""

    def grouped(*given: Any) -> tuple[Any, ...] | None:
        """(method, groups, number, s, m)."""
        one = _one(p, *given)
        return one and (p.bound, p.groups, *one[1:])

    def ranked(*given: Any) -> tuple[Any, ...] | None:
        """(method, groups, ranks, number, s, m)."""
        one = _one(p, *given)
        return one and (p.bound, p.groups, p.ranks, *one[1:])

    if p.exact:
        yield Trial(laws.is_exact, grouped, _EXACT)
        yield Trial(laws.takes_items_whole, grouped, _EXACT)
        if not all(is_fraction(x) for x in p.number.values()):
            yield Trial(laws.refuses_the_impossible, partial(_beyond, p), _EXACT)
    if p.ranks is not None:
        yield Trial(laws.takes_the_lowest, ranked, _RANKS)
        if p.ties:
            yield Trial(laws.takes_the_lower_index_of_equals, ranked, _TIES)


def _beyond(p: Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...]:
    """(method, groups, number, s, m), the number above what is alive, or one above."""
    alive = int(count(identity(s, m)))
    return p.bound, p.groups, {name: alive + 1 + int(x) for name, x in number.items()}, s, m


# ---- what is tried on few cases -------------------------------------------------------------------------------------


def _batch(p: Promise, number: Any, s: Any, m: Any) -> tuple[Any, ...] | None:
    """(f, s, m), stacked, if each of the stack can be done."""
    return (p.bind(number), s, m) if all(p.possible(number, *one) for one in zip(s, m)) else None


_FEW = 3  # a compilation takes about a second, a fork 20 ms, 2**24 elements up to two seconds


def _once(p: Promise, drawn: SearchStrategy[Any]) -> Iterator[tuple[SearchStrategy[Any], Iterator[Trial], int]]:
    """Cases, laws, and how many examples at most."""
    if p.tensors and p.vmap is not False:
        law = laws.vmaps if p.vmap else laws.vmaps_if_at_all
        yield _batches(p), iter([Trial(law, partial(_batch, p), _VMAP)]), 2**31
    for law, wanted in ((laws.compiles, p.compiles), (laws.is_the_same_in_a_forked_child, p.forks)):
        if wanted:
            yield drawn, iter([Trial(law, partial(_bound, p))]), _FEW
    if p.large:
        ((name, value),) = p.number.items()
        number = {name: 0.75 if is_fraction(value) else 2**24 + 1}  # 3/4 of 2**24 + 3 rounds otherwise in float32
        yield st.just(()), iter([Trial(laws.counts_beyond_float32, lambda: (p.bound, number), _EXACT)]), 1
