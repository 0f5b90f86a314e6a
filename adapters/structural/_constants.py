"""What constant units say, put into the biases of the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masklib.masking import apply

from .._module.trial import call, quiet, twin
from .._module.weights import is_conv1d
from ._capture import first_names
from ._cut import smaller
from ._flow import Flow, Key
from ._idle import idle, refuse_other
from ._shrink import read_all
from ._structure import Structure

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_constants(
    model: nn.Module, masks: Mapping[str, Tensor], structure: Structure
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Put what constant units say into the biases of the layers that read them, so that they lead nowhere.

        bias'[o] = bias[o] + sum over constant units k of weight[o, k] * c_k

    A unit is constant if no weight that lives enters it, or only from constant units: it is f(bias), for any function
    that works point by point. What it says is measured on the example inputs, and the graph says that no input changes
    it. `idle` then finds that such units lead nowhere.

    A unit stays as it is where one of its readers has no bias, is no linear layer or convolution, pads with zeros,
    which are not c_k, or is shared; and where it goes through a norm, whose statistics differ in training mode. Through
    dropout the results are equal in eval mode alone.

    Args:
        model: the one that the structure is of. It is left as it is.
        masks: bool, by parameter name, of the parameters' shapes.
        structure: of the model, from `structure(model, example_inputs)`.

    Returns:
        A copy of the model with other biases, and the masks, in which what read the constants is dead, and biases live
        that had to change. Together they compute what the model and the masks do, but for rounding.

    Raises:
        TypeError: if an argument is of another kind, or a mask not bool.
        ValueError: if a mask has no parameter, or not its shape; if the structure is of another model.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> masks = {"0.weight": torch.tensor([[True, True], [True, False], [False, False]])}
    >>> found = structure(net, (torch.ones(1, 2),))
    >>> print(idle(*fold_constants(net, masks, found), found))
    1 units are idle
      3 units of 0.weight[0], 0.bias[0], 2.weight[1]: 1 lead nowhere
    """
    params, kept = read_all(model, masks, structure)
    flow = Flow(structure, idle(model, kept, structure).masks)
    masked, readers = apply(params, kept), _readers(model, flow)
    said = _said(model, masked, structure, readers)
    units = _foldable(flow, said)
    folded, new = smaller(model, {}, {}), dict(kept)
    for key, numbers in said.items():
        gone = (flow.spread(key, units, False) & flow.alive(key)).to(numbers.device)
        more = _sums(model.get_submodule(readers[key]), masked[key[0]], torch.where(gone, numbers, 0.0))
        bias = key[0].removesuffix("weight") + "bias"
        _set(folded.get_parameter(bias), torch.where(more != 0, masked[bias] + more, params[bias]))
        new[key[0]] = flow.masks[key[0]].to(more.device) & ~_across(gone, key, masked)
        new[bias] = new.get(bias, torch.ones_like(more, dtype=torch.bool)) | (more != 0)
    found = idle(folded, new, structure).masks
    refuse_other(model, masked, smaller(folded, found, {}), structure)
    return folded, found


# ---- which -----------------------------------------------------------------------------------------------------------


def _readers(model: nn.Module, flow: Flow) -> dict[Key, str]:
    """By the dim of a weight that reads, the layer whose bias can hold what constants say to it."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    shared = {one for name, first in first_names(model).items() if name != first for one in (name, first)}
    found = {}
    for key, reads in flow.reads.items():
        path = reads[0].path
        weight, bias = (f"{path}.{name}".lstrip(".") for name in ("weight", "bias"))
        alone = all(read.path == path for read in reads) and bias in names and not {weight, bias} & shared
        if alone and key == (weight, _reads_along(model.get_submodule(path))):
            found[key] = path
    return found


def _reads_along(module: Any) -> int | None:
    """The dim of the weight of a layer that sums over its whole input, without zeros around it; else None."""
    if is_conv1d(module):
        return 0
    if isinstance(module, _CONVS):
        return 1 if module.groups == 1 and set(module.padding) <= {0, *"valid"} else None
    return 1 if isinstance(module, nn.Linear) else None


def _foldable(flow: Flow, said: Mapping[Key, Tensor]) -> list[Tensor]:
    """The units of each set that are constants to all that reads them, all of which have a bias to hold it."""
    same, units = flow.constants(flow.silence()[0]), [~c for c in flow.computed]
    for key in flow.reads:
        fits = same[key] & said[key].isfinite().cpu() if key in said else torch.zeros_like(same[key])
        for i, d in flow.lies[key]:
            units[i] &= (fits | ~flow.alive(key))[d.places].all(1)
    return [each & ~normed for each, normed in zip(units, flow.normed)]


# ---- what they say ---------------------------------------------------------------------------------------------------


def _said(
    model: nn.Module, masked: Mapping[str, Tensor], structure: Structure, readers: Mapping[Key, str]
) -> dict[Key, Tensor]:
    """What each layer reads at each position of its input; NaN where that is not one number."""
    hosts = twin(model)  # a copy: its hooks go with it
    heard: dict[Key, list[Tensor]] = {key: [] for key in readers}
    for key, path in readers.items():

        def listen(module: nn.Module, given: Any, named: Any, rows: list[Tensor] = heard[key]) -> None:
            rows.append(_channels_last(module, [*given, *named.values()][0]))

        hosts.get_submodule(path).register_forward_pre_hook(listen, with_kwargs=True)
    args, kwargs = call(structure.inputs)
    with quiet():
        torch.func.functional_call(hosts, dict(masked), args, kwargs)
    return {key: _one(torch.cat(rows)) for key, rows in heard.items() if rows}


def _channels_last(module: nn.Module, x: Tensor) -> Tensor:
    """An input as rows of channels."""
    dim = 1 - module.weight.dim() if isinstance(module, _CONVS) else -1
    return x.detach().movedim(dim, -1).reshape(-1, x.shape[dim])


def _one(rows: Tensor) -> Tensor:
    """The number that stands in a column, where it is one; functions may round its copies in two ways."""
    first = rows[0]
    even = (rows - first).abs().amax(0) <= 4 * torch.finfo(rows.dtype).eps * first.abs()
    return torch.where(even, first, torch.nan)


def _sums(module: nn.Module, weight: Tensor, said: Tensor) -> Tensor:
    """What a layer adds up of constants, for each of its outputs."""
    matrix = weight.t() if is_conv1d(module) else weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    return (matrix.double() @ said.double()).to(weight.dtype)


def _across(gone: Tensor, key: Key, masked: Mapping[str, Tensor]) -> Tensor:
    return gone.view([-1 if d == key[1] else 1 for d in range(masked[key[0]].dim())])


def _set(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
