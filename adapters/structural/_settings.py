"""The `config` of a transformers model, which `from_pretrained` builds the model from."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ._capture import quiet, tensors


def follow_config(small: Any, sizes: Mapping[int, set[int]]) -> None:
    """Let the config say the new sizes: those from which its class builds a model of the same shapes and numbers.

    Nothing in a config says what a key means, so each key that holds a size that has changed is tried.
    """
    config = getattr(small, "config", None)
    if not hasattr(small, "save_pretrained") or config is None:
        return
    with quiet():
        best, cost = _nearest(small, config, sizes)
        lost = _lost(small, best) if cost else []
    _write(small, config, best)
    if lost:
        warnings.warn(
            f"the config of {type(small).__name__} cannot hold these sizes ({lost[0]}), so that from_pretrained will "
            "not load what save_pretrained writes: its class builds equal layers, or heads of hidden_size / heads. "
            "Save the module itself; or for equal layers, pass structure.groups(layerwise=True).",
            stacklevel=3,
        )


# How many configs are followed at a time. One is not enough: for the half of four heads of four, a head_dim of two has
# the shape of two heads, and only the buffers of the rotary embedding and the numbers in modules tell them apart.
_BEAM = 4


def _nearest(small: Any, config: Any, sizes: Mapping[int, set[int]]) -> tuple[Any, int]:
    """The config whose model differs least from the smaller model, key by key, and by how much."""
    beam = [(_cost(small, config), -1, copy.deepcopy(config))]
    best = beam[0]
    while best[0] and beam:
        steps = [each for _, _, found in beam for each in _steps(found, sizes)]
        beam = sorted((_cost(small, each), number, each) for number, each in enumerate(steps))[:_BEAM]
        beam = [each for each in beam if each[0] < best[0]]
        best = min([best, *beam])
    return best[2], best[0]


def _steps(config: Any, sizes: Mapping[int, set[int]]) -> Iterator[Any]:
    """Configs with one key that is new."""
    for path, key, old in _numbers(config):
        for new in sorted(sizes.get(old, ())):
            tried = copy.deepcopy(config)
            setattr(_at(tried, path), key, new)
            yield tried


def _numbers(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """The keys of a config, and of those within it, that hold whole numbers."""
    for key, value in vars(config).items():
        if type(value) is int:
            yield path, key, value
        elif hasattr(value, "to_dict"):
            yield from _numbers(value, (*path, key))


def _at(config: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        config = getattr(config, key)
    return config


def _cost(small: Any, config: Any) -> int:
    """In how many shapes and numbers a model of a config differs from the smaller model."""
    try:
        with torch.device("meta"):
            built = type(small)(copy.deepcopy(config))
    except Exception:  # sizes that its class refuses
        return 2**31
    ours, theirs = dict(small.named_modules()), dict(built.named_modules())
    if ours.keys() != theirs.keys():
        return 2**31
    numbers = sum(_numbers_apart(module, theirs[path]) for path, module in ours.items() if path in theirs)
    return len(_shapes_apart(small, built)) + numbers


def _shapes_apart(small: nn.Module, built: nn.Module) -> list[str]:
    theirs = dict(tensors(built))
    return [
        f"{name} of shape {tuple(tensor.shape)}"
        for name, tensor in tensors(small)
        if name not in theirs or theirs[name].shape != tensor.shape
    ]


def _numbers_apart(module: nn.Module, other: nn.Module) -> int:
    there = vars(other)
    return sum(
        there[k] != v for k, v in vars(module).items() if type(v) in (int, float) and type(there.get(k)) is type(v)
    )


def _lost(small: Any, config: Any) -> list[str]:
    """The shapes that the best config cannot hold."""
    with torch.device("meta"):
        return _shapes_apart(small, type(small)(copy.deepcopy(config)))


def _write(small: nn.Module, config: Any, best: Any) -> None:
    """Set the keys that changed in every config of the model that held the same."""
    new = [(path, key, value) for path, key, value in _numbers(best) if getattr(_at(config, path), key) != value]
    seen = {id(c): c for m in small.modules() if (c := getattr(m, "config", None)) is not None}
    for path, key, value in new:
        old = getattr(_at(config, path), key)
        ours = _at(config, path)
        for each in [ours, *seen.values()]:
            if getattr(each, key, None) == old:
                setattr(each, key, value)
