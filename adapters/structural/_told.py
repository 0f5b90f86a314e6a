"""Numbers that tell which attribute they are, and what is computed from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

# Layers of torch, whose numbers follow from their tensors.
LAYERS = (
    "Linear",
    "Conv1D",
    "Embedding",
    "_NormBase",
    "GroupNorm",
    "PReLU",
    "RNNBase",
    "RNNCellBase",
    "Bilinear",
    "_ConvNd",
)


class Told(int):
    """A number that tells which attribute it is, or from which attributes it is computed.

    Args:
        names: of the attributes; one in the `config` of a module is "config.key".
        direct: whether it is the attribute itself.
    """

    names: frozenset[str]
    direct: bool


def told(value: int, names: frozenset[str], direct: bool) -> Told:
    """Make a number tell."""
    number = Told(value)
    number.names, number.direct = names, direct
    return number


def _computed(name: str) -> Callable[[Told, Any], Any]:
    compute = getattr(int, name)

    def method(self: Told, other: Any) -> Any:
        value = compute(self, other)
        if type(value) is not int:  # of a tensor, say, whose `names` are something else
            return value
        return told(value, self.names | getattr(other, "names", frozenset()), False)

    return method


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "rfloordiv"):
    setattr(Told, f"__{_name}__", _computed(f"__{_name}__"))


def let_tell(hosts: nn.Module) -> None:
    """Let the numbers of modules and of their configs tell where they are from."""
    for module in hosts.modules():
        for name, value in list(own_numbers(module)):
            setattr(module, name, told(value, frozenset([name]), True))
    for config in {id(c): c for m in hosts.modules() if (c := getattr(m, "config", None)) is not None}.values():
        for key, value in list(vars(config).items()) if hasattr(config, "to_dict") else ():
            if type(value) is int and value > 1:
                vars(config)[key] = told(value, frozenset([f"config.{key}"]), True)  # past what checks its values


def own_numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """The whole numbers of a module whose code is not torch's own layer."""
    if not any(kind.__name__ in LAYERS for kind in type(module).__mro__):
        yield from ((name, value) for name, value in vars(module).items() if type(value) is int and value > 1)


def number_of(module: Any, name: str) -> Any:
    """What an attribute is; one of the config by "config.key"."""
    return getattr(module.config, name[7:], None) if name.startswith("config.") else getattr(module, name, None)


def set_number(module: Any, name: str, value: Any) -> None:
    """Set an attribute. Layers share one config, so that a key is set in a copy that is the module's own."""
    if not name.startswith("config."):
        setattr(module, name, value)
    elif number_of(module, name) != value:
        module.config = copy.copy(module.config)
        setattr(module.config, name[7:], value)
