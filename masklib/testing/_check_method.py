"""`check_method`: every law that applies to a method."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from masklib.algebra import count
from masklib.groups import Groups
from masklib.methods import identity
from masklib.testing import _options as options
from masklib.testing import laws
from masklib.testing._infer import exact_groups, ranking
from masklib.testing._oracle import is_fraction
from masklib.testing._refute import Failure, Trial, refuted, uphold
from masklib.testing._strategies import DTYPES, KINDS, SUMMABLE, Shapes, fractions, masks, scored, scores, shapes

_NUMBERS = ("amount", "keep", "sparsity")
_VALID = (
    "# for a method that takes tensors only, pass mappings=False; mappings only, tensors=False; "
    "else what it takes as shapes=, dtypes= or kinds="
)
_EXACT = "# for a method that promises no exact counts of single elements, pass exact=None, or its groups"
_RANKS = "# for a method that does not take the lowest of the scores or magnitudes, pass ranks=None"
_VMAP = "# for a method that nobody runs under torch.vmap, pass vmap=False"


def check_method(
    method: Callable[..., Any],
    *,
    exact: Groups | Literal["infer"] | None = "infer",
    ranks: Callable[[Any], Any] | Literal["infer"] | None = "infer",
    shapes: Shapes = None,
    dtypes: Sequence[torch.dtype] | None = None,
    kinds: Sequence[str] | None = None,
    tensors: bool = True,
    mappings: bool = True,
    vmap: bool | None = None,
    compiles: bool = False,
    examples: int = 100,
    **params: Any,
) -> None:
    """Check the laws of pruning on a method, `method(scores, default_mask, **params) -> mask`.

    Scores are drawn in all dtypes, shapes and layouts, masks in all densities. A number (`amount`, `keep` or
    `sparsity`) is varied: a share within [0, 1], a count from 0 to what is given.

    Args:
        method: the method; it takes scores and a mask or None by position, and `params` by name.
        exact: the groups in which it promises exact counts; None for no promise, which drops the laws of
            counts. "infer" takes `groups` from the params, or else `elements()` if as many elements die as asked for
            in a few tensors without ties.
        ranks: what it ranks of a score, a function of one Python number, if the lowest are to die and the lower index
            among equals: `abs` for magnitudes, `operator.pos` for the scores themselves; None for no promise. "infer"
            takes that of the two which explains who dies in a few tensors without ties, if any. It needs `exact`.
        shapes: a shape or a strategy of shapes that the method can take; None for all from 0-d to 4-d, empty ones
            included.
        dtypes: the dtypes it can take; None for all.
        kinds: which scores to draw, see `scores`; None for all, or for items of several elements for those whose sums
            are exact.
        tensors: whether it takes tensors.
        mappings: whether it takes mappings by name.
        vmap: whether it must run under torch.vmap; None for not, but what it gives there must be right.
        compiles: whether it must run as one compiled graph; this takes seconds.
        examples: how many cases to draw for each law, always the same ones.
        params: what to pass on to the method.

    Raises:
        TypeError, ValueError: if an argument is not as above.
        AssertionError: if laws are broken; for each a paragraph, whose first line names the law and whose rest is the
            smallest counterexample found, as code that can be run.

    >>> check_method(l1_unstructured, amount=0.3, examples=5)
    >>> def forgetful(scores, default_mask, *, amount):
    ...     return l1_unstructured(scores, None, amount=amount)
    >>> check_method(forgetful, amount=0.3)
    Traceback (most recent call last):
    AssertionError: shrinks: f(s, m) <= m.
    ...
    """
    given: dict[str, Any] = {"tensors": tensors, "mappings": mappings, "vmap": vmap, "compiles": compiles}
    uphold(_refuted(method, exact, ranks, shapes, dtypes, kinds, params, examples=examples, **given))


def method_laws(method: Callable[..., Any], **options: Any) -> dict[str, str | None]:
    """Try every law of methods that applies to a method.

    Args:
        method: the method.
        options: as for `check_method`.

    Returns:
        By the name of each law, None if it holds, or what broke it.

    >>> method_laws(l1_unstructured, amount=0.3, examples=5)["shrinks"] is None
    True
    """
    names = ("exact", "ranks", "shapes", "dtypes", "kinds", "tensors", "mappings", "vmap", "compiles", "examples")
    defaults = check_method.__kwdefaults__ or {}
    said = {name: options.pop(name, defaults[name]) for name in names}
    return {name: failure and failure.text for name, failure in _refuted(method, params=options, **said).items()}


def _refuted(
    method: Callable[..., Any],
    exact: Any,
    ranks: Any,
    shapes: Shapes,
    dtypes: Sequence[torch.dtype] | None,
    kinds: Sequence[str] | None,
    params: dict[str, Any],
    tensors: bool,
    mappings: bool,
    vmap: bool | None,
    compiles: bool,
    examples: int,
) -> dict[str, Failure | None]:
    options.is_callable("method", method, "check_method(ml.l1_unstructured, amount=0.3)")
    options.is_positive("examples", examples)
    options.are_forms(tensors, mappings)
    options.are_dtypes(dtypes)
    options.are_kinds(kinds)
    if exact != "infer" and exact is not None:
        options.is_groups("exact", exact)
    if ranks != "infer" and ranks is not None:
        options.is_callable("ranks", ranks, "ranks=abs")
    said = _Promise(method, None, None, shapes, dtypes, kinds or KINDS, params, exact is not None)
    options.are_numbers(said.number)
    if exact == "infer":
        exact = params.get("groups") or exact_groups(said.bound, said.number)
    if ranks == "infer":
        ranks = ranking(said.bound, said.number, exact) if exact is not None else None
    promise = said._replace(exact=exact, ranks=ranks, kinds=kinds or (SUMMABLE if _itemized(exact) else KINDS))
    forms = {False: tensors, True: mappings}
    results = refuted([promise.drawn(mapping) for mapping in forms if forms[mapping]], list(_trials(promise)), examples)
    if tensors and vmap is not False:
        law = laws.vmaps if vmap else laws.vmaps_if_at_all
        results |= refuted([promise.batches()], [_vmapped(promise, law)], examples)
    if compiles:
        trial = Trial(laws.compiles, partial(_bound, promise))
        results |= refuted([promise.drawn(not tensors)], [trial], min(examples, 3))
    return results


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
    params: dict[str, Any]
    counts: bool

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

    def drawn(self, mapping: bool) -> SearchStrategy[tuple[Any, ...]]:
        """A number; two of which the first takes no more than the second; scores and a mask."""
        cases = scored(mapping, self.shapes, dtypes=self.dtypes, kinds=self.kinds)

        def numbered(case: tuple[Any, Any]) -> SearchStrategy[tuple[Any, ...]]:
            around = self._around(int(count(identity(*case))))
            return st.tuples(around, around).map(lambda pair: (pair[0], *sorted(pair, key=_taken), *case))

        return cases.flatmap(numbered)

    def _around(self, alive: int | None = None) -> SearchStrategy[dict[str, Any]]:
        """The number and others like it, where so many elements are alive."""
        if not self.number:
            return st.just({})
        ((name, value),) = self.number.items()
        others = fractions(alive) if is_fraction(value) else st.integers(0, int(value))
        return (st.just(value) | others).map(lambda x: {name: x})

    def batches(self) -> SearchStrategy[tuple[Any, ...]]:
        """A number, and two scores and two masks of one shape, stacked."""
        return st.tuples(self._around(), _batch(self)).map(lambda x: (x[0], *x[1]))

    def bind(self, number: Mapping[str, Any]) -> Callable[..., Any]:
        """The method with a number bound too."""
        return partial(self.bound, **number) if number else self.bound

    def possible(self, number: Mapping[str, Any], s: Any, m: Any) -> bool:
        """Whether there are as many items as a number says; where no groups are known, the method's word is taken."""
        if not number or all(is_fraction(x) for x in number.values()):
            return True
        if self.exact is not None:
            return laws.possible(self.exact, dict(number), s, m)
        try:
            self.bind(number)(*copy.deepcopy((s, m)))
        except ValueError:
            return False
        except Exception:  # for the laws to say
            return True
        return True


