"""Tensors sharded over a mesh of processes: where each shard lies, and how the few numbers that decide are shared.

No rank ever holds a whole weight. `_layout` says which entries a rank has, `_wire` what crosses between the ranks.
"""

from __future__ import annotations

from torch import Tensor

from masklib import _read, selection
from masklib._shards import _layout


def noise_like(tensor: Tensor, key: Tensor, name: str) -> Tensor:
    """The noise of the entries of a DTensor; each rank makes its own, as it depends on their index in the whole."""
    at = _layout.layout(tensor, tensor.device_mesh, _read.place(name, "params"))  # type: ignore[attr-defined]
    noise = selection.noise_at(key, name, selection.ELEMENTS, at.flat())
    return _layout.like(noise.to(_layout.local(tensor).device), tensor)
