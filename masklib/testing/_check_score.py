"""`check_score`: the laws of importance criteria."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from masklib.testing import _options as options
from masklib.testing import _strategies as strategies
from masklib.testing import laws
from masklib.testing._refute import Law, Trial, refuted, uphold, wanted_of
from masklib.testing._strategies import FLOATS, Shapes, scores


def check_score(
    score: Callable[[Any], Any],
    *,
    shapes: Shapes = None,
    dtypes: Sequence[torch.dtype] = FLOATS,
    tensors: bool = True,
    mappings: bool = True,
    per_tensor: bool = True,
    without: Collection[Law] = (),
    examples: int = 100,
) -> None:
    """Check the laws of scores on an importance criterion, `score(params) -> scores`.

    Parameters are drawn from multiples of 1/16 in [-8, 8], as tensors and as mappings by name. A check of a score that
    takes 20 microseconds takes about 2 seconds for 100 examples.

    Args:
        score: the criterion, with whatever else it takes bound.
        shapes: a shape or a strategy of shapes that it can take; None for all from 0-d to 4-d, empty ones included.
        dtypes: the dtypes it can take.
        tensors: whether it takes tensors.
        mappings: whether it takes mappings by name.
        per_tensor: whether the scores of a mapping are those of each tensor alone.
        without: other laws that it does not promise, such as `[laws.looks_at_no_strides]`.
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
    options.are_laws(without)
    tensor = scores(shapes, dtypes=dtypes, kinds=("many", "small", "few"))
    each = (laws.scores_each_tensor_alone,) if per_tensor else ()
    hints = {laws.scores_what_is_valid: _TAKES, laws.scores_each_tensor_alone: _ALONE}
    trials = [Trial(law, lambda p: (score, p), hints.get(law, "")) for law in (*laws.SCORES, *each)]
    drawn = [form for form, wanted in ((tensor, tensors), (strategies.mappings(tensor), mappings)) if wanted]
    uphold(refuted([st.tuples(form) for form in drawn], wanted_of(trials, without), examples))


_TAKES = (
    "# for a score that takes tensors only, pass mappings=False; mappings only, tensors=False; "
    "else what it takes as shapes= or dtypes="
)
_ALONE = "# for a score that weighs tensors against one another, pass per_tensor=False"
