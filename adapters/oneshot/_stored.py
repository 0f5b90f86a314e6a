"""A model without values, whose blocks are read from a checkpoint when it is their turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..files._checkpoint import Checkpoint
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
        self._empty = _named(model)
        self.names = _names_in(model, self._empty, checkpoint)
        _refuse_shared(self._empty, self._blocks)
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

    def _read(self, names: Iterable[str], device: torch.device | None = None) -> dict[str, Tensor]:
        """The values of parameters and buffers; those that are tied are one tensor."""
        found: dict[int, Tensor] = {}
        values = {}
        for name in names:
            empty = self._empty[name]
            if id(empty) not in found:
                value = self._checkpoint[self.names[name]].to(device, empty.dtype)
                is_parameter = isinstance(empty, nn.Parameter)
                found[id(empty)] = nn.Parameter(value, empty.requires_grad) if is_parameter else value
            values[name] = found[id(empty)]
        return values

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            owner, _, leaf = name.rpartition(".")
            module = self._model.get_submodule(owner)
            table: Any = module._parameters if leaf in module._parameters else module._buffers
            table[leaf] = value


def _named(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and the buffers that are saved, by all of their names."""
    saved = model.state_dict(keep_vars=True)
    params = dict(model.named_parameters(remove_duplicate=False))
    return {**params, **{n: t for n, t in saved.items() if isinstance(t, Tensor)}}


def _block_of(name: str, blocks: Iterable[str]) -> str | None:
    return next((block for block in blocks if name.startswith(f"{block}.")), None)


# ---- names ----------------------------------------------------------------------------------------------------------


def _names_in(model: nn.Module, empty: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, str]:
    """What each tensor of the model is called in the checkpoint: as it is, or without the prefix of transformers.

    A tied one may be there under any of its names.
    """
    prefix = getattr(model, "base_model_prefix", "")
    twins: dict[int, list[str]] = {}
    for name, tensor in empty.items():
        twins.setdefault(id(tensor), []).append(name)
    names, missing = {}, []
    for name, tensor in empty.items():
        there = [n for twin in twins[id(tensor)] for n in _spelled(twin, prefix) if n in checkpoint]
        if there:
            names[name] = there[0]
        else:
            missing.append(name)
    _refuse_missing(model, missing, checkpoint)
    for name, stored in names.items():
        _refuse_unlike(name, empty[name], checkpoint.entries[stored])
    return names


def _spelled(name: str, prefix: str) -> list[str]:
    return [name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")] if prefix else [name]


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


def _refuse_missing(model: nn.Module, missing: list[str], checkpoint: Checkpoint) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"`source` must have the tensors of {type(model).__name__} under their names, and has no {missing[0]!r}"
            f"{more}. If it is tied, call model.tie_weights(). If it is put together when the checkpoint is loaded, as "
            "experts are, load it, and pass it to oneshot.prune."
        )


def _refuse_unlike(name: str, empty: Tensor, entry: Any) -> None:
    if tuple(entry.shape) != tuple(empty.shape) or entry.dtype.is_floating_point != empty.dtype.is_floating_point:
        raise ValueError(
            f"`source` must have {name!r} as {tuple(empty.shape)} of {empty.dtype}, as the model has it, got "
            f"{tuple(entry.shape)} of {entry.dtype}. Load the model, and pass it to oneshot.prune."
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
