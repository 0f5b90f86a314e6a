"""An accelerated model from its saved state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from masklib import _read

from .._module.trial import copied
from .._module.values import a_module
from ._forms import as_sparse, no_layer
from ._replace import replaced


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load the state of an accelerated model into a copy of a dense one, with the same layers replaced.

        restore(model, accelerate(model, inputs)[0].state_dict())(x) = accelerate(model, inputs)[0](x)

    Args:
        model: of the architecture that was accelerated, with any values. It is left as it is.
        state: from `state_dict()` of the accelerated model: plain tensors, as any format of files holds them.

    Returns:
        The accelerated model, without anything timed again.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the state is of another model.

    >>> net = nn.Sequential(nn.Linear(4, 2))
    >>> fast = nn.Sequential(SparseLinear(net[0]))
    >>> restore(net, fast.state_dict())
    Sequential((0): SparseLinear(in_features=4, out_features=2, alive=100.00%, bias=True))
    """
    a_module(model, "model")
    halves, layers = _sparse_names(state), dict(model.named_modules())
    for name in halves:
        if name not in layers or no_layer(layers[name]) is not None:
            raise ValueError(f"`state` must be of this model, accelerated, which has no layer {name!r}.")
    fast = replaced(copied(model), {name: as_sparse(layers[name], half) for name, half in halves.items()})
    try:
        fast.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"`state` must be of this model, accelerated: {error}") from error
    return fast


def _sparse_names(state: Any) -> dict[str, bool]:
    """The names of the layers that were replaced, and whether each is 2:4."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"`state` must be a mapping of tensors by name, got {type(state).__name__}. For example fast.state_dict()."
        )
    for name in state:
        _read.is_name(name, "state")
    ends = {"crow_indices": False, "halved": True}
    found = [name.rpartition(".") for name in state]
    return {prefix: ends[last] for prefix, _, last in found if last in ends}
