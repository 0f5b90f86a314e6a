"""Folders of shards: which file holds which tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ._header import opened, read_exactly
from ._json import parsed
from ._names import broken, shown, told, wrong_file_name

_ENDS = (".safetensors", ".bin", ".pt", ".pth")
_LONGEST = 100_000_000  # bytes, as of a header


class Found(NamedTuple):
    """What a folder holds."""

    files: tuple[Path, ...]
    index_path: Path | None
    names: Mapping[str, str] | None  # what the index says: the file of each tensor


def found(folder: Path) -> Found:
    """Find the checkpoint in a folder: its index and the shards that it names, or the one file.

    Raises:
        ValueError: if there is none, or more than one, or the index does not add up.
    """
    names = _listed(folder)
    for end in (".safetensors", ".bin"):
        indices = [name for name in names if name.endswith(f"{end}.index.json")]
        if len(indices) > 1:
            raise _which(folder, indices)
        if indices:
            return shards(folder / indices[0])
    files = _single(names)
    if len(files) != 1:
        raise _which(folder, files)
    return Found((folder / files[0],), None, None)


def _listed(folder: Path) -> list[str]:
    with told(folder, "read"):
        return sorted(os.listdir(folder))


def _single(names: list[str]) -> list[str]:
    """The files with tensors; a trainer's `training_args.bin` is none."""
    files = [name for name in names if name.endswith(".safetensors")]
    return files or [name for name in names if name.endswith(_ENDS[1:]) and name != "training_args.bin"]


def _which(folder: Path, names: list[str]) -> ValueError:
    return ValueError(
        f"`path` must be a folder with one checkpoint, got {str(folder)!r} with {shown(names)}. "
        f"Pass the file, or a list of files{f', such as {str(folder / names[0])!r}' if names else ''}."
    )


def shards(path: Path) -> Found:
    """The shards that an index names."""
    names, present = _weight_map(path), _listed(path.parent)
    files = list(dict.fromkeys(names.values()))
    missing = [name for name in files if name not in present]
    if missing:
        raise broken(path, f"the index names files that are not there: {shown(missing)}")
    whole = path.name.removesuffix(".index.json")
    if whole in present and whole not in files:
        raise _which(path.parent, [path.name, whole])
    return Found(tuple(path.parent / name for name in files), path, names)


def _weight_map(path: Path) -> dict[str, str]:
    """The file of each tensor by the index."""
    try:
        index: Any = parsed(_text(path), "the index")
    except ValueError as error:
        raise error if "`path`" in str(error) else broken(path, str(error)) from None
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise broken(path, "the index must be an object with a `weight_map` that names files")
    if cause := next(filter(None, map(wrong_file_name, names.values())), ""):
        raise broken(path, cause)
    return names


def _text(path: Path) -> bytes:
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LONGEST:
            raise broken(path, f"the index has {size} bytes, where {_LONGEST} are allowed")
        data = bytearray(size)
        read_exactly(path, file, data)
    return bytes(data)


def agrees_with_index(index: Path, names: Mapping[str, str], held: Mapping[str, Path]) -> None:
    """Refuse an index and shards that say different things about where tensors are."""
    for name in names.keys() | held.keys():
        if name not in held or name not in names or held[name].name != names[name]:
            says = f"in {names[name]!r}" if name in names else "nowhere"
            there = f"in {held[name].name!r}" if name in held else "in none of its files"
            raise broken(index, f"by the index {shown(name)} is {says}, and it is {there}")
