"""What became of a checkpoint, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch


class Pruned(NamedTuple):
    """What became of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    dead: int  # elements that are zero now because of their mask
    tied: str | None = None  # the tensor whose elements it has, and whose mask; it counts once

    @property
    def size(self) -> int:
        """How many elements it has."""
        return torch.Size(self.shape).numel()

    @property
    def sparsity(self) -> float:
        """The dead share."""
        return self.dead / max(self.size, 1)


class Report(NamedTuple):
    """What `prune_checkpoint` did, or would do; prints as a table."""

    tensors: Mapping[str, Pruned]  # those that were pruned, by name
    skipped: Mapping[str, str]  # why each other one was not
    left_out: tuple[str, ...]  # what of the source's folder did not come along
    bytes_read: int
    bytes_written: int  # 0 of a dry run

    @property
    def dead(self) -> int:
        """Dead elements of all tensors that were pruned."""
        return sum(t.dead for t in self.tensors.values() if t.tied is None)

    @property
    def size(self) -> int:
        """Elements of all tensors that were pruned."""
        return sum(t.size for t in self.tensors.values() if t.tied is None)

    @property
    def sparsity(self) -> float:
        """The dead share of all tensors that were pruned."""
        return self.dead / max(self.size, 1)

    def __str__(self) -> str:
        width = max(map(len, self.tensors), default=0)
        lines = [
            f"{name:<{width}}  {'x'.join(map(str, t.shape)):>16}  {str(t.dtype).removeprefix('torch.'):>8}  "
            f"{100 * t.sparsity:6.2f} %{f'  tied to {t.tied}' if t.tied else ''}"
            for name, t in self.tensors.items()
        ]
        lines.append(f"{self.dead:,} of {self.size:,} weights are dead: {100 * self.sparsity:.2f} %")
        return "\n".join([*lines, *self.notes(), f"{self.bytes_read:,} bytes read, {self.bytes_written:,} written"])

    def notes(self) -> list[str]:
        """What was not pruned and why, and what did not come along: a line each."""
        lines = [f"not pruned: {', '.join(names)}: {reason}" for reason, names in by_reason(self.skipped).items()]
        return [*lines, f"left out: {', '.join(self.left_out)}"] if self.left_out else lines


_SHOWN = 3  # names of one reason, beside their number


def by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """The first names of each reason, and how many more there are."""
    found: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        found.setdefault(reason, []).append(name)
    return {
        reason: names if len(names) <= _SHOWN + 1 else [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]
        for reason, names in found.items()
    }
