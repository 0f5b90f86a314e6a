"""`check_groups`, `check_score`, `check_schedule`: the laws of what methods are made from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

import masklib as ml
from masklib.testing import _options as options
from masklib.testing import _strategies as strategies
from masklib.testing import laws
from masklib.testing._coupled import shapes_of
from masklib.testing._oracle import named
from masklib.testing._refute import Trial, refuted, uphold
from masklib.testing._strategies import FLOATS, SUMMABLE, Shape, Shapes, fractions, masks, scores

# ---- groups ---------------------------------------------------------------------------------------------------------


def check_groups(
    groups: Any, *, method: Callable[..., Any] = ml.compute_mask, shapes: Any = None, examples: int = 100
) -> None:
    """Check the laws of groups on a groups value: plain data, its `labels` form, exact counts, the lowest first.

    Args:
        groups: a groups value.
        method: what applies it, with the arguments of `compute_mask`.
        shapes: a shape or a strategy of shapes that the groups fit, mappings by name for `coupled`; None for a choice
            of those.
        examples: how many cases to draw for each law, always the same ones.

    Raises:
        TypeError, ValueError: if an argument is not as above.
        AssertionError: if laws are broken; see `check_method`.

    >>> check_groups(windows(4), examples=5)
    >>> check_groups(coupled({"fc1.bias": channels(0), "fc2.weight": channels(1)}, p=2), examples=5)
    """
    options.is_groups("groups", groups)
    options.is_callable("method", method, "method=ml.compute_mask")
    options.is_positive("examples", examples)
    bound = partial(method, groups=groups)
    trials = [Trial(laws.is_plain_data, lambda *_: (groups,))]
    trials += [Trial(law, lambda *case: (bound, groups, *case)) for law in (laws.is_exact, laws.takes_items_whole)]
    ranked = (laws.takes_the_lowest, laws.takes_the_lower_index_of_equals)
    trials += [Trial(law, lambda *case: (bound, groups, operator.pos, *case)) for law in ranked]
    if getattr(groups, "p", None) is None and not getattr(groups, "mean", False):
        trials.append(Trial(laws.is_the_labels_form, lambda *case: (groups, *case, method)))
    uphold(refuted([st.tuples(_shares(), _fitting(groups, shapes)).map(lambda x: (x[0], *x[1]))], trials, examples))


def _shares() -> SearchStrategy[dict[str, Any]]:
    return st.tuples(st.sampled_from(["amount", "sparsity"]), fractions()).map(lambda pair: {pair[0]: pair[1]})


@st.composite
def _fitting(draw: DrawFn, groups: Any, shapes: Any) -> tuple[Any, Any]:
    """Scores that groups fit, whose sums are exact, and a mask or None."""
    if hasattr(groups, "items"):
        like, of = groups.items, {n: tuple(t.shape) for n, t in named(groups.items).items()}
    else:
        fit = shapes_of(groups) if hasattr(groups, "sets") else _fit(groups)
        shape = draw(shapes if isinstance(shapes, SearchStrategy) else fit if shapes is None else st.just(shapes))
        like, of = (shape, shape) if hasattr(groups, "sets") else (torch.empty(0), {"": shape})
    s = {n: draw(scores(shape, dtypes=FLOATS, kinds=SUMMABLE)) for n, shape in of.items()}
    m = {n: draw(masks(shape)) for n, shape in of.items()}
    return laws.like(like, s), laws.like(like, m) if draw(st.sampled_from([False, True, True, True])) else None


@st.composite
def _fit(draw: DrawFn, groups: Any) -> Shape:
    """Shapes whose lengths windows, heads or blocks divide, with a dim for each that is named."""
    tile = getattr(groups, "shape", ())
    dim = getattr(groups, "dim", 0)
    least = max(len(tile), dim + 1 if dim >= 0 else -dim)
    sides = list(draw(strategies.shapes(max(least, 1), max(least, 3), max_side=4)))
    for i, length in enumerate(tile, len(sides) - len(tile)):
        sides[i] *= length
    if hasattr(groups, "of"):
        sides[dim] *= groups.of
    if hasattr(groups, "parts"):
        sides[dim] *= groups.count * sum(groups.parts)
    return tuple(sides)


# ---- scores ---------------------------------------------------------------------------------------------------------


def check_score(
    score: Callable[[Any], Any],
    *,
    shapes: Shapes = None,
    dtypes: Sequence[torch.dtype] = FLOATS,
    tensors: bool = True,
    mappings: bool = True,
    per_tensor: bool = True,
    examples: int = 100,
) -> None:
    """Check the laws of scores on an importance criterion, `score(params) -> scores`.

    Parameters are drawn from multiples of 1/16 in [-8, 8], as tensors and as mappings by name.

    Args:
        score: the criterion, with whatever else it takes bound.
        shapes: a shape or a strategy of shapes that it can take; None for all from 0-d to 4-d, empty ones included.
        dtypes: the dtypes it can take.
        tensors: whether it takes tensors.
        mappings: whether it takes mappings by name.
        per_tensor: whether the scores of a mapping are those of each tensor alone.
        examples: how many cases to draw for each law, always the same ones.

    Raises:
        TypeError, ValueError: if an argument is not as above.
        AssertionError: if laws are broken; see `check_method`.

    >>> check_score(masklib.scores.magnitude, examples=5)
    >>> check_score(lambda params: params, examples=5)
    Traceback (most recent call last):
    AssertionError: carries_no_graph: score of parameters that need a gradient is score(p), without a graph.
    ...
    """
    options.is_callable("score", score, "check_score(ml.scores.magnitude)")
    options.is_positive("examples", examples)
    options.are_forms(tensors, mappings)
    options.are_dtypes(dtypes)
    tensor = scores(shapes, dtypes=dtypes, kinds=("many", "small", "few"))
    each = (laws.scores_each_tensor_alone,) if per_tensor else ()
    hints = {laws.scores_what_is_valid: _TAKES, laws.scores_each_tensor_alone: _ALONE}
    trials = [Trial(law, lambda p: (score, p), hints.get(law, "")) for law in (*laws.SCORES, *each)]
    forms = {tensor: tensors, strategies.mappings(tensor): mappings}
    uphold(refuted([st.tuples(form) for form in forms if forms[form]], trials, examples))


_TAKES = (
    "# for a score that takes tensors only, pass mappings=False; mappings only, tensors=False; "
    "else what it takes as shapes= or dtypes="
)
_ALONE = "# for a score that weighs tensors against one another, pass per_tensor=False"


# ---- schedules ------------------------------------------------------------------------------------------------------


def check_schedule(
    schedule: Callable[[Any], Any],
    *,
    steps: int = 10_000,
    falls: bool = False,
    tensors: bool = True,
    examples: int = 100,
) -> None:
    """Check the laws of schedules on a function `schedule(step) -> sparsity`.

    Args:
        schedule: the function.
        steps: steps are drawn from 0 to this one.
        falls: whether the sparsity may fall from one step to a later one.
        tensors: whether it takes steps as 0-d tensors too, as a compiled loop has them.
        examples: how many cases to draw for each law, always the same ones.

    Raises:
        TypeError, ValueError: if an argument is not as above.
        AssertionError: if laws are broken; see `check_method`.

    >>> check_schedule(schedules.cubic(0.9, stop=1000, every=100))
    >>> check_schedule(lambda step: step / 1000)
    Traceback (most recent call last):
    AssertionError: is_a_sparsity: 0 <= schedule(t) <= 1.
    ...
    """
    options.is_callable("schedule", schedule, "check_schedule(ml.schedules.linear(0.9, stop=100))")
    options.is_positive("steps", steps)
    options.is_positive("examples", examples)
    spread = st.sampled_from([steps * i // 64 for i in range(65)])
    step = spread | st.integers(0, steps) | st.integers(0, min(steps, 20))
    kept = [law for law in laws.SCHEDULES if tensors or law is not laws.takes_tensor_steps]
    hints: dict[Any, str] = {laws.takes_tensor_steps: "# for a schedule of Python numbers, pass tensors=False"}
    trials = [Trial(law, lambda t, u: (schedule, t), hints.get(law, "")) for law in kept]
    if not falls:
        hint = "# for a schedule that may fall, pass falls=True"
        trials.append(Trial(laws.never_falls, lambda t, u: (schedule, t, u), hint))
    uphold(refuted([st.tuples(step, step).map(lambda pair: tuple(sorted(pair)))], trials, examples))
