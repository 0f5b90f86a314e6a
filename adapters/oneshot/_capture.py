"""What each block is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._module.blocks import Call, first_of, run, split
from ._places import Place
from ._states import States


class Given(NamedTuple):
    """What a block is called with in one batch, and what others are called with of what it returns.

    Args:
        call: what stands beside the hidden state.
        handed: of what it returns beside its state what later blocks are called with, by its place there.
    """

    call: Call
    handed: dict[int, Tensor]


Calls = dict[str, list[Given]]  # of each block, batch by batch


def capture(
    model: nn.Module, blocks: Mapping[str, nn.Module], batches: Sequence[Any], states: States, place: Place
) -> Calls:
    """Append the hidden states before the first block, and return what each block is called with beside them.

    Of blocks that are alike only the first one is run: for the others stands in what hands the state on. What a block
    is called with must be the same whatever the blocks before it compute, which is tried on the first batch. What one
    hands on to another as it is, such as a bias of positions, is compared once the block is pruned instead.
    Arguments that are equal, such as positions and masks, are held once.
    """
    stands_in = place.streams or _are_alike(blocks.values())
    watch = _Watch(blocks, states.append, place.behind, stands_in)
    with place.start():
        _refuse_dependent(model, blocks, batches[0], place, stands_in)
        with watch.hooked():
            _run_all(model, batches, watch, place)
    return watch.calls


def _run_all(model: nn.Module, batches: Sequence[Any], watch: _Watch, place: Place) -> None:
    for batch in batches:
        with place.batch():
            run(model, batch)
        watch.count()


def _are_alike(blocks: Any) -> bool:
    """Whether blocks have one type, and parameters of the same names and shapes."""
    kinds = [(type(b), [(n, p.shape) for n, p in b.named_parameters()]) for b in blocks]
    return all(kind == kinds[0] for kind in kinds)


class _Watch:
    """Hooks that take down what blocks are called with.

    Args:
        blocks: by name, in order.
        keep: is called with each state before the first block.
        behind: is called with what the last block returns, and says what the model gets instead.
        stands_in: whether only the first block is run.
        shift: what is added to all that the first block returns, or each that is run.
    """

    def __init__(
        self,
        blocks: Mapping[str, nn.Module],
        keep: Callable[[Tensor], None],
        behind: Callable[[Any], Any],
        stands_in: bool,
        shift: float = 0.0,
    ) -> None:
        self.blocks, self.keep, self.behind = blocks, keep, behind
        self.stands_in, self.shift = stands_in, shift
        self.calls: Calls = {name: [] for name in blocks}
        self.given: dict[str, set[int]] = {name: set() for name in blocks}  # which leaves of its call others hand to it
        self._made: dict[int, tuple[str, int, Tensor]] = {}  # by identity, who returned it in which place
        self.batches = 0
        self.last: Any = None  # the state that the last block returned
        self.outputs: Any = None  # of the first block
        self._held: dict[Any, Tensor] = {}

    def hooked(self) -> ExitStack:
        """Watch while this is open."""
        stack = ExitStack()
        for name, block in self.blocks.items():
            handle = block.register_forward_pre_hook(_bound(self._before, name), with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(block.register_forward_hook(_bound(self._after, name)).remove)
            if self.stands_in:
                stack.callback(restore, block, vars(block).get("forward"))
                block.forward = partial(self._stand_in, block.forward)
        return stack

    def count(self) -> None:
        """Refuse a block that was not called in a batch."""
        self.batches += 1
        self._made.clear()
        if isinstance(self.outputs, (tuple, list)) and any(
            torch.is_tensor(o) for o in pytree.tree_leaves(self.outputs[1:])
        ):
            self.outputs = None  # beside the state, what is of this batch alone
        for name, found in self.calls.items():
            if len(found) != self.batches:
                raise ValueError(
                    f"{name!r} was called {len(found)} times for {self.batches} batches; a block must be called once "
                    "for each. Pass the names of others as blocks=."
                )

    def _before(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        state, call = split(name, args, kwargs)
        if len(self.calls[name]) > self.batches:
            raise ValueError(
                f"{name!r} was called twice for a batch; a block must be called once for each. "
                "Pass the names of others as blocks=."
            )
        if name == next(iter(self.blocks)):
            self.keep(state.detach())
        elif self.last is not state and not (isinstance(self.last, Tensor) and torch.equal(self.last, state)):
            raise ValueError(f"`blocks` must follow one another: what goes into {name!r} is not what comes out before.")
        for index, leaf in enumerate(pytree.tree_leaves(call)):
            if id(leaf) in self._made:
                maker, place, _ = self._made[id(leaf)]
                self.calls[maker][-1].handed[place] = self._once(leaf)
                self.given[name].add(index)
        self.calls[name].append(Given(pytree.tree_map_only(Tensor, self._once, call), {}))

    def _after(self, name: str, module: nn.Module, args: Any, outputs: Any) -> Any:
        if not self.stands_in:
            outputs = self._all_shifted(outputs)
        self.last = first_of(outputs)
        self._made |= {id(t): (name, k, t) for k, t in enumerate(beside(outputs)) if isinstance(t, Tensor)}
        return self.behind(outputs) if name == list(self.blocks)[-1] else outputs

    def _stand_in(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the first block returns, with the state that comes in."""
        if self.outputs is not None:
            own = pytree.tree_map_only(Tensor, Tensor.detach, self.outputs)  # tensors that tell who returned them
            return _with_first(own, split("", args, kwargs)[0])
        outputs = forward(*args, **kwargs)
        if not isinstance(first_of(outputs), Tensor):
            raise ValueError(f"`blocks` must return a tensor, or one first in a tuple, got {type(outputs).__name__}.")
        self.outputs = self._all_shifted(outputs)
        return self.outputs

    def _all_shifted(self, outputs: Any) -> Any:
        if not self.shift:
            return outputs
        return pytree.tree_map_only(Tensor, lambda t: t + self.shift if t.is_floating_point() else t, outputs)

    def _once(self, tensor: Tensor) -> Tensor:
        """An equal tensor of the first batch, which is held already."""
        held = self._held.setdefault((tensor.shape, tensor.dtype, tensor.stride(), tensor.device), tensor)
        return held if held is tensor or torch.equal(held, tensor) else tensor


