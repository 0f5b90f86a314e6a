"""Options of `masklib prune` for methods that look at what a language model makes of a text."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ._methods import RULES, Choice
from ._talk import BadCall


class Walk(NamedTuple):
    """What these options say; None and False are what was not given."""

    calibration: Path | None
    samples: int | None
    length: int | None
    save_masks: Path | None
    device: str | None
    go_on: bool
    resume: bool


def refuse_walk(walk: Walk, method: str) -> None:
    """Refuse options that another method cannot use."""
    idle = [name.replace("_", "-") for name, value in walk._asdict().items() if value not in (None, False)]
    if idle:
        raise BadCall(f"`--{idle[0]}` says nothing to `--method {method}`; it is for {', '.join(RULES)}")


def prune_blocks(
    source: Path,
    target: str | None,
    choice: Choice,
    walk: Walk,
    names: list[str] | None,
    masks: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Prune a folder block by block."""
    from ._rules import chosen_rule

    rule, number = chosen_rule(choice)
    if dry_run:
        raise BadCall(f"`--dry-run` says nothing to `--method {choice.method}`, which runs the pruned model")
    if walk.calibration is None:
        raise BadCall(f"`--method {choice.method}` needs a text: give --calibration FILE")
    if target is None:
        raise BadCall("TARGET is missing")

    from ._blocks import prune_folder

    budget = None if choice.budget is None else choice.sparsity
    prune_folder(source, target, rule, number, budget, walk.calibration, walk, names, masks, as_json)
    return 0
