"""A checkpoint as a mapping by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ._header import Entry, Header, read_header
from ._index import Found, agrees_with_index, found, shards
from ._names import a_path, broken, shown
from ._tensors import tensor_of, unpickled

_PICKLED = (".bin", ".pt", ".pth")


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of one or more files by name; each is read when it is asked for, and anew each time.

    `dict(checkpoint)` reads all of them once.

    Args:
        readers: what reads each tensor, by name.
        headers: of the safetensors files, by path.
        files: all files, in order.
        index: of the folder, if it has one.

    Attributes:
        entries: where each tensor of a safetensors file lies, by name.
        metadata: of each safetensors file, by path.
    """

    entries: dict[str, Entry]
    metadata: dict[Path, dict[str, str]]

    def __init__(
        self,
        readers: dict[str, Callable[[], Tensor]],
        headers: dict[Path, Header],
        files: tuple[Path, ...],
        index: Path | None,
    ) -> None:
        self._readers = readers
        self.headers, self.files, self.index = headers, files, index
        self.entries = {name: entry for header in headers.values() for name, entry in header.entries.items()}
        self.metadata = {path: header.metadata for path, header in headers.items()}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._readers:
            raise KeyError(f"{shown(name)} is not in {self!r}, which has {shown(list(self))}")
        return self._readers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        return f"Checkpoint({len(self)} tensors in {', '.join(str(path) for path in self.files)})"


def open_checkpoint(path: Any) -> Checkpoint:
    """Open a checkpoint as a mapping of tensors by name; none is read until it is asked for.

    Args:
        path: a `.safetensors` file; a folder with one, or with shards and a `model.safetensors.index.json`; that index;
            or a list of files. `.bin` and `.pt` files of tensors by name are read with `weights_only=True`.

    Returns:
        A mapping that can be passed wherever one of tensors by name is taken; `entries`, `files`, `metadata` and
        `index` say where things lie. Each tensor is on the CPU, in memory of its own.

    Raises:
        ValueError: if a file does not add up, a tensor is in two files, or the index and the shards disagree.
        TypeError: if `path` is neither a path nor a list of them.
        OSError: if the system cannot read it.

    >>> import tempfile, safetensors.torch
    >>> file = f"{tempfile.mkdtemp()}/model.safetensors"
    >>> safetensors.torch.save_file({"weight": torch.ones(2, 2)}, file)
    >>> ml.sparsity(ml.l1_unstructured(open_checkpoint(file), amount=1))
    tensor(0.2500, dtype=torch.float64)
    """
    where = _found(path)
    readers: dict[str, Callable[[], Tensor]] = {}
    headers: dict[Path, Header] = {}
    held: dict[str, Path] = {}
    for file in where.files:
        for name, reader in _readers(file, headers).items():
            if name in held:
                raise broken(file, f"{shown(name)} is in {held[name].name!r} as well")
            readers[name], held[name] = reader, file
    if where.index_path is not None and where.names is not None:
        agrees_with_index(where.index_path, where.names, held)
    return Checkpoint(readers, headers, where.files, where.index_path)


def _found(path: Any) -> Found:
    """Which files are meant."""
    if isinstance(path, (list, tuple)):
        if not path:
            raise ValueError("`path` must name a file at least, got an empty list. For example ['a.safetensors'].")
        return Found(tuple(a_path(one) for one in path), None, None)
    one = a_path(path)
    if one.name.endswith(".index.json"):
        return shards(one)
    return found(one) if os.path.isdir(one) else Found((one,), None, None)


def _readers(path: Path, headers: dict[Path, Header]) -> dict[str, Callable[[], Tensor]]:
    """What reads each tensor of a file."""
    if path.suffix in _PICKLED:
        return unpickled(path)
    headers[path] = header = read_header(path)
    return {name: partial(tensor_of, header, entry) for name, entry in header.entries.items()}
