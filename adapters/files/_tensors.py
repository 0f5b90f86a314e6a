"""Tensors out of files: each is read whole when it is asked for, into memory of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masklib import _read

from ._header import Entry, Header, opened, read_exactly, same_stamp, stamp_of, unchanged
from ._names import broken, shown, wrong_name


def tensor_of(header: Header, entry: Entry) -> Tensor:
    """Read one tensor of a safetensors file.

    Raises:
        ValueError: if the file is not what it was when its header was read, or a bool is neither 0 nor 1.
    """
    data = _room(entry)
    with opened(entry.path) as file:
        unchanged(header, file)
        file.seek(entry.offset)
        read_exactly(entry.path, file, data.numpy())
    if entry.dtype == torch.bool and entry.numel and int(data.max()) > 1:
        raise broken(entry.path, f"{shown(entry.name)} must be bool, and holds bytes that are neither 0 nor 1")
    if not entry.numel:
        return torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    return data.view(entry.dtype).view(entry.shape)


def _room(entry: Entry) -> Tensor:
    """Memory for a tensor's bytes."""
    try:
        return torch.empty(entry.nbytes, dtype=torch.uint8, device="cpu")
    except RuntimeError:
        raise ValueError(
            f"{shown(entry.name)} of {str(entry.path)!r} must fit in memory, and has {entry.nbytes} bytes. "
            "Read a part of the tensors: the mapping is read name by name."
        ) from None


def unpickled(path: Path) -> dict[str, Callable[[], Tensor]]:
    """Open a .bin or .pt file of tensors by name, with `weights_only=True`: no code of the file is run.

    Returns:
        What reads each tensor: they lie in the file until then, where its format allows it.

    Raises:
        ValueError: if it holds anything else.
    """
    with opened(path) as file:
        stamp = stamp_of(file)
    try:
        held = _loaded(path)
    except Exception as error:  # of any kind: a file made on purpose leads the unpickler anywhere
        raise broken(path, f"torch.load with weights_only=True refuses it ({_first_line(error)})") from None
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise broken(path, "it must hold tensors by name, as model.state_dict() does, and nothing else")
    for name, tensor in held.items():
        _read.is_name(name, "path")
        if cause := wrong_name(name):
            raise broken(path, cause)
        _read.is_dense(tensor, name, "path")
    return {name: partial(_copied, path, stamp, tensor) for name, tensor in held.items()}


def _copied(path: Path, stamp: tuple[int, ...], tensor: Tensor) -> Tensor:
    """A copy in memory of its own."""
    with opened(path) as file:
        same_stamp(path, stamp, file)
    return tensor.detach().clone()


def _loaded(path: Path) -> Any:
    """By mapping the file; one of the format before torch 1.6 is read whole."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    return shown(str(error).strip().split("\n")[0])
