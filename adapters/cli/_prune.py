"""`masklib prune`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..report._table import percent, rich_table
from ._methods import BUDGETS, METHODS, RULES, Choice, chosen, refuse_unknown
from ._options import number
from ._talk import BadCall, console
from ._walk import Walk, refuse_walk

INF = float("inf")
_METHODS = "; ".join(f"{name}: {kind.help}" for name, kind in METHODS.items())
_RULES = "; ".join(f"{name}: {told}" for name, told in RULES.items())


def prune(
    source: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder of them.", show_default=False)],
    target: Annotated[
        str | None, typer.Argument(help="A file for a file, a new folder for a folder.", show_default=False)
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(parser=number("--sparsity", float, 0, 1), help="Share of the weights that is dead afterwards."),
    ] = None,
    method: Annotated[str, typer.Option(help=f"What goes. {_METHODS}. With --calibration {_RULES}.")] = "l1",
    keep: Annotated[
        int | None,
        typer.Option(parser=number("--keep", int, 0, 2**31), help="Weights kept in each window."),
    ] = None,
    of: Annotated[
        int | None, typer.Option(parser=number("--of", int, 1, 2**31), help="Length of the windows along the inputs.")
    ] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="The same share of each layer.")] = False,
    per_row: Annotated[bool, typer.Option("--per-row", help="The same share of each row, as Wanda does.")] = False,
    budget: Annotated[
        str | None, typer.Option(help=f"Shares by layer: {', '.join(BUDGETS)}; with --calibration: owl.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option(help="Names or globs of the tensors that are pruned; again for more.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="A file of masks: what is alive before.")] = None,
    n: Annotated[
        float | None, typer.Option(parser=number("--n", float, -INF, INF), help="Order of the norm of a slice; 2.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(parser=number("--dim", int, -64, 63), help="Dim of the slices; 0 is the outputs.")
    ] = None,
    key: Annotated[
        int | None,
        typer.Option("--key", "--seed", parser=number("--key", int, 0, 2**64 - 1), help="Of randomness."),
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="A text, in UTF-8, to run a language model on.")] = None,
    samples: Annotated[
        int | None, typer.Option(parser=number("--samples", int, 1, 2**31), help="Windows of the text; 128.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(parser=number("--length", int, 1, 2**20), help="Tokens in a window; 2048.")
    ] = None,
    save_masks: Annotated[Path | None, typer.Option(help="A file that the masks are written to.")] = None,
    device: Annotated[str | None, typer.Option(help="Where blocks are computed, such as cuda; cpu.")] = None,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="A layer that cannot be pruned stays as it is, and is told.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same call was interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would become of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report on stdout, as JSON.")] = False,
) -> int:
    """Prune a checkpoint of any size: as one pool, in constant memory, or a language model block by block."""
    try:
        from ..files import prune_checkpoint
    except ImportError as error:
        raise ValueError(str(error)) from None
    choice = Choice(method, sparsity, keep, of, per_layer, per_row, budget, {"n": n, "dim": dim, "key": key})
    walk = Walk(calibration, samples, length, save_masks, device, go_on, resume)
    if method in RULES:
        from ._blocks import prune_blocks

        return prune_blocks(source, target, choice, walk, names, masks, dry_run, as_json)
    refuse_unknown(method)
    refuse_walk(walk, method)
    step = chosen(choice)
    if target is None and not dry_run:
        raise BadCall("TARGET is missing; to write nothing, pass --dry-run")
    place = None if dry_run else target
    with progress() as tell:
        report = prune_checkpoint(source, place, step, names=names or None, masks=masks, progress=tell)
    _show(report, place)
    if as_json:
        print(json.dumps(_plain(report), indent=2))
    return 0


@contextmanager
def progress() -> Iterator[Any]:
    """Show on a terminal how much has been read and written: `tell(read, written)`."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    to = console(sys.stderr)
    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as shown:
        reading, writing = shown.add_task("read", total=None), shown.add_task("written", total=None)

        def tell(read: int, written: int) -> None:
            shown.update(reading, completed=read)
            shown.update(writing, completed=written)

        yield tell


def _show(report: Any, place: str | None) -> None:
    """The table, and what it does not say, on stderr."""
    rows = [
        (name, "x".join(map(str, t.shape)), str(t.dtype).removeprefix("torch."), f"{t.dead:,}", percent(t.sparsity))
        for name, t in report.tensors.items()
    ]
    to = console(sys.stderr)
    total = "all", "", "", f"{report.dead:,}", percent(report.sparsity)
    to.print(rich_table("", ("tensor", "shape", "dtype", "dead", "sparsity"), rows, total))
    for line in report.notes():
        to.print(line, markup=False)
    to.print("Nothing was written: --dry-run." if place is None else f"Written: {place}", markup=False)


def _plain(report: Any) -> dict[str, Any]:
    """The report as JSON has it."""
    tensors = {
        name: {
            "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch."), "dead": t.dead,
            "sparsity": t.sparsity, "tied": t.tied,
        }
        for name, t in report.tensors.items()
    }  # fmt: skip
    whole = {"size": report.size, "dead": report.dead, "sparsity": report.sparsity}
    others = {"skipped": dict(report.skipped), "left_out": list(report.left_out)}
    return {
        "tensors": tensors,
        **whole,
        **others,
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
    }
