"""Options of `masklib prune` for methods that look at what a language model makes of a text."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ._methods import RULES
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
