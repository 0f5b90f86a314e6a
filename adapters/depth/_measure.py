"""Hidden states before and after runs of blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read, scores

from .._module.blocks import batches_of, blocks_of, evaluating, first_of, run, split
from .._module.values import a_module
from ._runs import Runs


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    length: int = 1,
    last: bool = False,
    add: Callable[[Any, Tensor, Tensor], scores.Distances] = scores.add_angles,
    blocks: Sequence[str] | None = None,
) -> Runs:
    """Score runs of consecutive blocks by how far they move the hidden state, on a few batches.

        S(i) = mean of arccos(cos(x_i, x_(i + length))) / pi

    where x_i goes into block i. States are the tokens of all batches, those that an `attention_mask` hides left out;
    states of more than three dims, such as images, are one vector an example.

    Args:
        model: a model whose blocks follow one another; it is run without dropout, caches and gradients.
        batches: tensors, tuples of arguments, or mappings of keyword arguments.
        length: how many blocks a run has.
        last: whether the last token of each text counts alone, as in Gromov et al.; all do in ShortGPT.
        add: `scores.add_angles`, `scores.add_influences`, or a function of your own like these.
        blocks: names of the modules; None for the longest `ModuleList` of one type, or the children of a `Sequential`.

    Returns:
        Scores by the name of the first block of each run. Blocks one by one can go through the one rule:
        `compute_mask(measure(model, batches).scores, amount=3)`; `lowest()` is the mask of the lowest run.

    Raises:
        TypeError: if an argument is not of its type.
        ValueError: if there are no batches, there are fewer blocks than `length`, the blocks do not follow one another,
            one is not called once for each batch, or one changes the shape of the hidden state.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 4))
    >>> found = measure(net, [torch.randn(8, 4)])
    >>> found.scores["1"] < 1e-6, {name: mask.item() for name, mask in found.lowest().items()}
    (tensor(True), {'0': True, '1': False, '2': True})

    Reference: Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", 2024, section 3; Men et al.,
    "ShortGPT", 2024, section 3.
    """
    a_module(model, "model")
    _refuse_others(last, add)
    data, parts = batches_of(batches), blocks_of(model, blocks)
    count = _read.integer(length, "length", "length=4")
    if not 1 <= count <= len(parts):
        raise ValueError(f"`length` must be from 1 to the {len(parts)} blocks, got {count}. For example length=1.")
    watch = _Watch(list(parts), count, last, add)
    with evaluating(model), ExitStack() as stack:
        for name, block in parts.items():
            stack.callback(block.register_forward_hook(partial(watch.after, name), with_kwargs=True).remove)
            hook = block.register_forward_pre_hook(partial(watch.before, name), with_kwargs=True)
            stack.callback(hook.remove)
        for batch in data:
            watch.start(batch)
            run(model, batch)
            watch.end()
    names = list(parts)[: len(parts) - count + 1]
    return Runs(tuple(parts), count, {name: scores.distance(watch.states[name]) for name in names})


class _Watch:
    """Hooks that add up distances, with the states before the last few blocks of one batch in hand."""

    def __init__(self, names: list[str], length: int, last: bool, add: Any) -> None:
        self.names, self.last, self.add = names, last, add
        self.states: dict[str, Any] = {}
        self.inputs: deque[Tensor] = deque(maxlen=length)
        self.called: list[str] = []
        self.output: Any = None
        self.tokens: Tensor | None = None

    def start(self, batch: Any) -> None:
        """Forget the batch before."""
        self.called, self.output = [], None
        self.inputs.clear()
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        self.tokens = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def before(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take down what goes into a block."""
        state = split(name, args, kwargs)[0].detach()
        chained = self.inputs.maxlen == 1 or not self.called or _equal(self.output, state)
        if not chained:
            raise ValueError(f"`blocks` must follow one another: what goes into {name!r} is not what comes out before.")
        self.called.append(name)
        self.inputs.append(state.clone())  # what comes after may write into it

    def after(self, name: str, module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        """Add the distance of the run that ends with a block."""
        self.output = first_of(outputs)
        start = self.names.index(name) - len(self.inputs) + 1
        before, after = self.inputs[0], self.output
        if not isinstance(after, Tensor) or after.shape != self.inputs[-1].shape:
            raise ValueError(
                f"{name!r} must return a hidden state of the shape that it takes, {tuple(self.inputs[-1].shape)}, got "
                f"{tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__}. Pass other blocks=."
            )
        if len(self.inputs) == self.inputs.maxlen:
            first, pair = self.names[start], (self._rows(before), self._rows(after.detach()))
            self.states[first] = self.add(self.states.get(first), *pair)

    def end(self) -> None:
        """Refuse blocks that were not called once each, in order."""
        if self.called != self.names:
            raise ValueError(
                f"`blocks` must be called once a batch, in order, got calls of {self.called}, not {self.names}."
            )

    def _rows(self, state: Tensor) -> Tensor:
        """The states that count, (many, features)."""
        if state.dim() > 3:
            return state.flatten(1)
        tokens = torch.ones(state.shape[:-1], dtype=torch.bool, device=state.device)
        if self.tokens is not None and self.tokens.shape == state.shape[:-1]:
            tokens = self.tokens.to(state.device)
        if self.last and state.dim() == 3:
            behind = tokens.flip(1).cumsum(1).flip(1)
            tokens = tokens & (behind == 1)
        return state[tokens]


def _equal(output: Any, state: Tensor) -> bool:
    return output is state or (isinstance(output, Tensor) and torch.equal(output, state))


def _refuse_others(last: Any, add: Any) -> None:
    _read.flag(last, "last", "last=True")
    _read.function(add, "add", "add=scores.add_angles")
