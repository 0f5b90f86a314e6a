"""Which attribute of which module a size in the graph comes from: the model is run once with numbers that tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .._module.trial import call, first_line, quiet
from ._capture import traced
from ._told import Told, let_tell

# A call of an operator: the module whose code calls, the operator, and the how-manieth call of it there.
Key = tuple[str, str, int]
Met = Callable[[Key, Any, tuple[Any, ...], dict[str, Any]], Any]


@dataclass
class Uses:
    """Where attributes of modules arrive in calls.

    Args:
        calls: by call, the attribute at each place of the sizes.
        bounds: by module, numbers of slices and splits that follow from attributes: each with the attribute that it is,
            or "".
        names: by module, the attributes that such numbers are computed from.
    """

    calls: dict[Key, dict[int, str]] = field(default_factory=dict)
    bounds: dict[str, dict[int, str]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)

    def met(self, key: Key, func: Any, args: Any, kwargs: Any) -> Any:
        """Note the numbers of a call, and make it."""
        leaves = [x for x in pytree.tree_leaves((args, kwargs)) if not isinstance(x, Tensor)]
        for place, number in enumerate(leaves):
            if isinstance(number, Told) and number.direct:
                self.calls.setdefault(key, {})[place] = next(iter(number.names))
        ends = [end for x in leaves for end in ((x.start, x.stop) if isinstance(x, slice) else (x,))]
        for number in ends if key[1] in _PARTS else ():
            if isinstance(number, Told):
                name = next(iter(number.names)) if number.direct else ""
                self.bounds.setdefault(key[0], {})[int(number)] = name
                self.names.setdefault(key[0], set()).update(number.names)
        return func(*args, **kwargs)


_PARTS = {"__getitem__", "split", "split_with_sizes", "tensor_split", "narrow"}


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


def uses_of(model: nn.Module, inputs: Any) -> Uses:
    """Run a twin of the model whose numbers tell where they come from."""
    hosts, uses = traced(model), Uses()
    let_tell(hosts)
    args, kwargs = call(inputs)
    with quiet():
        try:
            with Watch(hosts, uses.met):
                hosts(*args, **kwargs)
        except Exception as error:
            if any(t.is_meta for t in model.parameters()):
                return Uses()  # code that looks at values; shrink refuses what is on the meta device
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
