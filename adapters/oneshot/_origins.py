"""Where the tensors of a model come from in a checkpoint, and how they get back there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..files._checkpoint import Checkpoint
from ..files._header import Entry
from ..files._names import a_path, named, shown
from ..files._prune import streamable
from ._converters import Converter, Read, conversions_of, known_here, spelled


class Origin(NamedTuple):
    """Tensors of a checkpoint that become tensors of a model: one that becomes one, or several by a conversion."""

    sources: tuple[str, ...]  # names in the checkpoint
    targets: tuple[str, ...]  # names in the model
    there: Callable[[Read], dict[str, Tensor]]
    back: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class Origins:
    """The origin of each tensor of a model.

        packed(unpacked(tensors)) = tensors,    names, shapes and bits included

    Args:
        model: of any kind; one of transformers is read as its `from_pretrained` does.
        checkpoint: what it is read from.

    Attributes:
        empty: the parameters and buffers of the model, by all of their names.
        entries: where the tensors of the checkpoint lie.

    Raises:
        ValueError: if a tensor has no origin, or one that cannot be undone to the bit.
    """

    empty: dict[str, Tensor]
    entries: dict[str, Entry]

    def __init__(self, model: nn.Module, checkpoint: Checkpoint) -> None:
        self.empty, self.entries = _named(model), checkpoint.entries
        _refuse_quantized(model)
        self._of = _by_target(_origins(model, self.empty, checkpoint))
        self._of |= _tied(self._of, self.empty)
        _refuse_missing(model, [name for name in self.empty if name not in self._of], checkpoint)

    def __getitem__(self, name: str) -> Origin:
        return self._of[name]

    def packed(self, values: Mapping[str, Tensor], others: Read) -> dict[str, Tensor]:
        """Tensors of the model as the checkpoint has them.

        Args:
            values: by the names of the model.
            others: reads what is put together with them.
        """
        result: dict[str, Tensor] = {}
        for origin in _each(self._of[name] for name in values):
            result |= origin.back({n: values[n] if n in values else others(n) for n in origin.targets})
        return result

    def unpacked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the checkpoint as the model has them.

        Args:
            tensors: by the names of the checkpoint, with all that are put together with one of them.
        """
        result: dict[str, Tensor] = {}
        for origin in self.holding(tensors):
            result |= origin.there(tensors.__getitem__)
        return result

    def holding(self, names: Collection[str]) -> Iterable[Origin]:
        """The origins with one of these tensors of the checkpoint."""
        return _each(origin for origin in self._of.values() if any(n in names for n in origin.sources))


def origins_of(model: nn.Module, source: Any) -> Origins:
    """The origins in a folder or a file of safetensors."""
    with named("source"):
        return Origins(model, streamable(a_path(source, "source")))


def _each(origins: Iterable[Origin]) -> Iterable[Origin]:
    return {id(origin): origin for origin in origins}.values()