def _taken(number: Mapping[str, Any]) -> float:
    return max((-float(x) if name == "keep" else float(x) for name, x in number.items()), default=0.0)


@st.composite
def _batch(draw: st.DrawFn, p: _Promise) -> tuple[Any, Any]:
    drawn = p.shapes if isinstance(p.shapes, SearchStrategy) else shapes() if p.shapes is None else st.just(p.shapes)
    shape, dtype = draw(drawn), draw(st.sampled_from(p.dtypes or DTYPES))
    one = scores(shape, dtypes=[dtype], kinds=p.kinds)
    return tuple(torch.stack([draw(part), draw(part)]) for part in (one, masks(shape)))  # type: ignore[return-value]


# ---- which laws, on what --------------------------------------------------------------------------------------------


def _trials(p: _Promise) -> Iterator[Trial]:
    for law in laws.METHODS:
        yield Trial(law, partial(_bound, p), _VALID if law is laws.takes_what_is_valid else "")
    if p.number:
        yield from _numbered(p)
    if p.exact is not None and p.number:
        yield from _counted(p)
    if p.ranks is not None:
        yield Trial(laws.refuses_nan, partial(_bound, p), _RANKS)


def _bound(p: _Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...] | None:
    """(f, s, m)."""
    return (p.bind(number), s, m) if p.possible(number, s, m) else None


