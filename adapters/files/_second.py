"""The second reader: what we read from a header, the safetensors library must read from it as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._names import broken

try:
    from safetensors import SafetensorError, safe_open
except ModuleNotFoundError as error:
    raise ImportError("masklib.adapters.files needs safetensors: pip install 'masklib[files]'.") from error

Contents = Mapping[str, tuple[str, tuple[int, ...]]]  # name: the dtype's name, the shape


def agrees(path: Path, contents: Contents, metadata: Mapping[str, str]) -> None:
    """Refuse a file that two readers, written apart, read differently: one of its users would be misled."""
    try:
        with safe_open(path, framework="np") as file:
            theirs = {name: _told(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118, it is no mapping
            others = file.metadata() or {}
    except (SafetensorError, OSError, UnicodeError) as error:
        raise broken(path, f"the safetensors library refuses it ({error})") from None
    if theirs != contents or others != metadata:
        raise broken(path, "the safetensors library reads other names, dtypes, shapes or metadata from it")


def _told(view: Any) -> tuple[str, tuple[int, ...]]:
    return view.get_dtype(), tuple(view.get_shape())
