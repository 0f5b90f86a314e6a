"""What an update is, in words that are the same in every process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from masklib.updates import Update


def described(update: Update, hold: Any) -> str:
    """An update with all its numbers. Functions are told apart by their names, tensors by their shapes."""
    parts = {"masks": update.masks, "due": update.due, "observe": update.observe, "decay": update.decay, "hold": hold}
    return _words({name: part for name, part in parts.items() if part is not None} | {"rewind": update.rewind})


def _words(part: Any) -> str:
    if isinstance(part, partial):
        return f"{_words(part.func)}({', '.join([*map(_words, part.args), *_pairs(part.keywords)])})"
    if isinstance(part, Mapping):
        return ", ".join(_pairs(part))
    if isinstance(part, Tensor) and part.dim():
        return f"a tensor of shape {tuple(part.shape)}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(part))


def _pairs(parts: Mapping[Any, Any]) -> list[str]:
    return [f"{name}={_words(part)}" for name, part in parts.items()]
