"""How far runs of blocks move the hidden state."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Runs(NamedTuple):
    """Scores of runs of consecutive blocks; it prints as a table.

    Attributes:
        blocks: the names of all blocks, in order.
        length: how many blocks are in a run.
        scores: of each run, without dims, by the name of its first block.
    """

    blocks: tuple[str, ...]
    length: int
    scores: dict[str, Tensor]

    def lowest(self) -> dict[str, Tensor]:
        """Masks that drop the run with the lowest score; of equal ones the first.

        Returns:
            bool without dims by the names of all blocks, True = kept, as `drop` takes them.

        Raises:
            ValueError: if a score is NaN, as of a model whose hidden states are.
        """
        if lost := self._not_numbers():
            raise ValueError(f"`scores` must be numbers to be compared, got NaN for {lost}. Are the weights finite?")
        start = min(range(len(self.scores)), key=lambda i: float(self.scores[self.blocks[i]]))
        dropped = range(start, start + self.length)
        return {name: torch.tensor(i not in dropped, device="cpu") for i, name in enumerate(self.blocks)}

    def __str__(self) -> str:
        """One line a run."""
        best = None if self._not_numbers() else next(name for name, kept in self.lowest().items() if not kept)
        rows = []
        for i, (name, score) in enumerate(self.scores.items()):
            what = name if self.length == 1 else f"{name} to {self.blocks[i + self.length - 1]}"
            rows.append(f"  {what}  {float(score):.4f}{'  the lowest' * (name == best)}")
        return "\n".join([f"{len(self.blocks)} blocks, {self.length} at a time", *rows])

    def _not_numbers(self) -> list[str]:
        return [name for name, score in self.scores.items() if score.isnan()]
