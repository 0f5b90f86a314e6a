"""The hidden states between two blocks, batch by batch."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class States(Protocol):
    """A list of tensors, as far as the walk needs one."""

    def append(self, state: Tensor, /) -> None:
        """Add the state of another batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...

    def __setitem__(self, index: int, state: Tensor, /) -> None: ...


class InMemory:
    """States in memory, their elements in order: so that what follows is to the bit what it is after `OnDisk`."""

    def __init__(self) -> None:
        self._states: list[Tensor] = []

    def append(self, state: Tensor) -> None:
        """Add the state of another batch."""
        self._states.append(state.contiguous())

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: int) -> Tensor:
        return self._states[index]

    def __setitem__(self, index: int, state: Tensor) -> None:
        self._states[index] = state.contiguous()
