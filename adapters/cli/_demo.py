"""`masklib demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import number, picture
from ._talk import failed, missing

EXTRAS = ("matplotlib", "rich", "sklearn")


def demo(
    seed: Annotated[
        int, typer.Option(parser=number("--seed", int, 0, 2**32 - 1), help="Of the split, the weights, the order.")
    ] = 0,
    out: Annotated[Path, typer.Option(parser=picture, help="Where the picture goes.")] = Path("masklib-demo.png"),
    rounds: Annotated[int, typer.Option(parser=number("--rounds", int, 1, 100), help="Pruning rounds.")] = 8,
    sparsity: Annotated[
        float, typer.Option(parser=number("--sparsity", float, 0, 1), help="Dead share of all weights at the end.")
    ] = 0.95,
    quick: Annotated[bool, typer.Option("--quick", help="A few epochs and rounds, to see that it runs.")] = False,
) -> int:
    """Train, prune and fine-tune a small conv net on scikit-learn's handwritten digits."""
    try:
        from ..demo import run
    except ModuleNotFoundError as error:
        return missing(error, "masklib demo", "demo", EXTRAS)
    try:
        _writable(out)
    except OSError as error:
        return failed(f"masklib demo cannot write `--out` {out}: {error.strerror}. Pass another path.")
    run(seed, out, rounds, sparsity, quick)
    return 0


def _writable(path: Path) -> None:
    """Raise OSError now, not after the training, if a file cannot be written; leave no empty one behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("ab"):
        pass
    if new:
        path.unlink()
