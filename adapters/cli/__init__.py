"""The command line: `masklib demo`, `masklib info`, `masklib prune`."""

from __future__ import annotations

from collections.abc import Sequence

from ._talk import missing, talking


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: what stands behind `masklib`; the process's own if None.

    Returns:
        0 if all went well, 1 if something failed, 130 if it was interrupted; with one sentence on stderr that says why.

    Raises:
        SystemExit: with 2 for a call that cannot be meant, and one sentence; with 0 after `--version`.
    """
    try:
        from ._app import app
    except ModuleNotFoundError as error:
        return missing(error, "masklib", "cli", ("typer", "click", "rich"))
    return talking(app, arguments)


__all__ = ["main"]