def _bound(hook: Any, name: str) -> Any:
    return lambda *given: hook(name, *given)


def restore(block: nn.Module, forward: Any) -> None:
    """Give a block its forward back: one of its own, or that of its class."""
    vars(block).pop("forward")
    if forward is not None:
        block.forward = forward


def beside(outputs: Any) -> list[Any]:
    """What a block returns beside its hidden state."""
    return pytree.tree_leaves(outputs[1:]) if isinstance(outputs, (tuple, list)) else []


def _with_first(outputs: Any, state: Tensor) -> Any:
    """The outputs of a block with another hidden state."""
    if isinstance(outputs, list):
        return [state, *outputs[1:]]
    return (state, *outputs[1:]) if isinstance(outputs, tuple) else state


def _refuse_dependent(
    model: nn.Module, blocks: Mapping[str, nn.Module], batch: Any, place: Place, stands_in: bool
) -> None:
    """Run one batch with two outputs of each block, and compare what the others are called with."""
    found = []
    for shift in (0.0, 1.0):
        watch = _Watch(blocks, lambda state: None, place.behind, stands_in, shift)
        with watch.hooked(), place.batch():
            run(model, batch)
        found.append({name: pytree.tree_leaves(calls[0].call) for name, calls in watch.calls.items()})
    for name, leaves in found[0].items():
        pairs = [p for i, p in enumerate(zip(leaves, found[1][name])) if i not in watch.given[name]]
        if not all(a is b or not isinstance(a, Tensor) or is_equal(a, b) for a, b in pairs):
            raise ValueError(
                f"{name!r} is called with something beside its state that the blocks before it compute, so that it "
                "cannot be run alone. Pass the names of others as blocks=."
            )


def is_equal(a: Tensor, b: Any) -> bool:
    """Whether two tensors are equal, NaN in the same places."""
    return isinstance(b, Tensor) and a.shape == b.shape and torch.allclose(a, b, 0, 0, equal_nan=True)
