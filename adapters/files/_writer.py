"""Safetensors files that are written chunk by chunk: no tensor is ever held."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._atomic import whole_file
from ._dtypes import NAME, RANK
from ._header import LONGEST, Entry, Header
from ._names import shown, wrong_name
from ._sink import Sink

Specs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # dtype and shape by name


def lay_out(path: Path, specs: Specs, metadata: Mapping[str, str] | None = None) -> Header:
    """Lay out a file as the library does: wider dtypes first, then by name.

        read_header(path) after writing = lay_out(path, specs, metadata), but for the stamp

    Args:
        path: where the file will be.
        specs: dtype and shape of each tensor, by name.
        metadata: text by name.

    Returns:
        The header; `raw` is what comes before the data.

    Raises:
        ValueError: if a name or a dtype cannot be in a safetensors file, or the header would be too long.
    """
    table, at = _table(specs, dict(metadata or {}))
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST:
        raise ValueError(f"`specs` must fit in a header of {LONGEST} bytes, got {len(text)}. Write several files.")
    raw = len(text).to_bytes(8, "little") + text
    entries = {
        name: Entry(name, path, len(raw) + info["data_offsets"][0], *specs[name])
        for name, info in table.items()
        if name in specs
    }
    return Header(path, entries, dict(metadata or {}), raw, len(raw) + at, ())


def _table(specs: Specs, metadata: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The header as it will be, and how many bytes of data come behind it."""
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name in sorted(specs, key=lambda name: (-RANK[_dtype_name(name, specs[name][0])], name)):
        dtype, shape = specs[name]
        end = at + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": NAME[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return table, at


def _dtype_name(name: Any, dtype: torch.dtype) -> str:
    if cause := ("the name is that of the metadata" if name == "__metadata__" else wrong_name(name)):
        raise ValueError(f"`specs` must be keyed by names of tensors: {cause}. Rename it.")
    if dtype not in NAME:
        raise ValueError(f"`specs` of {shown(name)} must have a dtype of safetensors, got {dtype}. Cast the tensor.")
    return NAME[dtype]


class Writer:
    """Takes the data of a file, tensor by tensor as the header has them, in chunks of any size.

    Args:
        sink: the file.
        header: its header, whose tensors are waited for in order.
    """

    def __init__(self, sink: Sink, header: Header) -> None:
        self.sink, self.left = sink, {name: entry.nbytes for name, entry in header.entries.items()}
        sink.write(header.raw)
        self._next()

    def write(self, name: str, data: Any) -> None:
        """Write the next chunk of a tensor, any buffer of bytes.

        Raises:
            ValueError: if it is not this tensor's turn, or the chunk is longer than what is left of it.
        """
        size = memoryview(data).nbytes
        if size and (name != next(iter(self.left), None) or size > self.left[name]):
            raise ValueError(f"`name` must be {next(iter(self.left), None)!r} with at most its bytes, got {name!r}.")
        if size:
            self.left[name] -= self.sink.write(data)
            self._next()

    def _next(self) -> None:
        """Leave what is complete behind."""
        while self.left and not self.left[name := next(iter(self.left))]:
            del self.left[name]


@contextmanager
def writing(sink: Sink, header: Header) -> Iterator[Writer]:
    """Write a safetensors file into a sink, header first; the block writes the data.

        with whole_file(path) as sink, writing(sink, lay_out(path, specs)) as writer:
            for name in header.entries: writer.write(name, chunk) ...

    Args:
        sink: from `whole_file` or `new_file`.
        header: from `lay_out`, or from `read_header` for a file with the same names, dtypes and shapes.

    Raises:
        ValueError: if data are missing when the block ends, so that `whole_file` leaves no file behind.
    """
    writer = Writer(sink, header)
    yield writer
    if writer.left:
        raise ValueError(f"the data of {shown(list(writer.left))} are missing: {sum(writer.left.values())} bytes.")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Save tensors as one safetensors file, which appears whole or not at all.

    Args:
        path: of the file, new or to be replaced.
        tensors: by name, on any device.
        metadata: text by name.
    """
    header = lay_out(path, {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}, metadata)
    with whole_file(path) as sink, writing(sink, header) as writer:
        for name in header.entries:
            writer.write(name, bytes_of(tensors[name]))


def bytes_of(tensor: Tensor) -> Any:
    """The bytes of a tensor, row-major."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
