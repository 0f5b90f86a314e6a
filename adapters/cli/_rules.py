"""From options to a rule of `oneshot`, for methods that look at what a model makes of a text."""

from __future__ import annotations

from typing import Any

import masklib as ml

from .. import oneshot
from ._methods import Choice, numbers_say_one_thing
from ._talk import BadCall


def chosen_rule(choice: Choice) -> tuple[oneshot.Rule, dict[str, Any]]:
    """The rule that the options describe, and its number.

    Raises:
        BadCall: if they describe none.
    """
    numbers_say_one_thing(choice)
    given = [f"--{name}" for name, value in choice.own.items() if value is not None]
    if given:
        raise BadCall(f"`{given[0]}` says nothing to `--method {choice.method}`")
    if choice.budget not in (None, "owl"):
        raise BadCall(f"`--budget` of `--method {choice.method}` must be owl, got {choice.budget!r}")
    ways = [choice.per_layer and "--per-layer", choice.per_row and "--per-row", choice.of is not None and "--of"]
    named = [way for way in ways if way]
    if len(named) > 1:
        raise BadCall(f"`{named[0]}` and `{named[1]}` both say which weights compete: give one of them")
    if choice.budget and choice.sparsity is None:
        raise BadCall("`--budget` shares out a `--sparsity`: give it instead of --keep and --of")
    number = {"keep": choice.keep} if choice.of is not None else {"sparsity": choice.sparsity}
    return getattr(oneshot, choice.method)(groups=_groups(choice)), number


def _groups(choice: Choice) -> Any:
    """Who competes; None for the default of the rule."""
    if choice.of is not None:
        return ml.windows(choice.of)
    if choice.per_row:
        return ml.rows()
    return ml.elements() if choice.per_layer else None
