"""Headers of safetensors files: read strictly, laid out as the library does.

A file is 8 bytes, the length n of the header as a little-endian integer; n bytes of JSON; the data, without a hole.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from ._dtypes import NAME, dtype_of
from ._json import parsed
from ._names import broken, shown, told, wrong_name
from ._second import agrees

LONGEST = 100_000_000  # bytes of a header: the library's own limit
_NO_FILE = "a pipe or a device", "Save what comes out of it as a file"
_DIMS = 64  # of a shape: what torch and numpy can work with


class Entry(NamedTuple):
    """Where a tensor lies."""

    name: str
    path: Path
    offset: int  # of its first byte, in the file
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return self.numel * self.dtype.itemsize


class Header(NamedTuple):
    """What a safetensors file says about itself."""

    path: Path
    entries: dict[str, Entry]  # as they lie in the file
    metadata: dict[str, str]
    raw: bytes  # all that comes before the data: the length and the JSON
    size: int  # of the whole file, in bytes
    stamp: tuple[int, ...]  # which file, and when it was changed last; () before it is written


def read_header(path: Path) -> Header:
    """Read what a safetensors file holds, and refuse one that does not add up; no data are read.

    Args:
        path: of the file.

    Returns:
        The header; its entries lie in the file one behind the other.

    Raises:
        ValueError: if anything is cut off, left over, overlapping, said twice, or not what it should be.
        OSError: if the file cannot be read.
    """
    with opened(path) as file:
        raw, stamp = _raw(path, file), stamp_of(file)
    metadata, table = _table(path, raw)
    room = stamp[2] - len(raw)
    entries = _without_holes(
        path, [_entry(path, name, info, len(raw), room) for name, info in table.items()], raw, room
    )
    agrees(path, {e.name: (NAME[e.dtype], e.shape) for e in entries}, metadata)
    return Header(path, {e.name: e for e in entries}, metadata, raw, stamp[2], stamp)


# ---- the file --------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open an ordinary file; a pipe or a device would be waited for."""
    with told(path, "read"):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what, way = ("a folder", "Pass the files in it") if stat.S_ISDIR(mode) else _NO_FILE
            raise ValueError(f"`path` must be an ordinary file, got {str(path)!r}, which is {what}. {way}.")
        file = open(path, "rb", buffering=0)  # noqa: SIM115, closed below
    with file:
        yield file


def stamp_of(file: BinaryIO) -> tuple[int, ...]:
    """Which file it is, its size, and when it was changed last."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def unchanged(header: Header, file: BinaryIO) -> None:
    """Refuse a file that is not the one whose header was read."""
    same_stamp(header.path, header.stamp, file)


def same_stamp(path: Path, stamp: tuple[int, ...], file: BinaryIO) -> None:
    """Refuse a file that is not the one that had this stamp."""
    if stamp_of(file) != stamp:
        raise ValueError(
            f"`path` must stay as it is while it is read, got {str(path)!r} changed since it was opened. "
            "Call open_checkpoint again."
        )


def read_exactly(path: Path, file: BinaryIO, buffer: Any) -> None:
    """Fill a buffer from a file; the system may hand out less at a time."""
    view = memoryview(buffer).cast("B")
    while view:
        with told(path, "read"):
            got = file.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise broken(path, "it ends too early")
        view = view[got:]


def _raw(path: Path, file: BinaryIO) -> bytes:
    """The length and the header."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise broken(path, f"it has {size} bytes, and the length of the header alone takes 8")
    first = bytearray(8)
    read_exactly(path, file, first)
    length = int.from_bytes(first, "little")
    if length > LONGEST:
        raise broken(
            path, f"its header would have {length} bytes, where {LONGEST} are allowed; it is no safetensors file"
        )
    if length > size - 8:
        raise broken(path, f"its header has {length} bytes, and only {size - 8} are there")
    rest = bytearray(length)
    read_exactly(path, file, rest)
    return bytes(first + rest)


# ---- the table -------------------------------------------------------------------------------------------------------


def _table(path: Path, raw: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata, and what is said about each tensor."""
    try:
        table = parsed(raw[8:], "the header")
    except ValueError as error:
        raise broken(path, str(error)) from None
    if not isinstance(table, dict) or raw[8:9] != b"{":
        raise broken(path, "the header is no JSON object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise broken(path, "`__metadata__` must hold text only")
    return metadata, table


def _entry(path: Path, name: str, info: Any, start: int, room: int) -> Entry:
    """What is said about one tensor."""
    if cause := wrong_name(name):
        raise broken(path, cause)
    if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
        raise broken(path, f"{shown(name)} must have a dtype, a shape and data_offsets, got {shown(info)}")
    if not isinstance(info["dtype"], str):
        raise broken(path, f"the dtype of {shown(name)} must be text, got {shown(info['dtype'])}")
    try:
        dtype = dtype_of(info["dtype"])
    except ValueError as error:
        raise broken(path, f"of {shown(name)}, {error}") from None
    shape, (first, last) = _shape(path, name, info["shape"]), _offsets(path, name, info["data_offsets"], room)
    entry = Entry(name, path, start + first, dtype, shape)
    if entry.nbytes != last - first:
        raise broken(
            path, f"{shown(name)} of shape {list(shape)} takes {entry.nbytes} bytes, and {last - first} are there"
        )
    return entry


def _counts(value: Any) -> bool:
    """Whether it is a list of whole numbers; True and 1.0 are none."""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _shape(path: Path, name: str, value: Any) -> tuple[int, ...]:
    if not _counts(value):
        raise broken(path, f"the shape of {shown(name)} must be a list of numbers from 0 on, got {shown(value)}")
    if len(value) > _DIMS or math.prod(max(size, 1) for size in value) >= 2**60:
        raise broken(path, f"no tensor can have the shape {shown(value)} of {shown(name)}")
    return tuple(value)


def _offsets(path: Path, name: str, value: Any, room: int) -> tuple[int, int]:
    if not _counts(value) or len(value) != 2 or value[0] > value[1]:
        raise broken(path, f"data_offsets of {shown(name)} must be two rising numbers from 0 on, got {shown(value)}")
    if value[1] > room:
        raise broken(path, f"{shown(name)} ends at byte {value[1]} of the data, which have {room}: the file is cut off")
    return value[0], value[1]


def _without_holes(path: Path, entries: list[Entry], raw: bytes, room: int) -> list[Entry]:
    """The entries as they lie in the file, one exactly where the one before ends, up to the end."""
    entries.sort(key=lambda e: (e.offset, e.offset + e.nbytes))
    at = len(raw)
    for entry in entries:
        if entry.offset != at:
            what = "overlaps the tensor before it" if entry.offset < at else "leaves a hole before it"
            raise broken(path, f"{shown(entry.name)} {what}")
        at += entry.nbytes
    if at != len(raw) + room:
        raise broken(path, f"{len(raw) + room - at} bytes are left over at its end")
    return entries
