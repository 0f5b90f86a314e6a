"""A model without values, whose blocks are read from a checkpoint when it is their turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..files._checkpoint import Checkpoint
from ._origins import Origins
from ._places import moved

_BUILD = "with accelerate.init_empty_weights(): model = AutoModelForCausalLM.from_config(config); model.tie_weights()"


class Stored:
    """A model on the meta device and its checkpoint.

    Args:
        model: parameters without values; buffers that are not in the checkpoint have theirs.
        checkpoint: the tensors.
        blocks: their names.
        device: where the block at hand is computed; None for the CPU.
    """

    streams = True

    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, blocks: Iterable[str], device: torch.device | None
    ) -> None:
        self._model, self._checkpoint, self._blocks, self._device = model, checkpoint, list(blocks), device
        self.origins = Origins(model, checkpoint)
        self._empty = self.origins.empty
        _refuse_shared(self._empty, self._blocks)
        _refuse_spread(self.origins, self._blocks)
        self._values: dict[str, Tensor] = {}  # up to the first block
        self._is_behind = False

    @contextmanager
    def start(self) -> Iterator[None]:
        """Read the first block, and what is not in the blocks."""
        self._values = self._read(n for n in self._empty if _block_of(n, self._blocks) in (None, self._blocks[0]))
        try:
            yield
        finally:
            self._put({n: self._empty[n] for n in self._values})
            self._values = {}

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Run the model up to the last block; what comes behind it is run without values."""
        self._put(self._values)
        self._is_behind = False
        try:
            yield
        except (RuntimeError, TypeError, AttributeError, NotImplementedError, ValueError) as error:
            if not self._is_behind:
                raise
            cause = error.__cause__ or error  # what `run` has made a sentence of
            raise ValueError(
                f"`model` must run without values behind its blocks, and {type(self._model).__name__} does not: "
                f"{str(cause).splitlines()[0]}. Load it, and pass it to oneshot.prune."
            ) from error

    def behind(self, outputs: Any) -> Any:
        """Outputs without values, for what comes behind the blocks: nobody needs what it computes."""
        self._is_behind = True
        self._put({n: self._empty[n] for n in self._values})
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), outputs)

    @contextmanager
    def block(self, name: str) -> Iterator[None]:
        """Read a block."""
        values = self._read((n for n in self._empty if _block_of(n, [name])), self._device)
        buffers = [b for b in self._model.get_submodule(name).buffers() if not b.is_meta]
        self._put(values)
        try:
            with moved(buffers, self._device):
                yield
        finally:
            self._put({n: self._empty[n] for n in values})

    def told(self) -> str:
        """Which files they are, and when they were changed last."""
        return str([(str(path), header.stamp[2:]) for path, header in self._checkpoint.headers.items()])

    def packed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the block at hand, as the checkpoint has them."""
        return self.origins.packed(weights, lambda name: self._model.get_parameter(name).detach())

    def unpacked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights out of what the checkpoint has in their place."""
        return self.origins.unpacked(tensors)

    def packed_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks as the checkpoint would have them; what has none of its own is whole."""
        return self.origins.packed(
            masks, lambda name: torch.ones(self._empty[name].shape, dtype=torch.bool, device="cpu")
        )

    def _read(self, names: Iterable[str], device: torch.device | None = None) -> dict[str, Tensor]:
        """The values of parameters and buffers; those that are tied are one tensor."""
        found: dict[int, Tensor] = {}
        read: dict[str, Tensor] = {}
        values = {}
        for name in names:
            empty = self._empty[name]
            if id(empty) not in found:
                if name not in read:
                    read |= self._converted(name, device)
                value, is_parameter = read.pop(name), isinstance(empty, nn.Parameter)
                found[id(empty)] = nn.Parameter(value, empty.requires_grad) if is_parameter else value
            values[name] = found[id(empty)]
        return values

    def _converted(self, name: str, device: torch.device | None) -> dict[str, Tensor]:
        """A tensor of the model, and those that come out of the checkpoint together with it."""
        dtype = self._empty[name].dtype
        return self.origins[name].there(lambda source: self._checkpoint[source].to(device, dtype))

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            owner, _, leaf = name.rpartition(".")
            module = self._model.get_submodule(owner)
            table: Any = module._parameters if leaf in module._parameters else module._buffers
            table[leaf] = value


def _block_of(name: str, blocks: Iterable[str]) -> str | None:
    return next((block for block in blocks if name.startswith(f"{block}.")), None)


# ---- what is refused ------------------------------------------------------------------------------------------------


def refuse_values(model: nn.Module) -> None:
    """Refuse a model that is in memory, and one whose buffers nobody knows."""
    real = [n for n, p in model.named_parameters() if not p.is_meta]
    if real:
        raise ValueError(
            f"`model` must have no values, got {type(model).__name__} with those of {real[0]!r} in memory. "
            f"Pass it to oneshot.prune, or build it empty: {_BUILD}."
        )
    saved = model.state_dict()
    lost = [n for n, b in model.named_buffers() if b.is_meta and n not in saved]
    if lost:
        raise ValueError(
            f"`model` must have its buffers, and {lost[0]!r}, which no checkpoint holds, is on the meta device. "
            f"Build it with them: {_BUILD}."
        )


def _refuse_shared(empty: Mapping[str, Tensor], blocks: list[str]) -> None:
    homes: dict[int, tuple[str, str | None]] = {}
    for name, tensor in empty.items():
        first, home = homes.setdefault(id(tensor), (name, _block_of(name, blocks)))
        if home != _block_of(name, blocks):
            raise ValueError(
                f"`model` must have no parameter in two blocks, and {first!r} is {name!r}. "
                "Load it, and pass it to oneshot.prune."
            )


def _refuse_spread(origins: Origins, blocks: list[str]) -> None:
    for name in origins.empty:
        targets = origins[name].targets
        if len({_block_of(target, blocks) for target in targets}) > 1:
            raise ValueError(
                f"`source` must have tensors of one block each, and {origins[name].sources[0]!r} becomes "
                f"{', '.join(map(repr, targets))}. Load the model, and pass it to oneshot.prune."
            )