def _named(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and the buffers that are saved, by all of their names."""
    saved = model.state_dict(keep_vars=True)
    params = dict(model.named_parameters(remove_duplicate=False))
    return {**params, **{n: t for n, t in saved.items() if isinstance(t, Tensor)}}


def _origins(model: nn.Module, empty: Mapping[str, Tensor], checkpoint: Checkpoint) -> list[Origin]:
    """What each tensor of the checkpoint becomes; nothing of those that the model does not have."""
    conversions = conversions_of(model, empty)
    if conversions is None:
        prefix = getattr(model, "base_model_prefix", "")
        found = {name: next((s for s in spelled(name, prefix) if s in empty), "") for name in checkpoint}
        names, converters = {name: target for name, target in found.items() if target}, dict[str, Converter]()
    else:
        with known_here():
            names, converters = conversions.grouped(checkpoint)
    for name, target in names.items():
        _refuse_unlike(target, empty[target], checkpoint.entries[name])
    tried: set[Any] = set()
    plain = [_plain(name, target) for name, target in names.items()]
    return plain + [_converted(found, empty, checkpoint, tried) for found in converters.values()]


def _by_target(origins: Iterable[Origin]) -> dict[str, Origin]:
    """Origins by the names of the model; two of one tensor are refused, since one of them would stay as it was."""
    result: dict[str, Origin] = {}
    for origin in origins:
        for name in origin.targets:
            if (other := result.setdefault(name, origin)) is not origin:
                both = f"{other.sources[0]!r} and {origin.sources[0]!r}"
                raise ValueError(f"`source` must have each tensor once, and {both} are both {name!r}. Remove one.")
    return result


def _plain(source: str, target: str) -> Origin:
    return Origin((source,), (target,), lambda read: {target: read(source)}, lambda values: {source: values[target]})


def _tied(origins: Mapping[str, Origin], empty: Mapping[str, Tensor]) -> dict[str, Origin]:
    """Of tensors that are there under another of their names."""
    homes = {id(empty[name]): origin for name, origin in origins.items() if len(origin.targets) == 1}
    alike = {name: homes.get(id(tensor)) for name, tensor in empty.items() if name not in origins}
    return {name: _plain(home.sources[0], name) for name, home in alike.items() if home and len(home.sources) == 1}


# ---- conversions ----------------------------------------------------------------------------------------------------


def _converted(converter: Converter, empty: Mapping[str, Tensor], checkpoint: Checkpoint, tried: set[Any]) -> Origin:
    """The origin of a conversion, once it is known that it can be undone.

    Names and shapes are tried without values; bits with those of the first of each kind, which is enough: the others
    differ in names alone.
    """
    entries = {name: checkpoint.entries[name] for name in converter.sources}
    with _undoes(converter):
        values = converter.there(lambda n: torch.empty(entries[n].shape, dtype=entries[n].dtype, device="meta"))
        again = converter.back(dict(values))
    for name, value in values.items():
        if name not in empty or value.shape != empty[name].shape:
            has = tuple(empty[name].shape) if name in empty else "none"
            raise _irreversible(converter, f"gives {name!r} as {tuple(value.shape)}, and the model has {has}")
    wrong = [n for n in entries if tuple(again[n].shape) != entries[n].shape or again[n].dtype != entries[n].dtype]
    if wrong:
        raise _irreversible(converter, f"gives back {wrong[0]!r} as {tuple(again[wrong[0]].shape)}")
    if converter.kind not in tried:
        _refuse_inexact(converter, checkpoint)
        tried.add(converter.kind)
    return Origin(converter.sources, tuple(values), converter.there, converter.back)


def _refuse_inexact(converter: Converter, checkpoint: Checkpoint) -> None:
    """Refuse a conversion whose way back does not end at the same bits."""
    with _undoes(converter):
        again = converter.back(converter.there(checkpoint.__getitem__))
    for name in converter.sources:
        bits = (t.contiguous().view(-1).view(torch.uint8) for t in (checkpoint[name], again.pop(name)))
        if not torch.equal(*bits):
            raise _irreversible(converter, f"gives back other values of {name!r}")


@contextmanager
def _undoes(converter: Converter) -> Iterator[None]:
    """Say why a conversion cannot be undone, whatever transformers raises."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError, StopIteration) as error:
        if str(error).startswith("`source`"):  # said already
            raise
        raise _irreversible(converter, f"fails: {type(error).__name__} {shown(str(error))}") from error


def _irreversible(converter: Converter, why: str) -> ValueError:
    return ValueError(
        f"`source` must have tensors that transformers can put together and take apart again, and the way of "
        f"{converter.sources[0]!r} by {converter.told} and back {why}. Load the model, and pass it to oneshot.prune."
    )


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_quantized(model: nn.Module) -> None:
    config = getattr(model, "config", None)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"`model` must not be quantized, and the config of {type(model).__name__} has a quantization_config: its "
            "weights are numbers times scales. Pass a checkpoint in float32, bfloat16 or float16."
        )


def _refuse_missing(model: nn.Module, missing: list[str], checkpoint: Checkpoint) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"`source` must have the tensors of {type(model).__name__}, and nothing in it becomes {missing[0]!r}"
            f"{more}. It has {shown(list(checkpoint))}. If it is tied, call model.tie_weights()."
        )


def _refuse_unlike(name: str, empty: Tensor, entry: Entry) -> None:
    if entry.shape != tuple(empty.shape) or entry.dtype.is_floating_point != empty.dtype.is_floating_point:
        raise ValueError(
            f"`source` must have {name!r} as {tuple(empty.shape)} of {empty.dtype}, as the model has it, got "
            f"{entry.shape} of {entry.dtype}. Load the model, and pass it to oneshot.prune."
        )
