"""Where the walk gets blocks from, and returns them to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any, Protocol
from zlib import crc32

import torch
from torch import Tensor, nn


class Place(Protocol):
    """Where a model lies while one block of it at a time is at hand."""

    streams: bool  # whether only the block at hand has values

    def start(self) -> AbstractContextManager[None]:
        """The first block has values, and what is not in the blocks."""

    def batch(self) -> AbstractContextManager[None]:
        """The model is run on a batch, to see what its blocks are called with."""

    def behind(self, outputs: Any) -> Any:
        """What the model is given for what its last block returns."""

    def block(self, name: str) -> AbstractContextManager[None]:
        """A block has values, on the device that computes."""

    def packed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of the block at hand, as they are stored."""

    def unpacked(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights out of what is stored, and those that are stored together with them."""

    def told(self) -> str:
        """What tells these weights from others."""


@contextmanager
def moved(tensors: Iterable[Tensor], device: torch.device | None) -> Iterator[None]:
    """Tensors on a device, and back where each was; None for where they are."""
    homes = [] if device is None else [(tensor, tensor.device) for tensor in tensors]
    try:
        for tensor, _ in homes:
            tensor.data = tensor.data.to(device)
        yield
    finally:
        for tensor, home in homes:
            tensor.data = tensor.data.to(home)


class Held:
    """A model in memory.

    Args:
        model: all of it has values.
        device: where the block at hand is computed; None for where it lies.
    """

    streams = False

    def __init__(self, model: nn.Module, device: torch.device | None) -> None:
        self._model, self._device = model, device

    @contextmanager
    def start(self) -> Iterator[None]:
        """All of it has values."""
        yield

    batch = start

    def behind(self, outputs: Any) -> Any:
        """The outputs themselves."""
        return outputs

    @contextmanager
    def block(self, name: str) -> Iterator[None]:
        """Move the block to the device, and back."""
        block = self._model.get_submodule(name)
        with moved(chain(block.parameters(), block.buffers()), self._device):
            yield

    def packed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights themselves."""
        return weights

    unpacked = packed

    def told(self) -> str:
        """A sum over the bits of all weights."""
        total = 0
        for tensor in self._model.state_dict().values():
            total = crc32(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data, total)
        return f"weights {total:08x}"
