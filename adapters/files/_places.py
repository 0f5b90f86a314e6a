"""Where a pruned checkpoint goes, and what comes along with it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._atomic import is_left_over, new_file, whole_file, whole_folder
from ._checkpoint import Checkpoint
from ._header import opened
from ._names import told
from ._reading import Reading
from ._rewriting import Plan, rewrite
from ._targets import file_target, folder_target

# Weights in another format would be the old ones, and which of them are read is not ours to say.
_OTHERS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".json")
_WEIGHTS = (".safetensors", *_OTHERS[:-1], ".index.json")
_BLOCK = 2**20


def place_of(checkpoint: Checkpoint, source: Path, target: Any) -> Path:
    """Refuse a target that the checkpoint cannot be written to; nothing is written yet."""
    folder = is_folder(checkpoint, source)
    place = (folder_target if folder else file_target)(target, "target")
    if folder and place.suffix == ".safetensors":
        raise ValueError(
            f"`target` must be a folder, as `source` is one, got {str(place)!r}. Pass another name, or the file of "
            f"`source` alone: {str(checkpoint.files[0])!r}."
        )
    if not folder and place.name.endswith(_OTHERS):
        raise ValueError(
            f"`target` must be a safetensors file, as `source` is one, got {str(place)!r}, which readers take for "
            f"another format by its name. Pass {str(place.with_suffix('.safetensors'))!r}."
        )
    needed = sum(header.size for header in checkpoint.headers.values())
    with told(place.parent, "found"):
        free = shutil.disk_usage(place.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"`target` {str(place)!r} needs {needed:,} bytes, and the disk has {free:,} free")
    return place


def is_folder(checkpoint: Checkpoint, source: Path) -> bool:
    """Whether a checkpoint is a folder: by its path, or because it has shards."""
    return checkpoint.index is not None or os.path.isdir(source)


def write_file(checkpoint: Checkpoint, plan: Plan, place: Path, files: Reading) -> dict[str, int]:
    """Write the one file of a checkpoint, and return how many elements of each tensor are dead."""
    (header,) = checkpoint.headers.values()
    with whole_file(place, "target") as sink:
        dead = rewrite(header, plan, sink)
        files.still_the_same()
    return dead


def write_folder(checkpoint: Checkpoint, plan: Plan, place: Path, files: Reading) -> tuple[dict[str, int], list[str]]:
    """Write all files of a checkpoint and what is beside them; return the dead, and what did not come along."""
    along, left = beside(checkpoint)
    with whole_folder(place) as folder:
        dead: dict[str, int] = {}
        for path, header in checkpoint.headers.items():
            with new_file(folder / path.name, place / path.name) as sink:
                dead |= rewrite(header, plan, sink)
        for path in along:
            with new_file(folder / path.name, place / path.name) as sink:
                for block in _blocks(path):
                    sink.write(block)
        files.still_the_same()
    return dead, left


def beside(checkpoint: Checkpoint) -> tuple[list[Path], list[str]]:
    """The files beside those with tensors that come along, and the names of what does not."""
    folder = checkpoint.files[0].parent
    with told(folder, "read"):
        others = [folder / name for name in sorted(os.listdir(folder)) if folder / name not in checkpoint.files]
        homes = {folder.resolve(), *(path.resolve().parent for path in checkpoint.files)}
    along = [p for p in others if p == checkpoint.index or _comes_along(p, homes)]
    return along, [f"{p.name}/" if p.is_dir() else p.name for p in others if p not in along]


def _comes_along(path: Path, homes: set[Path]) -> bool:
    """Whether a file is of the checkpoint: a link may lead to where the weights lie, as in the caches of model hubs.

    Any other link could lead to a file that its owner would not give away with a model.
    """
    return (
        path.is_file()
        and path.resolve().parent in homes
        and not path.name.endswith(_WEIGHTS)
        and not is_left_over(path.name)
    )


def _blocks(path: Path) -> Iterator[bytes]:
    with opened(path) as file:
        while block := file.read(_BLOCK):
            yield block
