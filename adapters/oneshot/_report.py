"""What became of a model."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Layer(NamedTuple):
    """What became of one weight.

    Attributes:
        block: the name of the block that it is in.
        kept: how many of its entries live.
        size: how many it has.
        inputs: how many inputs it saw; of packed experts, how many each one saw.
        error: the squared error of its outputs relative to the outputs of the dense weight, over all batches, on the
            inputs that it has in the pruned model.
    """

    block: str
    kept: int
    size: int
    inputs: tuple[int, ...]
    error: float


class Pruned(NamedTuple):
    """Masks and a report; it prints as a table.

    Attributes:
        masks: by name, in the shapes of the parameters, True = kept.
        layers: by name, what became of each weight.
        left_out: the other parameters by name, and why they have no mask.
    """

    masks: dict[str, Tensor]
    layers: dict[str, Layer]
    left_out: dict[str, str]

    def __str__(self) -> str:
        """One line a weight."""
        kept, size = (sum(getattr(layer, field) for layer in self.layers.values()) for field in ("kept", "size"))
        head = f"{size - kept:,} of {size:,} weights are dead ({1 - kept / max(size, 1):.2%})"
        width = max(map(len, self.layers), default=0)
        rows = [f"  {n:{width}}  {1 - x.kept / x.size:8.2%} dead  error {x.error:9.3%}" for n, x in self.layers.items()]
        return "\n".join([head, *rows, *(f"  {name}: left out, {why}" for name, why in self.left_out.items())])
