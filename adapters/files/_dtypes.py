"""The dtypes of safetensors by the names that its headers give them."""

from __future__ import annotations

import torch

# In the library's own order, which sorts tensors in a file by it, the last first: wider ones come first, so that every
# tensor lies at a multiple of its item's size. None: torch 2.6 does not have it.
BY_NAME: dict[str, torch.dtype | None] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": getattr(torch, "float8_e8m0fnu", None),
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
NAME = {dtype: name for name, dtype in BY_NAME.items() if dtype is not None}
_SHARE_BYTES = ("F4", "F6_E2M3", "F6_E3M2")
RANK = {name: rank for rank, name in enumerate(BY_NAME)}


def dtype_of(name: str) -> torch.dtype:
    """The dtype that a header names.

    Raises:
        ValueError: if there is none; the message is the cause alone.
    """
    dtype = BY_NAME.get(name)
    if dtype is not None:
        return dtype
    if name in _SHARE_BYTES:
        raise ValueError(f"numbers of {name} share bytes, so that none of them can be read or zeroed alone")
    if name in BY_NAME:
        raise ValueError(f"torch {torch.__version__} does not have the dtype {name!r}")
    raise ValueError(f"{name!r} is no dtype; known are {', '.join(BY_NAME)}")
