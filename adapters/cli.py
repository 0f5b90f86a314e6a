"""The command line: `masklib demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from masklib import __version__

EXTRAS = ("matplotlib", "rich", "sklearn")


def _number(kind: type, low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers in a range, which says the range."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {kind.__name__} in [{low}, {high}], got {text!r}")
        return value

    return parse


def _picture(text: str) -> Path:
    """A path that a picture can be written to."""
    path = Path(text)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"must end in .png, .pdf or .svg, got {text!r}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="masklib", description="Pruning for PyTorch.")
    parser.add_argument("--version", action="version", version=f"masklib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="train, prune and fine-tune a small conv net on scikit-learn's handwritten digits"
    )
    demo.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, help="of the split, the weights, the order")
    demo.add_argument("--out", type=_picture, default=Path("masklib-demo.png"), help="where the picture goes")
    demo.add_argument("--rounds", type=_number(int, 1, 100), default=8, help="pruning rounds")
    demo.add_argument(
        "--sparsity", type=_number(float, 0, 1), default=0.95, help="dead share of all weights at the end"
    )
    demo.add_argument("--quick", action="store_true", help="a few epochs and rounds, to see that it runs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: what stands behind `masklib`; the process's own if None.

    Returns:
        0 if all went well, 1 if an extra is missing or the picture cannot be written, with one sentence that says so.
    """
    options = _parser().parse_args(arguments)
    try:
        from .demo import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRAS:
            raise
        return _failed(f"masklib demo needs {error.name}. Install it with: pip install 'masklib[demo]'")
    try:
        _writable(options.out)
    except OSError as error:
        return _failed(f"masklib demo cannot write `--out` {options.out}: {error.strerror}. Pass another path.")
    run(options.seed, options.out, options.rounds, options.sparsity, options.quick)
    return 0


def _writable(path: Path) -> None:
    """Raise OSError now, not after the training, if a file cannot be written; leave no empty one behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("ab"):
        pass
    if new:
        path.unlink()


def _failed(message: str) -> int:
    print(message, file=sys.stderr)
    return 1
