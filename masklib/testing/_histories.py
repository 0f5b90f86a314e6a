"""Hypothesis strategies of histories: methods with their parameters bound, in a row."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import masklib as ml
from masklib.testing._numbers import fractions
from masklib.testing._strategies import KEYS, dims


def steps() -> SearchStrategy[Any]:
    """Draw methods with their parameters bound that any 2-d scores can take, whole numbers small enough to sum.

    Returns:
        A strategy of functions `(scores, default_mask) -> mask`.

    >>> find(steps(), lambda step: step is identity)(torch.ones(2, 2), None).sum()
    tensor(4)
    """
    share = fractions()
    structured = {"dim": dims(), "amount": share}
    return st.one_of(
        st.just(ml.identity),
        st.builds(partial, st.just(ml.l1_unstructured), amount=share),
        st.builds(partial, st.just(ml.compute_mask), sparsity=share),
        st.builds(partial, st.just(ml.random_unstructured), key=KEYS, amount=share),
        st.builds(partial, st.just(ml.ln_structured), n=st.sampled_from([1, 2, math.inf]), **structured),
        st.builds(partial, st.just(ml.random_structured), key=KEYS, **structured),
        st.builds(partial, st.just(ml.compute_mask), keep=st.just(0), groups=st.just(ml.rows())),
        st.builds(partial, st.just(ml.layerwise(ml.l1_unstructured)), amount=share),
    )


def histories(*, max_size: int = 4) -> SearchStrategy[tuple[Any, ...]]:
    """Draw histories of methods, the empty one included.

    Args:
        max_size: the largest number of steps.

    Returns:
        A strategy of tuples of `steps()`, to pass to `fold`.

    >>> find(histories(), lambda history: len(history) == 1)[0] is identity
    True
    """
    return st.lists(steps(), max_size=max_size).map(tuple)
