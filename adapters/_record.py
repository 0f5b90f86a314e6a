"""What pruning did to a tensor, step by step, in one byte a weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from masklib import custom_from_mask


class Record:
    """At which step each weight died (0 = alive), and which steps the weights alone determine.

    Attributes:
        died: uint8 of the weight's shape on the CPU; int16 from the 256th step on.
        steps: for each step its method if the weights determine it, else None.
    """

    def __init__(self, like: Tensor) -> None:
        with torch.inference_mode(False):
            self.died = torch.zeros(like.shape, dtype=torch.uint8)
        self.steps: tuple[Any, ...] = ()

    def add(self, alive: Tensor | None, kept: Tensor, method: Any) -> None:
        """Write down one step, given as bool masks before and after it."""
        self.steps += (method,)
        if len(self.steps) == 256:
            self.died = self.died.to(torch.int16)
        gone = ~kept if alive is None else alive & ~kept
        self.died[gone.cpu()] = len(self.steps)

    def rewind(self, steps: int) -> None:
        """Forget all but the first steps."""
        self.died[self.died > steps] = 0
        self.steps = self.steps[:steps]

    def survivors(self, step: int) -> Tensor:
        """Who was alive after a step, counted from 1, as bool."""
        return (self.died == 0) | (self.died > step)

    def history(self) -> tuple[Any, ...]:
        """The steps as the core's history: `fold(history, weight)` gives the mask."""
        return tuple(
            partial(_removed, record=self, step=i) if method is None else partial(replay, method)
            for i, method in enumerate(self.steps, 1)
        )


def _removed(scores: Tensor, default_mask: Tensor | None = None, *, record: Record, step: int) -> Tensor:
    return custom_from_mask(scores, default_mask, mask=record.survivors(step).to(scores.device))


def replay(method: Any, scores: Tensor, default_mask: Tensor | None = None) -> Tensor:
    """A method of the adapter as a step of the core: the weights under the mask are its scores."""
    alive = torch.ones_like(scores, dtype=torch.bool) if default_mask is None else default_mask
    ranked = torch.where(alive, scores.detach(), 0)
    return alive & (method.on_living(ranked, alive.to(scores.dtype)) != 0)
