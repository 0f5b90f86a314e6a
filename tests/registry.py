"""Every method as `(scores, default_mask, **number) -> mask`; a new method is one row and inherits every law."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

import masklib as ml


class Case(NamedTuple):
    """A method with its options bound, and what kind of items it counts."""

    method: object
    structured: bool = False
    takes: tuple[str, ...] = ("amount", "keep", "sparsity")


def half(scores):
    """A mask made from the index, of the scores' form."""
    if isinstance(scores, torch.Tensor):
        return (torch.arange(scores.numel()).view(scores.shape) % 2) == 0
    return {n: half(s) for n, s in scores.items()}


def custom(scores, default_mask=None):
    return ml.custom_from_mask(scores, default_mask, mask=half(scores))


CASES = {
    "identity": Case(ml.identity, takes=()),
    "custom_from_mask": Case(custom, takes=()),
    "compute_mask": Case(ml.compute_mask),
    "compute_mask rows": Case(partial(ml.compute_mask, groups=ml.rows())),
    "compute_mask channels": Case(partial(ml.compute_mask, groups=ml.channels(0)), structured=True),
    "compute_mask channels mean": Case(partial(ml.compute_mask, groups=ml.channels(1, p=2, mean=True)), True),
    "compute_mask blocks": Case(partial(ml.compute_mask, groups=ml.blocks((1, 2))), structured=True),
    "compute_mask windows": Case(partial(ml.compute_mask, groups=ml.windows(2))),
    "l1_unstructured": Case(ml.l1_unstructured),
    "random_unstructured": Case(partial(ml.random_unstructured, key=7)),
    "ln_structured": Case(partial(ml.ln_structured, n=2, dim=0), structured=True),
    "random_structured": Case(partial(ml.random_structured, dim=1, key=7), structured=True),
    "n_of_m": Case(partial(ml.n_of_m, of=2), takes=("keep",)),
    "layerwise": Case(ml.layerwise(ml.l1_unstructured)),
    "chain": Case(
        ml.chain(partial(ml.l1_unstructured, amount=0.3), partial(ml.random_unstructured, key=1, amount=0.2)), takes=()
    ),
}
METHODS = {name: case for name, case in CASES.items() if case.takes}


def bind(case: Case, number: dict) -> object:
    """The method with a number bound, or as it is if it takes none."""
    return partial(case.method, **number) if case.takes else case.method


def numbers_of(case: Case, small: float, large: float) -> list[tuple[dict, dict]]:
    """Pairs of numbers, the first of which kills no more than the second."""
    if not case.takes:
        return [({}, {})]
    pairs = {
        "amount": ({"amount": small}, {"amount": large}),
        "sparsity": ({"sparsity": small}, {"sparsity": large}),
        "keep": ({"keep": 1}, {"keep": 0}),
    }
    return [pairs[name] for name in case.takes]
