"""The `config` of a transformers model, which `from_pretrained` builds the model from."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from .._module.trial import first_line, quiet, tensors


class Cut(NamedTuple):
    """What a cut did to the numbers of a model.

    Args:
        numbers: what sizes in the graph, and epsilons of norms, became, by what they were.
        known: the attributes, by module and name, of which the graph says what they are.
    """

    numbers: Mapping[Any, set[Any]]
    known: Container[tuple[str, str]]


def follow_config(small: Any, cut: Cut, same: Callable[[], bool]) -> None:
    """Let the config say the new sizes: those from which its class builds a model of the same shapes and numbers.

    Nothing in a config says what a key means, so each key that holds a number that has changed is tried. What modules
    only hold for show is what the class would have set; `same` says whether the model still computes what it did.
    """
    config = getattr(small, "config", None)
    if not hasattr(small, "save_pretrained") or config is None:
        return
    with quiet():
        best, lost = _nearest(small, config, cut)
        lost = lost or _shown(small, _built(small, best), same)
    _write(small, config, best)
    if lost:
        warnings.warn(
            f"the config of {type(small).__name__} cannot hold these sizes ({lost[0]}), so that from_pretrained will "
            "not load what save_pretrained writes: its class builds equal layers, heads of hidden_size / heads, and "
            "norms of one epsilon. Save the module itself; or for equal layers, pass "
            "structure.groups(layerwise=True), and leave other sets out with structure.select().",
            stacklevel=3,
        )


# How many configs are followed at a time. One is not enough: for the half of four heads of four, a head_dim of two has
# the shape of two heads, and only the buffers of the rotary embedding and the numbers in modules tell them apart.
_BEAM = 2


def _nearest(small: Any, config: Any, cut: Cut) -> tuple[Any, list[str]]:
    """The config whose model differs least from the smaller model, key by key, and in what it differs."""
    starts = [copy.deepcopy(config), *_with_head_size(small, config)]
    for start in starts:
        whole = _at_once(start, cut)
        if not _apart(small, whole, cut):  # most often, and a large model takes a second to build
            return _fewest(small, start, whole, cut), []
    best, lost = _searched(small, starts[0], cut)
    for start in starts[1:] if lost else ():
        with_key = _searched(small, start, cut)
        best, lost = min((best, lost), with_key, key=lambda found: len(found[1]))
    return best, lost


def _searched(small: Any, config: Any, cut: Cut) -> tuple[Any, list[str]]:
    beam: list[tuple[int, int, Any]] = [(len(_apart(small, config, cut)), -1, config)]
    best = beam[0]
    while best[0] and beam:
        steps = [each for _, _, found in beam for each in _steps(found, cut)]
        beam = sorted((len(_apart(small, each, cut)), number, each) for number, each in enumerate(steps))[:_BEAM]
        beam = [each for each in beam if each[0] < best[0]]
        best = min([best, *beam])
    return best[2], _apart(small, best[2], cut) if best[0] else []


def _with_head_size(small: Any, config: Any) -> Iterator[Any]:
    """The config with a key for the size of a head, which the code of Qwen2 and Phi-3 reads if it is there."""
    sizes = {vars(module).get("head_dim") for module in small.modules()} - {None}
    if len(sizes) == 1 and getattr(config, "head_dim", None) is None:
        tried = copy.deepcopy(config)
        tried.head_dim = sizes.pop()
        yield tried


def _at_once(config: Any, cut: Cut) -> Any:
    """The config with all keys new whose number became one other."""
    tried = copy.deepcopy(config)
    for path, key, old in _numbers(config):
        if len(cut.numbers.get(old, ())) == 1:
            setattr(_at(tried, path), key, *cut.numbers[old])
    return tried


def _fewest(small: Any, config: Any, whole: Any, cut: Cut) -> Any:
    """Put back the keys that only happen to hold such a number, like a window of so many tokens."""
    for path, key, new in list(_numbers(whole)):
        old = getattr(_at(config, path), key)
        if old != new:
            setattr(_at(whole, path), key, old)
            if _apart(small, whole, cut):
                setattr(_at(whole, path), key, new)
    return whole


def _steps(config: Any, cut: Cut) -> Iterator[Any]:
    """Configs with one key that is new."""
    for path, key, old in _numbers(config):
        for new in sorted(cut.numbers.get(old, ())):
            tried = copy.deepcopy(config)
            setattr(_at(tried, path), key, new)
            yield tried


def _numbers(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """The keys of a config, and of those within it, that hold numbers."""
    for key, value in vars(config).items():
        if type(value) in (int, float):
            yield path, key, value
        elif hasattr(value, "to_dict"):
            yield from _numbers(value, (*path, key))


def _at(config: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        config = getattr(config, key)
    return config


def _built(small: Any, config: Any) -> nn.Module:
    with torch.device("meta"):
        return type(small)(copy.deepcopy(config))


def _apart(small: Any, config: Any, cut: Cut) -> list[str]:
    """In which shapes and numbers a model of a config differs from the smaller model."""
    try:
        built = _built(small, config)
    except Exception as error:  # sizes that its class refuses
        return [first_line(error)] * 2**20
    shapes, theirs = {n: tuple(t.shape) for n, t in tensors(built)}, dict(built.named_modules())
    ours = dict(small.named_modules())
    if ours.keys() != theirs.keys():
        return ["other modules"] * 2**20
    wrong = [f"{n} of shape {tuple(t.shape)}" for n, t in tensors(small) if shapes.get(n) != tuple(t.shape)]
    numbers = [(p, n, v) for p in ours for n, v, _ in _differing(ours[p], theirs[p])]
    return wrong + [f"{p}.{n} = {v}" for p, n, v in numbers if type(v) is float or (p, n) in cut.known]


def _differing(module: nn.Module, other: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """The numbers of a module that another does not have: the name, and both."""
    for name, value in vars(module).items():
        theirs = vars(other).get(name)
        if type(value) in (int, float) and type(theirs) is type(value) and theirs != value:
            yield name, value, theirs


def _shown(small: nn.Module, built: nn.Module, same: Callable[[], bool]) -> list[str]:
    """Set the numbers that modules hold for show as their class would; what the model computes by them stays."""
    pairs = zip(small.modules(), built.modules())
    found = [(module, *each) for module, other in pairs for each in _differing(module, other)]
    for module, name, _, new in found:
        setattr(module, name, new)
    if not found or same():
        return []
    for module, name, old, _ in found:
        setattr(module, name, old)
    return [f"{type(module).__name__}.{name} = {old}" for module, name, old, _ in found]


def _write(small: nn.Module, config: Any, best: Any) -> None:
    """Set the keys that changed in every config of the model that held the same."""
    new = [(path, key, value) for path, key, value in _numbers(best) if getattr(_at(config, path), key, None) != value]
    seen = {id(c): c for m in small.modules() if (c := getattr(m, "config", None)) is not None}
    for path, key, value in new:
        ours = _at(config, path)
        old = getattr(ours, key, None)
        for each in [ours, *seen.values()]:
            if getattr(each, key, None) == old:
                setattr(each, key, value)
    for module in small.modules():  # layers share one config again, where theirs are equal now
        theirs = vars(module).get("config")
        if theirs is not None and type(theirs) is type(config) and theirs.to_dict() == config.to_dict():
            module.config = config
