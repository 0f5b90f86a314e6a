"""The app: what all commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

from masklib import __version__

from ._demo import demo
from ._info import info
from ._perplexity import perplexity
from ._prune import prune

app = typer.Typer(
    help="Pruning for PyTorch.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"masklib {__version__}")
        raise SystemExit(0)


@app.callback()
def _masklib(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Pruning for PyTorch."""


for _command in (demo, info, perplexity, prune):
    app.command()(_command)
