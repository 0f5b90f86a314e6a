"""`masklib info`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ._prune import progress
from ._talk import console


def info(
    file: Annotated[Path, typer.Argument(help="A checkpoint, or a file of masks.", show_default=False)],
    against: Annotated[
        Path | None, typer.Option(help="Another one, from before: show what has changed since.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Say what is sparse in a checkpoint or a file of masks, layer by layer."""
    from ..report import diff

    found, history = _found(file)
    if as_json and against is None:
        print(json.dumps({"file": str(file), "history": list(history), **found.as_dict()}, indent=2))
        return 0
    before = None if against is None else _found(against)[0]
    if as_json and before is not None:
        print(json.dumps({"before": before.as_dict(), "after": found.as_dict()}, indent=2))
        return 0
    to = console(sys.stdout)
    to.print(f"{file}" if before is None else f"{against} -> {file}", markup=False)
    to.print(found if before is None else diff(before, found))
    for step in history:
        to.print(f"step: {step}", markup=False)
    return 0


def _found(path: Path) -> tuple[Any, tuple[Any, ...]]:
    """A report on a file, and the history of masks."""
    from ..report import Report
    from ..report._reporting import measure

    try:
        from ..files._streams import streams
    except ImportError as error:
        raise ValueError(str(error)) from None
    with progress() as tell, streams(path, tell) as (named, history):
        return Report(measure(named)), history
