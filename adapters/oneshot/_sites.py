"""The weights of a block as matrices, and the inputs that each matrix sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .._module.weights import is_conv1d


class Site(NamedTuple):
    """A parameter whose entries are one matrix (out, in), or one for each expert or group."""

    name: str
    param: Tensor
    parts: int
    transposed: bool = False  # whether it holds (in, out), as transformers' `Conv1D` does
    grouped: bool = False  # whether it is a kernel of a convolution

    def matrices(self, tensor: Tensor) -> list[Tensor]:
        """The matrices of a tensor of the parameter's shape: views."""
        if self.transposed:
            return [tensor.T]
        if self.parts == 1:
            return [tensor.flatten(1)]
        if tensor.dim() == 3 and self.param.dim() == 3 and not self.grouped:
            return list(tensor)
        return [part.flatten(1) for part in tensor.chunk(self.parts)]


def site_of(name: str, owner: nn.Module, param: Tensor) -> Site:
    """The site of a weight, or a ValueError that says why it has none."""
    if isinstance(owner, nn.modules.conv._ConvNd):
        if owner.transposed:
            raise ValueError("a transposed convolution, whose inputs cannot be unfolded")
        return Site(name, param, owner.groups, grouped=True)
    if param.dim() == 3:
        return Site(name, param, param.shape[0])
    if param.dim() == 2 and not isinstance(owner, nn.Embedding):
        return Site(name, param, 1, transposed=is_conv1d(owner))
    raise ValueError(f"of {type(owner).__name__}, whose inputs are no rows of numbers")


def _argument(args: Any, given: Mapping[str, Any], index: int, name: str, default: Any = None) -> Any:
    return args[index] if len(args) > index else given.get(name, default)


def _rows_of_convolution(weight: Tensor, args: Any, given: Mapping[str, Any]) -> list[Tensor]:
    """What each position of the kernel sees, (positions, in * kernel), for each group of channels."""
    kernel, sides = weight.shape[2:], weight.dim() - 2
    stride, padding, dilation = (
        _each(_argument(args, given, i, name, default), sides)
        for i, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    x = _argument(args, given, 0, "input")
    x = x if x.dim() == weight.dim() else x[None]
    for side, (k, step, pad, gap) in enumerate(zip(kernel, stride, padding, dilation)):
        reach = (k - 1) * gap
        both = {"same": (reach // 2, reach - reach // 2), "valid": (0, 0)}.get(pad, (pad, pad))
        x = functional.pad(x, (0, 0) * (x.dim() - 3 - side) + both)
        x = x.unfold(2 + side, reach + 1, step)[..., ::gap]
    groups = _argument(args, given, 6, "groups", 1)
    x = x.movedim(1, 1 + sides).unflatten(1 + sides, (groups, -1)).flatten(0, sides)
    return list(x.flatten(2).unbind(1))


def _each(value: Any, sides: int) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) and len(value) == sides else [_one(value)] * sides


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value


# From a function of torch to where its weight and its input stand among the arguments.
_TURNED = {
    torch.addmm: ((2, "mat2"), (1, "mat1")),
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), ((1, "other"), (0, "input"))),
    **dict.fromkeys((torch.mm, torch.Tensor.mm), ((1, "mat2"), (0, "input"))),
}  # products with a weight as (in, out)
_PRODUCTS = {functional.linear: ((1, "weight"), (0, "input"))} | _TURNED
_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_WATCHED = _PRODUCTS | dict.fromkeys(_CONVOLUTIONS, ((1, "weight"), (0, "input")))

Seen = Callable[[Site, int, Tensor], None]


class Watch(TorchFunctionMode):
    """Call `seen(site, part, rows)` for every product of rows (tokens, in) with one of the weights.

    What comes out, as it is, goes to `came(site, part, outputs)`; of a convolution all groups at once.
    All layers come down to a few functions of torch. Watching these finds experts too, which are products with a slice
    of one parameter, in no module of their own.
    """

    def __init__(self, sites: Iterable[Site], seen: Seen, came: Seen | None = None) -> None:
        super().__init__()
        self.seen, self.came, self.sites = seen, came, list(sites)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Tell what goes into the function, and run it."""
        given = kwargs or {}
        if func in _WATCHED:
            weight = _argument(args, given, *_WATCHED[func][0])
            site = next((s for s in self.sites if _lies_in(weight, s.param)), None)
            if site is not None and (func in _CONVOLUTIONS or _is_matrix(func, weight, site)):
                return self._told(func, site, weight, args, given)
        return func(*args, **given)

    def _told(self, func: Any, site: Site, weight: Tensor, args: Any, given: Mapping[str, Any]) -> Any:
        if func in _CONVOLUTIONS:
            rows, first = _rows_of_convolution(weight, args, given), 0
        else:
            inputs = _argument(args, given, *_PRODUCTS[func][1])
            rows, first = [inputs.reshape(-1, inputs.shape[-1])], _part(weight, site.param)
        for part, row in enumerate(rows, first):
            self.seen(site, part, row.detach())
        outputs = func(*args, **given)
        if self.came is not None:
            self.came(site, first, outputs)
        return outputs


def _lies_in(weight: Tensor, param: Tensor) -> bool:
    """Whether a tensor is the parameter, or a part of it."""
    start = weight.data_ptr() - param.data_ptr()
    same = weight.untyped_storage().data_ptr() == param.untyped_storage().data_ptr()
    return same and 0 <= start < param.numel() * param.element_size()


def _is_matrix(func: Any, weight: Tensor, site: Site) -> bool:
    """Whether a product is with one of the site's matrices, and not turned: of a square one, only strides tell."""
    if weight.dim() != 2:
        return False
    own, one = weight.mT if func in _TURNED else weight, site.matrices(site.param)[0]
    return own.shape == one.shape and own.stride() == one.stride()


def _part(weight: Tensor, param: Tensor) -> int:
    """Which expert's matrix it is."""
    if weight.dim() == param.dim():
        return 0
    return (weight.storage_offset() - param.storage_offset()) // param.stride(0)
