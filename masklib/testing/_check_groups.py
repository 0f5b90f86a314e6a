"""`check_groups`: the laws of groups."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

import masklib as ml
from masklib.testing import _options as options
from masklib.testing import laws
from masklib.testing._fit import fitting
from masklib.testing._numbers import fractions
from masklib.testing._refute import Law, Trial, refuted, uphold, wanted_of
from masklib.testing._strategies import FLOATS, SUMMABLE, masks, scores


def check_groups(
    groups: Any,
    *,
    method: Callable[..., Any] = ml.compute_mask,
    shapes: Any = None,
    others: Sequence[Any] = (),
    without: Collection[Law] = (),
    examples: int = 100,
) -> None:
    """Check the laws of groups on a groups value: plain data, its `labels` form, exact counts, the lowest first.

    A check takes about 2 seconds for 100 examples.

    Args:
        groups: a groups value, of masklib or one of your own.
        method: what applies it, with the arguments of `compute_mask`.
        shapes: a shape or a strategy of shapes that the groups fit, mappings by name for those that span tensors; None
            for a choice of small ones that fit.
        others: other groups values, which it must differ from wherever they fold otherwise; those of masklib are
            compared in any case.
        without: laws that it does not promise, such as `[laws.is_plain_data]`.
        examples: how many cases to draw for each law, always the same ones.

    Raises:
        TypeError, ValueError: if an argument is not as above, or no small shape fits.
        AssertionError: if laws are broken; see `check_method`.

    >>> check_groups(windows(4), examples=5)
    >>> check_groups(coupled({"fc1.bias": channels(0), "fc2.weight": channels(1)}, p=2), examples=5)
    """
    options.is_groups("groups", groups)
    options.is_callable("method", method, "method=ml.compute_mask")
    options.is_positive("examples", examples)
    options.are_laws(without)
    cases = st.tuples(_shares(), _fitting(groups, shapes)).map(lambda x: (x[0], *x[1]))
    uphold(refuted([cases], wanted_of(_trials(groups, method, others), without), examples))


def _trials(groups: Any, method: Any, others: Sequence[Any]) -> Iterator[Trial]:
    bound = partial(method, groups=groups)
    yield Trial(laws.is_plain_data, lambda *_: (groups,))
    for other in (*_OTHERS, *others):
        yield Trial(laws.equals_what_folds_alike, partial(_both, groups, other))
    for law in (laws.is_exact, laws.takes_items_whole):
        yield Trial(law, lambda *case: (bound, groups, *case))
    for ranked in (laws.takes_the_lowest, laws.takes_the_lower_index_of_equals):
        yield Trial(ranked, lambda *case: (bound, groups, operator.pos, *case))
    if getattr(groups, "p", None) in (None, 1, 2) and not getattr(groups, "mean", False):
        yield Trial(laws.follows_the_rule, lambda *case: (bound, groups, *case))
    if getattr(groups, "p", None) is None and not getattr(groups, "mean", False):
        yield Trial(laws.is_the_labels_form, lambda *case: (groups, *case, method))


_OTHERS = (ml.elements(), ml.rows(0), ml.rows(1), ml.channels(0), ml.channels(1), ml.windows(2), ml.blocks((2, 2)))


def _both(groups: Any, other: Any, number: Any, s: Any, m: Any) -> tuple[Any, ...]:
    return groups, other, s


def _shares() -> SearchStrategy[dict[str, Any]]:
    return st.tuples(st.sampled_from(["amount", "sparsity"]), fractions()).map(lambda pair: {pair[0]: pair[1]})


@st.composite
def _fitting(draw: DrawFn, groups: Any, shapes: Any) -> tuple[Any, Any]:
    """Scores that groups fit, whose sums are exact, and a mask or None."""
    form = fitting(groups) if shapes is None else shapes
    shape = draw(form) if isinstance(form, SearchStrategy) else form
    of = shape if isinstance(shape, Mapping) else {"": tuple(shape)}
    s = {n: draw(scores(tuple(shape), dtypes=FLOATS, kinds=SUMMABLE)) for n, shape in of.items()}
    m = {n: draw(masks(tuple(shape))) for n, shape in of.items()}
    return laws.like(shape, s), laws.like(shape, m) if draw(st.sampled_from([False, True, True, True])) else None
