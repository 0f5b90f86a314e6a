"""What `remove` made permanent, for whoever wants to hold it at zero: the note hangs on the module itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from masklib._shards._parts import on_part

HELD = "_masklib_held"

Notes = dict[str, tuple[nn.Parameter, Tensor]]  # parameter name -> the parameter, and who was alive at `remove`


class Held(dict[int, Notes]):
    """The notes of each watcher, by its number. Copies and pickles of the module have no watchers."""

    def __deepcopy__(self, memo: Any) -> Held:
        return Held()

    def __reduce__(self) -> Any:
        return Held, ()


def watch(module: nn.Module, watcher: int) -> Notes:
    """From now on note what `remove` makes permanent in a module for a watcher; return what was noted so far."""
    held = module.__dict__.get(HELD, {})
    if watcher not in held:
        module.__dict__[HELD] = held = Held({**held, watcher: {}})
    return held[watcher]


def forget(module: nn.Module, watcher: int) -> None:
    """Note nothing any more for a watcher."""
    rest = Held({w: notes for w, notes in module.__dict__.get(HELD, {}).items() if w != watcher})
    if rest:
        module.__dict__[HELD] = rest
    else:
        module.__dict__.pop(HELD, None)


def note(module: nn.Module, name: str, param: nn.Parameter, kept: Tensor) -> None:
    """Note for all who watch that a mask was made permanent."""
    held = module.__dict__.get(HELD)
    if held:
        module.__dict__[HELD] = Held(
            {w: {**notes, name: _noted(notes, name, param, kept)} for w, notes in held.items()}
        )


def _noted(notes: Notes, name: str, param: nn.Parameter, kept: Tensor) -> tuple[nn.Parameter, Tensor]:
    before = notes.get(name)
    if before is None or before[0] is not param or before[1].shape != kept.shape:
        return param, kept
    return param, on_part(torch.logical_and, before[1], kept)
