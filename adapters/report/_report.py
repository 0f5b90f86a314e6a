"""A report, and the difference of two: plain data that prints as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ._layer import Layer
from ._table import percent, plain, rich_table, size_of


class Report(NamedTuple):
    """What is dead in a model or in masks; prints as a table, with rich as a better one.

    Attributes:
        layers: by name, what is dead in each weight.
        left_out: the other parameters of a model by name, and why they are not among the layers.
        others: how many numbers those have.
        other_bytes: and bytes.
        notes: what a person should know: layers that are cut through, masks that do not hold, values that will be lost.
    """

    layers: Mapping[str, Layer]
    left_out: Mapping[str, str] = {}
    others: int = 0
    other_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Entries of all layers."""
        return sum(layer.size for layer in self.layers.values())

    @property
    def dead(self) -> int:
        """Dead entries of all layers."""
        return sum(layer.dead for layer in self.layers.values())

    @property
    def sparsity(self) -> float:
        """The dead share of all layers."""
        return self.dead / max(self.size, 1)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the model as it is, the other parameters included."""
        return self.other_bytes + sum(layer.dense_bytes for layer in self.layers.values())

    @property
    def packed_bytes(self) -> int:
        """Bytes of the model as what lives and a bit an entry."""
        return self.other_bytes + sum(layer.packed_bytes for layer in self.layers.values())

    @property
    def csr_bytes(self) -> int:
        """Bytes of the model with its layers as compressed rows."""
        return self.other_bytes + sum(layer.csr_bytes for layer in self.layers.values())

    @property
    def flops(self) -> int | None:
        """Operations of all layers whose uses were counted; None if none were."""
        counted = [layer.flops for layer in self.layers.values() if layer.flops is not None]
        return sum(counted) if counted else None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        totals = {name: getattr(self, name) for name in ("size", "dead", "sparsity", *_BYTES, "flops")}
        layers = {name: _as_dict(layer) for name, layer in self.layers.items()}
        return {**totals, "layers": layers, "left_out": dict(self.left_out), "notes": list(self.notes)}

    def __str__(self) -> str:
        return "\n".join([plain(*self._table()), *self._remarks()])

    def __rich__(self) -> Any:
        return rich_table("", *self._table(), self._remarks())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Columns, rows and the total; a column in which nothing stands is left out."""
        rows = [[name, *_cells(layer)] for name, layer in self.layers.items()]
        sizes = [size_of(getattr(self, name)) for name in _BYTES]
        total = ["all", "", "", f"{self.dead:,}", percent(self.sparsity), "", "", "", *sizes, _number(self.flops)]
        hidden = {_COLUMNS.index("dtype")} if len(self._dtypes) == 1 else set()
        used = [i for i, cell in enumerate(total) if i not in hidden and (cell or any(row[i] for row in rows))]
        return [_COLUMNS[i] for i in used], [[row[i] for i in used] for row in rows], [total[i] for i in used]

    @property
    def _dtypes(self) -> list[str]:
        return sorted({str(layer.dtype).removeprefix("torch.") for layer in self.layers.values()})

    def _remarks(self) -> list[str]:
        lines = [_ONE[self._dtypes == ["bool"]].format(*self._dtypes)] if len(self._dtypes) == 1 else []
        lines += [f"{len(self.left_out)} other parameters, {self.others:,} numbers"] if self.left_out else []
        return [*lines, *(f"note: {note}" for note in self.notes)]


_ONE = "all of {}", "masks; bytes are of float32 weights"
_BYTES = ("dense_bytes", "packed_bytes", "csr_bytes")


_COLUMNS = [
    "layer",
    "shape",
    "dtype",
    "dead",
    "sparsity",
    "channels",
    "heads",
    "N:M",
    "dense",
    "packed",
    "CSR",
    "FLOPs",
]


def _cells(layer: Layer) -> list[str]:
    """What stands in the row of a layer; dead channels along dim 0 and dim 1, if there are any."""
    channels = " + ".join(f"{dead:,}" for dead in layer.dead_channels) if any(layer.dead_channels) else ""
    heads = f"{layer.heads[0]} of {layer.heads[1]}" if layer.heads else ""
    shape, dtype = "x".join(map(str, layer.shape)), str(layer.dtype).removeprefix("torch.")
    sizes = [size_of(getattr(layer, name)) for name in _BYTES]
    counts = [f"{layer.dead:,}", percent(layer.sparsity), channels, heads, layer.pattern]
    return [shape, dtype, *counts, *sizes, _number(layer.flops)]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _as_dict(layer: Layer) -> dict[str, Any]:
    derived = {name: getattr(layer, name) for name in ("size", "dead", "sparsity", *_BYTES, "flops")}
    return {**layer._asdict(), "dtype": str(layer.dtype).removeprefix("torch."), **derived}


class Difference(NamedTuple):
    """Two reports beside one another; prints as a table.

    Attributes:
        before: the first.
        after: the second.
    """

    before: Report
    after: Report

    @property
    def died(self) -> dict[str, int]:
        """How many more entries are dead, by each name that both have; fewer if negative."""
        both = [name for name in self.before.layers if name in self.after.layers]
        return {name: self.after.layers[name].dead - self.before.layers[name].dead for name in both}

    @property
    def gone(self) -> list[str]:
        """Names that only the first has."""
        return [name for name in self.before.layers if name not in self.after.layers]

    @property
    def new(self) -> list[str]:
        """Names that only the second has."""
        return [name for name in self.after.layers if name not in self.before.layers]

    def __str__(self) -> str:
        return "\n".join([plain(*self._table()), *self._remarks()])

    def __rich__(self) -> Any:
        return rich_table("", *self._table(), self._remarks())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """A row for each name that both have."""
        rows = [
            [name, *_change(self.before.layers[name], self.after.layers[name])]
            for name in self.died
            if self.before.layers[name] != self.after.layers[name]
        ]
        return ["layer", "died", "sparsity", "dense", "packed"], rows, ["all", *_change(self.before, self.after)]

    def _remarks(self) -> list[str]:
        same = len(self.died) - sum(self.before.layers[n] != self.after.layers[n] for n in self.died)
        counted = [f"{same} layers are as they were"] if same else []
        return counted + [f"{what}: {', '.join(ns)}" for what, ns in (("gone", self.gone), ("new", self.new)) if ns]


def _change(before: Any, after: Any) -> list[str]:
    sizes = [_arrow(size_of(getattr(before, name)), size_of(getattr(after, name))) for name in _BYTES[:2]]
    return [f"{after.dead - before.dead:+,}", _arrow(percent(before.sparsity), percent(after.sparsity)), *sizes]


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"
