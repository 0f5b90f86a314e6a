"""`masklib info`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ._prune import progress
from ._talk import console, percent, table


def info(
    file: Annotated[Path, typer.Argument(help="A checkpoint, or a file of masks.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Say what is sparse in a checkpoint or a file of masks, layer by layer."""
    found = _found(file)
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    to = console(sys.stdout)
    rows = [(n, "x".join(map(str, t["shape"])), *_numbers(t)) for n, t in found["tensors"].items()]
    columns = "tensor", "shape", "dtype", "zeros", "sparsity", "N:M"
    to.print(table(str(file), columns, rows, ("all", "", *_numbers(found))))
    for step in found["history"]:
        to.print(f"step: {step}", markup=False)
    return 0


def _numbers(facts: dict[str, Any]) -> tuple[str, ...]:
    return facts.get("dtype", ""), f"{facts['zeros']:,}", percent(facts["sparsity"]), facts.get("pattern", "")


def _found(path: Path) -> dict[str, Any]:
    """What is zero, as JSON has it."""
    try:
        from ..files import open_checkpoint
        from ..files._masks import LAYOUT
        from ..files._zeros import zeros, zeros_of_masks
    except ImportError as error:
        raise ValueError(str(error)) from None
    checkpoint = open_checkpoint(path)
    history: list[Any] = []
    if any(texts.get("layout") == LAYOUT for texts in checkpoint.metadata.values()):
        masks, steps = zeros_of_masks(path)
        tensors, history = {n: _tensor(z) for n, z in masks.items()}, list(steps)
    else:
        with progress() as tell:
            tensors = {n: _tensor(z) for n, z in zeros(checkpoint, tell)}
    size, dead = sum(t["size"] for t in tensors.values()), sum(t["zeros"] for t in tensors.values())
    return {
        "file": str(path),
        "size": size,
        "zeros": dead,
        "sparsity": dead / max(size, 1),
        "history": history,
        "tensors": tensors,
    }


def _tensor(z: Any) -> dict[str, Any]:
    return {
        "shape": list(z.shape),
        "dtype": str(z.dtype).removeprefix("torch."),
        "size": z.size,
        "zeros": z.zeros,
        "sparsity": z.sparsity,
        "pattern": z.pattern,
    }
