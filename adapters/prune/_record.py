"""What pruning did to a tensor, step by step, in one byte a weight."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from masklib import _read, custom_from_mask
from masklib._shards._layout import local
from masklib._shards._parts import on_part
from masklib.masking import where_kept

from .._module.sharded import Lies, lies, own_part

LAST = 255  # the largest number of a step that a uint8 holds


class Record:
    """At which step each weight died, and which steps the weights alone determine.

    Attributes:
        died: uint8 of the weight's shape on the CPU, the number of the step it died at; 0 = alive. Of a sharded weight
            it is that of this rank's part.
        lies: where that part lies, None of a whole weight.
        numbers: for each step its number in `died`; once there are more than 255, neighbours come to share one.
        steps: each as a step of the core if the weights determine it, else None.
    """

    died: Tensor

    def __init__(self) -> None:
        self.lies: Lies | None = None
        self.numbers: tuple[int, ...] = ()
        self.steps: tuple[Any, ...] = ()

    def add(self, alive: Tensor | None, kept: Tensor, step: Any) -> None:
        """Write down one step, given as bool masks before and after it."""
        _outside_inference(self._add, alive, kept, step)

    def _add(self, alive: Tensor | None, kept: Tensor, step: Any) -> None:
        if self.numbers and self.numbers[-1] == LAST:
            self._share_numbers()
        if self.lies != lies(kept):
            self._lie_as(kept)
        alive, kept = None if alive is None else local(alive), local(kept)
        follows = alive is None or self._agrees(alive.cpu())
        number = self.numbers[-1] + 1 if self.numbers else 1
        dead = ~(kept if kept.device.type == "cpu" else kept.cpu())
        if self.numbers:
            self.died.masked_fill_((self.died == 0) & dead, number)
        else:
            self.died = dead.view(torch.uint8)
        self.numbers += (number,)
        self.steps += (step if follows else None,)

    def _agrees(self, alive: Tensor) -> bool:
        """Whether nobody else changed the mask since the last step; what a loaded mask revived is forgotten."""
        if not self.numbers:
            return self._everywhere(bool(alive.all()))
        if not self._everywhere(not (alive & (self.died != 0)).any()):
            self.died = torch.zeros_like(self.died)
            self.steps = (None,) * len(self.steps)
        return self._everywhere(torch.equal(alive, self.died == 0))

    def _everywhere(self, flag: bool) -> bool:
        """Whether it is so on all ranks, which have one history."""
        return flag if self.lies is None else self.lies.on_all(flag)

    def _lie_as(self, kept: Tensor) -> None:
        """Keep this rank's part of what is on record of the whole weight, which has been sharded since."""
        if self.numbers:
            self.died = local(own_part(self.died, kept))
        self.lies = lies(kept)

    def _share_numbers(self) -> None:
        """Make room: steps 1 and 2 become 1, 3 and 4 become 2, …, each as the mask of what both removed."""
        self.died = self.died // 2 + self.died % 2
        self.numbers = tuple(number // 2 + number % 2 for number in self.numbers)
        self.steps = (None,) * len(self.steps)

    def snapshot(self) -> Callable[[], None]:
        """What puts the record back to how it is now."""
        state, last = dict(self.__dict__), max(self.numbers, default=0)

        def put_back() -> None:
            self.__dict__.update(state)
            self.died.masked_fill_(self.died > last, 0)

        return put_back

    def survivors(self, step: int) -> Tensor:
        """Who was alive after a step, as bool."""
        kept = (self.died == 0) | (self.died > self.numbers[step])
        return kept if self.lies is None else self.lies.of(kept)

    def history(self) -> tuple[Any, ...]:
        """The steps as the core's history: `fold(history, weight)` gives the mask."""
        return tuple(
            partial(_removed, record=self, step=i) if step is None else step for i, step in enumerate(self.steps)
        )


def _outside_inference(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function such that what it makes can be trained with."""
    if not torch.is_inference_mode_enabled():
        return function(*args, **kwargs)
    with torch.inference_mode(False):
        return function(*args, **kwargs)


def _removed(scores: Tensor, default_mask: Tensor | None = None, *, record: Record, step: int) -> Tensor:
    mask = on_part(lambda kept: kept.to(scores.device), record.survivors(step))
    return custom_from_mask(scores, default_mask, mask=mask)


def replay(method: Any, scores: Tensor, default_mask: Tensor | None = None) -> Tensor:
    """A method of the adapter as a step of the core: the weights under the mask are its scores."""
    if _read.is_sharded(scores):
        whole = getattr(method.compute_mask, "masks", None) or method.compute_mask.whole
        return whole(method, [scores.detach()], [default_mask], ["weight"])[0]
    alive = torch.ones_like(scores, dtype=torch.bool) if default_mask is None else default_mask
    ranked = where_kept(alive, scores.detach())
    return alive & (method.on_living(ranked, alive.to(scores.dtype)) != 0)
