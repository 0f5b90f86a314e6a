"""What a transformers `config` says of layers, after some have gone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from .._module.trial import first_line, quiet


class _Key(NamedTuple):
    """A key of a config, and what it becomes."""

    path: tuple[str, ...]
    name: str
    old: Any
    new: Any


def follow(model: nn.Module, small: Any, dropped: Mapping[str, set[str]]) -> str | None:
    """Let the configs say which blocks are left, list by list; why they cannot, or None."""
    if not hasattr(small, "save_pretrained") or getattr(small, "config", None) is None:
        return None
    lost = None
    for path, gone in dropped.items():
        names = list(model.get_submodule(path)._modules)
        with quiet():
            lost = _follow_one(small, path, len(names), [i for i, n in enumerate(names) if n not in gone]) or lost
    return lost


def _follow_one(small: Any, path: str, count: int, kept: list[int]) -> str | None:
    """Write the keys that make the class build such a model; if there are none, how the nearest differs."""
    keys = list(_keys(small.config, count, kept))
    tried = ((chosen, _apart(small, _with(small.config, chosen), path)) for chosen in _choices(keys))
    first = next(tried, ([], "no key speaks of as many layers"))
    chosen, lost = first if first[1] is None else next((each for each in tried if each[1] is None), first)
    around = _configs(small, path)
    for key in chosen:
        for config in [_at(small.config, key.path), *around]:
            if getattr(config, key.name, None) == key.old:
                setattr(config, key.name, key.new)
    return lost


def _with(config: Any, keys: list[_Key]) -> Any:
    """A copy of a config with other values."""
    copied = copy.deepcopy(config)
    for key in keys:
        setattr(_at(copied, key.path), key.name, key.new)
    return copied


def _keys(config: Any, count: int, kept: list[int], path: tuple[str, ...] = ()) -> Iterator[_Key]:
    """The keys that speak of as many layers: how many there are, or one value for each."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            yield from _keys(value, count, kept, (*path, name))
        elif "layer" in name and (new := _left(value, count, kept)) not in (None, value):
            yield _Key(path, name, value, new)


def _left(value: Any, count: int, kept: list[int]) -> Any:
    """What is left of a number of layers, of values for each, or of numbers of some; None if it is none of these."""
    if type(value) is int:
        return len(kept) if value == count else None
    if not isinstance(value, (list, tuple)):
        return None
    if len(value) == count:
        return type(value)(value[i] for i in kept)
    some = all(type(i) is int and 0 <= i < count for i in value)
    return type(value)(kept.index(i) for i in value if i in kept) if some else None


def _choices(keys: list[_Key]) -> Iterator[list[_Key]]:
    """All of them first; then ever fewer, as an encoder and a decoder may be of one length."""
    for number in range(len(keys), 0, -1):
        yield from map(list, itertools.combinations(keys, number))


def _configs(small: nn.Module, path: str) -> list[Any]:
    """The configs of the modules around a list, and in it."""
    around = [
        m for n, m in small.named_modules() if not n or f"{path}.".startswith(f"{n}.") or n.startswith(f"{path}.")
    ]
    return [config for module in around if (config := getattr(module, "config", None)) is not None]


def _apart(small: Any, config: Any, path: str) -> str | None:
    """How a model that is built from a config differs, as it would be once it is saved and read."""
    try:
        with torch.device("meta"):
            built = type(small)(type(config).from_dict(config.to_dict()))
    except Exception as error:  # numbers that its class refuses
        return first_line(error).rstrip(".")
    ours, theirs = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (small, built))
    if ours != theirs:
        return "it builds other parameters"
    blocks, others = (dict(m.get_submodule(path).named_modules()) for m in (small, built))
    for name, module in blocks.items():
        for key, value in vars(module).items():
            if _says_something(key, value) and vars(others[name]).get(key) != value:
                return f"it builds {key} = {vars(others[name]).get(key)!r} in {path}.{name}, not {value!r}"
    return None


def _says_something(key: str, value: Any) -> bool:
    """Whether an attribute is a setting of a module: its mode is none, nor is what loading it left behind."""
    return key != "training" and not key.startswith("_") and isinstance(value, (int, float, str, type(None)))


def _at(config: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        config = getattr(config, key)
    return config
