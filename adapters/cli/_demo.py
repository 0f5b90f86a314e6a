"""`masklib demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._demo_lm import Size
from ._demo_lm import run as run_language
from ._options import number, picture
from ._talk import BadCall, failed, missing

EXTRAS = ("matplotlib", "rich", "sklearn")


def demo(
    context: typer.Context,
    seed: Annotated[
        int, typer.Option(parser=number("--seed", int, 0, 2**32 - 1), help="Of the split, the weights, the order.")
    ] = 0,
    out: Annotated[Path, typer.Option(parser=picture, help="Where the picture goes.")] = Path("masklib-demo.png"),
    rounds: Annotated[int, typer.Option(parser=number("--rounds", int, 1, 100), help="Pruning rounds.")] = 8,
    sparsity: Annotated[
        float | None,
        typer.Option(parser=number("--sparsity", float, 0, 1), help="Dead share at the end; 0.95, and 0.5 with --lm."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few epochs and rounds, to see that it runs.")] = False,
    lm: Annotated[bool, typer.Option("--lm", help="Prune SmolLM2-135M instead, and read what it writes.")] = False,
) -> int:
    """Train, prune and fine-tune a small conv net on scikit-learn's handwritten digits; or prune a language model."""
    if lm:
        _refuse_others(context)
        return run_language(0.5 if sparsity is None else sparsity, Size(1, 8, 3, 64) if quick else Size())
    try:
        from ..demo import run
    except ModuleNotFoundError as error:
        return missing(error, "masklib demo", "demo", EXTRAS)
    try:
        _writable(out)
    except OSError as error:
        return failed(f"masklib demo cannot write `--out` {out}: {error.strerror}. Pass another path.")
    run(seed, out, rounds, 0.95 if sparsity is None else sparsity, quick)
    return 0


def _refuse_others(context: typer.Context) -> None:
    """Refuse what only the other demo takes."""
    for name in ("seed", "out", "rounds"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BadCall(f"`--{name}` says nothing to `--lm`")


def _writable(path: Path) -> None:
    """Raise OSError now, not after the training, if a file cannot be written; leave no empty one behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("ab"):
        pass
    if new:
        path.unlink()
