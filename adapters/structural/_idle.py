"""Units that can go without any change of what the model computes, though masks have not killed all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from masklib.masking import apply

from .._module.same import difference
from ._cut import dead_units, smaller
from ._flow import Flow
from ._sets import Set
from ._shrink import read_all
from ._structure import Structure


class Idle(NamedTuple):
    """Which units can go exactly, and why; prints a line a set.

    Args:
        masks: those given, with all of these units dead in all their tensors: what `shrink`, `count` and
            `shrink_optimizer` take.
        sets: the sets of the structure.
        nowhere: for each set, bool (units,): what they say is not heard by anything that the model returns.
        nothing: for each set: they are zero for all inputs.
        constant: for each set: they stay, but say the same for all inputs. `fold_constants` may put it into biases.
        normed: for each set: they stay, since a norm takes them into its mean, though nothing else hears them.
        last: for each set: one that stays where all could go, since a layer cannot have none.
    """

    masks: dict[str, Tensor]
    sets: tuple[Set, ...]
    nowhere: tuple[Tensor, ...]
    nothing: tuple[Tensor, ...]
    constant: tuple[Tensor, ...]
    normed: tuple[Tensor, ...]
    last: tuple[Tensor, ...]

    @property
    def units(self) -> int:
        """How many can go."""
        return sum(int((a | b).sum()) for a, b in zip(self.nowhere, self.nothing))

    def __repr__(self) -> str:
        told = [f"  {line}" for i in range(len(self.sets)) if (line := self._line(i))]
        return "\n".join([f"{self.units} units are idle", *told])

    def _line(self, i: int) -> str:
        counts = {words: int(getattr(self, name)[i].sum()) for name, words in _WORDS.items()}
        found = [words.format(count) for words, count in counts.items() if count]
        return f"{self.sets[i]!r}: {', '.join(found)}" if found else ""


_WORDS = {
    "nowhere": "{} lead nowhere",
    "nothing": "{} are zero",
    "constant": "{} stay, but are constant",
    "normed": "{} stay, but only for a norm",
    "last": "{} stays, since a layer cannot have none",
}


def idle(model: nn.Module, masks: Mapping[str, Tensor], structure: Structure) -> Idle:
    """Find the units that can go exactly, though masks have not killed all that belongs to them.

        functional_call(model, apply(params, idle(model, masks, structure).masks), (x,))
            = functional_call(model, apply(params, masks), (x,))

    A unit leads nowhere if what reads it is dead, or leads nowhere itself. It is zero if what makes it is dead, its
    bias included, or hears only units that are zero, through operators that keep a zero. The graph says so, not the
    values; the two models are also run on the example inputs and compared.

    What stays: a unit that always says the same, as a neuron of which only the bias lives (see `fold_constants`); one
    of a width that a norm takes the mean of, unless it is zero; and one unit of each set.

    Args:
        model: the one that the structure is of. It is left as it is.
        masks: bool, by parameter name, of the parameters' shapes.
        structure: of the model, from `structure(model, example_inputs)`; with `select`, of the sets to look at.

    Returns:
        Masks with which `shrink` cuts these units, and for each set which they are.

    Raises:
        TypeError: if an argument is of another kind, or a mask not bool.
        ValueError: if a mask has no parameter, or not its shape; if the structure is of another model.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> found = structure(net, (torch.ones(1, 2),))
    >>> idle(net, {"2.weight": torch.tensor([[True, True, False]])}, found)
    1 units are idle
      3 units of 0.weight[0], 0.bias[0], 2.weight[1]: 1 lead nowhere
    """
    params, kept = read_all(model, masks, structure)
    flow, dead = Flow(structure, kept), dead_units(structure, kept)
    quiet, normed = flow.silence()
    need, heard = flow.needed(quiet, normed)
    zero, same = flow.said(quiet), flow.said(flow.constants(quiet))
    last = [_last(n, d) for n, d in zip(need, dead)]
    gone = [~n & ~d & ~one for n, d, one in zip(need, dead, last)]
    found = Idle(
        flow.without(gone, kept),
        structure.sets,
        tuple(g & ~z for g, z in zip(gone, zero)),
        tuple(g & z for g, z in zip(gone, zero)),
        tuple(h & s & ~m for h, s, m in zip(heard, same, normed)),
        tuple(m & ~h for m, h in zip(normed, heard)),
        tuple(last),
    )
    refuse_other(model, apply(params, kept), smaller(model, found.masks, {}), structure)
    return found


def _last(need: Tensor, dead: Tensor) -> Tensor:
    """The first unit that the masks have not killed, where no unit is needed; else none."""
    alive = ~dead if not need.any() else torch.zeros_like(dead)
    return alive & (alive.cumsum(0) == 1)


def refuse_other(model: nn.Module, masked: Mapping[str, Tensor], other: nn.Module, structure: Structure) -> None:
    """Refuse what the graph calls idle and the values do not."""
    why = difference(model, masked, other, structure.inputs)
    if why is not None:
        raise ValueError(
            f"`structure` finds units idle without which the model would not compute the same: {why}. "
            "Leave their sets out with structure.select()."
        )
