"""Masks of a file, read run by run: a checkpoint's masks take an eighth of its memory otherwise, and more unpacked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib.selection import Streamed
from masklib.selection._streamed import runs

from ._bits import ones, rows_and_columns, unpack
from ._header import Entry, opened, read_header, unchanged
from ._masks import load_masks, read_metadata
from ._names import a_path, broken, named, shown
from ._reading import Counter, Reading


@contextmanager
def given_masks(masks: Any) -> Iterator[Any]:
    """Masks by name as they are, and those of a file as a stream."""
    if masks is None or isinstance(masks, Mapping):
        yield masks
    elif not isinstance(masks, (str, os.PathLike)):
        raise TypeError(
            f"`masks` must be bool tensors by name, or the path of a file of save_masks, got {shown(masks)}. "
            "For example masks=load_masks(path).masks."
        )
    else:
        with ExitStack() as stack:
            with named("masks"):
                found = stack.enter_context(streamed_masks(masks))
            yield found


@contextmanager
def streamed_masks(path: Any) -> Iterator[dict[str, Streamed]]:
    """The masks of a file of `save_masks`, which is checked as `load_masks` checks it, in constant memory."""
    where = a_path(path, "masks")
    header = read_header(where)
    facts, _ = read_metadata(header)
    with opened(where) as file:
        unchanged(header, file)
        files = Reading({where: (file, header)}, Counter(None))
        for name, entry in header.entries.items():
            _check(entry, facts[name], files)
        yield {name: _mask(header.entries[name], fact, files) for name, fact in facts.items()}
        unchanged(header, file)


def _check(entry: Entry, fact: Mapping[str, Any], files: Reading) -> None:
    """Refuse bits that are not those that were saved, as `load_masks` does."""
    checksum, kept, padding = 0, 0, 0
    width, used = max(entry.shape[1], 1), rows_and_columns(tuple(fact["shape"]))[1] % 8
    for first, last in runs(entry.numel):
        data = files.elements(entry, first, last).numpy()
        checksum, kept = zlib.crc32(data.data, checksum), kept + ones(data)
        ends = data[(-first - 1) % width :: width]  # the last byte of each row
        padding += int(np.count_nonzero(ends >> used)) if used else 0
    if (checksum, kept, padding) != (fact["crc32"], fact["kept"], 0):
        load_masks(entry.path)  # says what is wrong
        raise broken(entry.path, "it was changed while it was read")


def _mask(entry: Entry, fact: Mapping[str, Any], files: Reading) -> Streamed:
    """A mask, of which whole rows are unpacked when they are read; of one row alone, whole bytes."""
    shape = torch.Size(fact["shape"])
    rows, columns = rows_and_columns(tuple(shape))
    width = entry.shape[1]

    def of_rows(start: int, stop: int, _: Any) -> Tensor:
        first, last = start // columns, stop // columns
        data = files.elements(entry, first * width, last * width).numpy().reshape(-1, width)
        return unpack(data, (last - first, columns)).view(-1)

    def of_bytes(start: int, stop: int, _: Any) -> Tensor:
        data = files.elements(entry, start // 8, -(-stop // 8)).numpy().reshape(1, -1)
        return unpack(data, (stop - start,))

    read, together = (of_bytes, 8) if rows == 1 else (of_rows, columns)
    return Streamed(shape, torch.bool, read, together, fact["kept"])