def _one(p: _Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...] | None:
    """(method, number, s, m)."""
    return (p.bound, number, s, m) if p.possible(number, s, m) else None


def _two(p: _Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...] | None:
    """(method, small, large, s, m)."""
    return (p.bound, small, large, s, m) if p.possible(small, s, m) and p.possible(large, s, m) else None


def _numbered(p: _Promise) -> Iterator[Trial]:
    (name,) = p.number
    whole = not is_fraction(p.number[name])
    none, every = ({name: int(x) if whole else x} for x in (0.0, 1.0))
    if name != "keep":
        yield Trial(laws.nothing_takes_nothing, lambda number, small, large, s, m: (p.bound, none, s, m))
    if p.counts and (name == "keep" or not whole):
        all_of_it = none if name == "keep" else every
        yield Trial(
            laws.everything_takes_everything, lambda number, small, large, s, m: (p.bound, all_of_it, s, m), _EXACT
        )
    yield Trial(laws.is_nested, partial(_two, p))
    if name != "amount":
        yield Trial(laws.is_idempotent, partial(_one, p))
        if p.counts:
            yield Trial(laws.keeps_fewer_after_more, partial(_two, p), _EXACT)


def _counted(p: _Promise) -> Iterator[Trial]:
    def grouped(*given: Any) -> tuple[Any, ...] | None:
        """(method, groups, number, s, m)."""
        one = _one(p, *given)
        return one and (p.bound, p.exact, *one[1:])

    def ranked(*given: Any) -> tuple[Any, ...] | None:
        """(method, groups, ranks, number, s, m)."""
        one = _one(p, *given)
        return one and (p.bound, p.exact, p.ranks, *one[1:])

    yield Trial(laws.is_exact, grouped, _EXACT)
    yield Trial(laws.takes_items_whole, grouped)
    if p.ranks is not None:
        yield Trial(laws.takes_the_lowest, ranked, _RANKS)
        yield Trial(laws.takes_the_lower_index_of_equals, ranked, _RANKS)
    if not all(is_fraction(x) for x in p.number.values()):
        yield Trial(laws.refuses_the_impossible, partial(_beyond, p), _EXACT)


def _beyond(p: _Promise, number: Any, small: Any, large: Any, s: Any, m: Any) -> tuple[Any, ...]:
    """(method, groups, number, s, m), the number above what is alive, or one above."""
    alive = int(count(identity(s, m)))
    return p.bound, p.exact, {name: alive + 1 + int(x) for name, x in number.items()}, s, m


def _vmapped(p: _Promise, law: Callable[..., None]) -> Trial:
    def batched(number: Any, *batches: Any) -> tuple[Any, ...] | None:
        """(f, scores, masks)."""
        possible = all(p.possible(number, *one) for one in laws.unstacked(*batches))
        return (p.bind(number), *batches) if possible else None

    return Trial(law, batched, _VMAP)
