"""From options to a method: each needs some numbers, takes others, and says which it cannot use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import masklib as ml
from masklib import budgets

from ._talk import BadCall

Method = Callable[..., Any]


class Kind(NamedTuple):
    """A method of the command line."""

    method: Method
    takes: Mapping[str, Any]  # its own options and what they are if they are not given
    help: str


METHODS: dict[str, Kind] = {
    "l1": Kind(ml.l1_unstructured, {}, "the weights of least magnitude"),
    "random": Kind(ml.random_unstructured, {"key": 0}, "weights at random"),
    "ln": Kind(ml.ln_structured, {"n": 2.0, "dim": 0}, "slices along --dim of least norm of order --n"),
    "random-structured": Kind(ml.random_structured, {"dim": 0, "key": 0}, "slices along --dim at random"),
}
RULES = {  # of `oneshot`: they look at what a language model makes of a text
    "magnitude": "the same in the blocks of a language model",
    "wanda": "the least products of weight and input",
    "ria": "the least of relative importance",
    "sparsegpt": "column by column, the others make up for it",
    "admm": "weights and masks in turns, the least error",
}
BUDGETS: dict[str, Callable[..., Any]] = {"uniform": budgets.uniform, "er": budgets.er, "erk": budgets.erk}


class Choice(NamedTuple):
    """What the options say; None and False are what was not given."""

    method: str
    sparsity: float | None
    keep: int | None
    of: int | None
    per_layer: bool
    per_row: bool
    budget: str | None
    own: Mapping[str, Any]  # n, dim and key


def chosen(choice: Choice) -> Method:
    """The method that the options describe.

    Raises:
        BadCall: if they describe none.
    """
    kind = _kind(choice)
    numbers_say_one_thing(choice)
    _alone(choice)
    own = {name: choice.own[name] if choice.own[name] is not None else default for name, default in kind.takes.items()}
    if choice.of is not None:
        return partial(n_of_m, keep=choice.keep, of=choice.of, key=own.get("key"))
    if choice.per_row:
        return partial(per_row, sparsity=choice.sparsity, key=own.get("key"))
    method = partial(kind.method, **own)
    if choice.budget is not None:
        return partial(budgeted, method=method, budget=BUDGETS[choice.budget], sparsity=choice.sparsity)
    return partial(ml.layerwise(method) if choice.per_layer else method, sparsity=choice.sparsity)


# ---- compositions ---------------------------------------------------------------------------------------------------


def n_of_m(weights: Any, default_mask: Any = None, *, keep: Any, of: Any, key: Any) -> Any:
    """The highest magnitudes, or random ones, of each window along the inputs."""
    ragged = {name: w.shape[-1] for name, w in weights.items() if w.shape[-1] % of}
    if ragged:
        name, inputs = next(iter(ragged.items()))
        raise BadCall(
            f"`--of` must divide the inputs of each weight, got {of} for the {inputs} of {name!r}"
            f"{f' and {len(ragged) - 1} more' if len(ragged) > 1 else ''}; choose others by `--names`"
        )
    return ml.n_of_m(_ranked(weights, key), default_mask, keep=keep, of=of)


def per_row(weights: Any, default_mask: Any = None, *, sparsity: Any, key: Any) -> Any:
    """The lowest magnitudes, or random ones, of each row."""
    return ml.compute_mask(_ranked(weights, key), default_mask, sparsity=sparsity, groups=ml.rows())


def budgeted(weights: Any, default_mask: Any = None, *, method: Any, budget: Any, sparsity: Any) -> Any:
    """Each layer on its own, as many as the budget leaves it, the total to the element."""
    kept = budgets.kept(weights, budget(weights, sparsity))
    return ml.layerwise(method)(weights, default_mask, keep=kept)


def _ranked(weights: Any, key: Any) -> Any:
    return ml.scores.magnitude(weights) if key is None else ml.scores.random(weights, key=key)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _of_rules(budget: str) -> str:
    return f"; it is for {', '.join(RULES)}" if budget == "owl" else ""


def refuse_unknown(method: str) -> None:
    """Refuse a method that nobody knows, before its options are looked at."""
    if method not in METHODS and method not in RULES:
        raise BadCall(f"`--method` must be one of {', '.join([*METHODS, *RULES])}, got {method!r}")


def _kind(choice: Choice) -> Kind:
    if choice.budget is not None and choice.budget not in BUDGETS:
        raise BadCall(
            f"`--budget` must be one of {', '.join(BUDGETS)}, got {choice.budget!r}{_of_rules(choice.budget)}"
        )
    kind = METHODS[choice.method]
    idle = [name for name, value in choice.own.items() if value is not None and name not in kind.takes]
    if idle:
        takers = [name for name, other in METHODS.items() if idle[0] in other.takes]
        raise BadCall(f"`--{idle[0]}` says nothing to `--method {choice.method}`; it is for {', '.join(takers)}")
    return kind


def numbers_say_one_thing(choice: Choice) -> None:
    """Refuse anything but one way to say how many go."""
    if (choice.keep is None) != (choice.of is None):
        given, lacking = ("--keep", "--of") if choice.of is None else ("--of", "--keep")
        raise BadCall(f"`{given}` needs `{lacking}`, for example --keep 2 --of 4")
    if choice.sparsity is not None and choice.keep is not None:
        raise BadCall("`--sparsity` and `--keep` both say how many go: give one of them")
    if choice.sparsity is None and choice.keep is None:
        raise BadCall("how many go is not said: give --sparsity 0.5, or --keep 2 --of 4")
    if choice.keep is not None and choice.of is not None and choice.keep > choice.of:
        raise BadCall(f"`--keep` must be at most `--of`, {choice.of}, got {choice.keep}")


def _alone(choice: Choice) -> None:
    """Refuse two ways to say who competes, and structures that slices do not have."""
    ways: Sequence[tuple[str, bool]] = [
        ("--per-layer", choice.per_layer),
        ("--per-row", choice.per_row),
        ("--budget", choice.budget is not None),
        ("--of", choice.of is not None),
    ]
    given = [name for name, is_given in ways if is_given]
    if len(given) > 1:
        raise BadCall(f"`{given[0]}` and `{given[1]}` both say which weights compete: give one of them")
    if given and given != ["--per-layer"] and "dim" in METHODS[choice.method].takes:
        raise BadCall(f"`{given[0]}` is for single weights, and `--method {choice.method}` prunes slices")
