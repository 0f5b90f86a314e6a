"""What a report on a training says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from masklib import algebra

from .._module.weights import skipped


class Report(NamedTuple):
    """How sparse a model is at a step.

    Attributes:
        step: the steps of the optimizer so far.
        sparsity: the dead share of all that has a mask.
        kept: by name, how many live and how many there are.
        left_out: the parameters without a mask, and why they have none.
        ended: why steps count no longer; empty while they do.
    """

    step: int
    sparsity: float
    kept: dict[str, tuple[int, int]]
    left_out: dict[str, str]
    ended: str = ""

    def __str__(self) -> str:
        """One line a parameter."""
        head = f"step {self.step}: {self.sparsity:.2%} of {sum(n for _, n in self.kept.values()):,} weights are dead"
        head += f"; ended: {self.ended}" if self.ended else ""
        rows = [f"  {name}: {alive:,} of {size:,} live" for name, (alive, size) in self.kept.items()]
        return "\n".join([head, *rows, *(f"  {name}: no mask, {why}" for name, why in self.left_out.items())])


def report(step: int, model: nn.Module, masks: Mapping[str, Tensor], ended: str) -> Report:
    """Count what lives, and name what has no mask."""
    kept = {name: (int(algebra.count(mask)), mask.numel()) for name, mask in masks.items()}  # one by one: each its mesh
    alive, size = map(sum, zip(*kept.values()))
    reasons = {name: "not chosen" for name, _ in model.named_parameters()} | skipped(model)
    others = {name: why for name, why in reasons.items() if name not in masks}
    return Report(step, (size - alive) / max(size, 1), kept, others, ended)
