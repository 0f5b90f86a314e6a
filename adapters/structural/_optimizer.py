"""The optimizer of the smaller model, with the state that it had for what is left."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from masklib.masking import masked

from ._cut import dead_units, kept_places, sliced
from ._shrink import read_all
from ._structure import Structure


def shrink_optimizer(
    optimizer: Optimizer, model: nn.Module, small: nn.Module, *, masks: Mapping[str, Tensor], structure: Structure
) -> Optimizer:
    """Make the optimizer of a smaller model, so that training goes on where it was.

        state of small.p = state of model.p, masked and cut as p was

    The state of norms whose weights `shrink` has scaled is cut and not scaled. Hooks are not copied, as by `deepcopy`;
    make schedulers anew on the optimizer that is returned.

    Args:
        optimizer: of the model. It is left as it is.
        model: before the cut.
        small: what `shrink(model, masks, structure)` returned.
        masks: those that `shrink` was given.
        structure: of the model.

    Returns:
        An optimizer of the same class and options, of the parameters of `small`.

    Raises:
        TypeError: if `optimizer` is no optimizer, `small` no module, or an argument is not what `shrink` takes.
        ValueError: if `small` has not the shapes that these masks leave, or `optimizer` a parameter that the model
            lacks, or state of another shape than the parameter's, as Adafactor and LBFGS have.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> found, adam = structure(net, (torch.ones(1, 2),)), torch.optim.Adam(net.parameters())
    >>> net(torch.ones(1, 2)).sum().backward()
    >>> adam.step()
    >>> masks = compute_mask({n: net.get_parameter(n) for n in found.names}, keep=2, groups=found.groups(p=2))
    >>> small = shrink(net, masks, found)
    >>> shrink_optimizer(adam, net, small, masks=masks, structure=found).state[small[0].weight]["exp_avg"].shape
    torch.Size([2, 2])
    """
    _params, kept = read_all(model, masks, structure)
    names = _names(optimizer, model)
    shapes = {name: param.shape for name, param in model.named_parameters()}
    places = kept_places(structure, dead_units(structure, kept), shapes | _buffers(model))
    news = _news(small, shapes, places)
    _refuse_state(optimizer, names, places)
    memo: dict[int, Any] = {id(p): news[name] for name, p in model.named_parameters()}
    for param, state in optimizer.state.items():
        name = names[id(param)]
        for value in state.values():
            if isinstance(value, Tensor) and value.shape == param.shape:
                whole = masked(value.detach(), kept[name]) if name in kept else value.detach()
                memo[id(value)] = sliced(whole, places.get(name, {}))
    return copy.deepcopy(optimizer, memo)


def _buffers(model: nn.Module) -> dict[str, Any]:
    return {name: buffer.shape for name, buffer in model.named_buffers()}


# ---- what is refused ------------------------------------------------------------------------------------------------


def _names(optimizer: Any, model: nn.Module) -> dict[int, str]:
    """The names of the optimizer's parameters, which are all the model's."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    names = {id(param): name for name, param in model.named_parameters()}
    foreign = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in names]
    if foreign:
        raise ValueError(
            f"`optimizer` has a parameter of shape {tuple(foreign[0].shape)} that `model` lacks. "
            "Pass the optimizer of this model, and the model that it was made for."
        )
    return names


def _news(small: Any, shapes: Mapping[str, Any], places: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters of the smaller model, which are the model's, cut."""
    if not isinstance(small, nn.Module):
        raise TypeError(f"`small` must be what shrink(model, masks, structure) returned, got {type(small).__name__}.")
    news: dict[str, Tensor] = dict(small.named_parameters(remove_duplicate=False))
    for name, shape in shapes.items():
        cut = places.get(name, {})
        expected = tuple(len(cut[i]) if i in cut else n for i, n in enumerate(shape))
        got = tuple(news[name].shape) if name in news else "no such parameter"
        if got != expected:
            raise ValueError(
                f"`small` must be what shrink(model, masks, structure) returned with these masks: {name!r} must have "
                f"shape {expected}, got {got}."
            )
    return news


def _refuse_state(optimizer: Optimizer, names: Mapping[int, str], places: Mapping[str, Any]) -> None:
    """Refuse state that does not lie as the parameter that is cut, or that spans others, as that of LBFGS does."""
    for param, state in optimizer.state.items():
        cut = names[id(param)] in places
        for key, value in state.items():
            flat = isinstance(value, Tensor) and (value.dim() == 0 or value.shape == param.shape)
            own = isinstance(value, Tensor) and value.numel() <= param.numel() and not cut
            if not (flat or own or value is None or isinstance(value, (int, float))):
                raise ValueError(
                    f"the state {key!r} of {names[id(param)]!r} in {type(optimizer).__name__} does not have its "
                    "shape, so that it cannot be cut with it. Make the optimizer of small.parameters() anew."
                )
