"""Which attribute of which module a size in the graph comes from: the model is run once with numbers that tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ._capture import call, first_line, quiet, traced

# A call of an operator: the module whose code calls, the operator, and the how-manieth call of it there.
Key = tuple[str, str, int]
Uses = dict[Key, dict[int, str]]  # by call, the attribute at each place of the sizes
Met = Callable[[Key, Any, tuple[Any, ...], dict[str, Any]], Any]

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
    """A number that tells which attribute it is; what is computed from it is a plain number."""

    name: str


class Watch(TorchFunctionMode):
    """Let `met(key, func, args, kwargs)` return what each call in the code of modules returns."""

    def __init__(self, hosts: nn.Module, met: Met) -> None:
        super().__init__()
        self.hosts, self.met, self.path = hosts, met, [""]
        self.calls: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Any:
        """Follow whose code runs."""
        for path, module in self.hosts.named_modules():
            _follow(module, path, self.path)
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the call, and let it be met."""
        key = self.path[-1], getattr(func, "__name__", "")
        nth = self.calls[key] = self.calls.get(key, 0) + 1
        return self.met((*key, nth), func, args, kwargs or {})


def own_numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """The whole numbers of a module whose code is not torch's own layer."""
    if not any(kind.__name__ in LAYERS for kind in type(module).__mro__):
        yield from ((name, value) for name, value in vars(module).items() if type(value) is int and value > 1)


def uses_of(model: nn.Module, inputs: Any) -> Uses:
    """Run a twin of the model whose numbers tell where they come from."""
    hosts, uses = traced(model), Uses()
    for module in hosts.modules():
        for name, value in list(own_numbers(module)):
            told = Told(value)
            told.name = name
            setattr(module, name, told)

    def met(key: Key, func: Any, args: Any, kwargs: Any) -> Any:
        sizes = [x for x in pytree.tree_leaves((args, kwargs)) if not isinstance(x, Tensor)]
        for place, size in enumerate(sizes):
            if isinstance(size, Told):
                uses.setdefault(key, {})[place] = size.name
        return func(*args, **kwargs)

    args, kwargs = call(inputs)
    with quiet():
        try:
            with Watch(hosts, met):
                hosts(*args, **kwargs)
        except Exception as error:
            if any(t.is_meta for t in model.parameters()):
                return {}  # code that looks at values; shrink refuses what is on the meta device
            raise ValueError(f"`model` cannot be run on these `example_inputs`: {first_line(error)}") from error
    return uses


def _follow(module: nn.Module, path: str, stack: list[str]) -> None:
    """Let the stack say whose code runs."""
    forward = module.forward

    def followed(*args: Any, **kwargs: Any) -> Any:
        with _inside(stack, path):
            return forward(*args, **kwargs)

    module.forward = followed


@contextmanager
def _inside(stack: list[str], path: str) -> Iterator[None]:
    stack.append(path)
    try:
        yield
    finally:
        stack.pop()
