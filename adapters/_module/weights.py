"""The weights that people mean to prune, and why the other parameters are none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .computed import MARK, plain
from .parametrized import behind, chains, others
from .values import a_module

_KINDS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Pick the weights that people mean to prune: matrices and kernels, by name.

    Linear, Bilinear, convolutions, embeddings, RNN matrices, attention projections, `Conv1D` of transformers, and
    experts that are fused into one 3-D parameter; no biases, no norms, nothing that is a part of a normed weight, and a
    tied weight once, under its first name. `skipped` says why a parameter is not among them.

    Args:
        module: any module, pruned or not.

    Returns:
        Parameters by the dotted name they have when they are not pruned, in the module's order.

    Raises:
        TypeError: if it is not a module.
        ValueError: if a lazy layer has no values yet.

    >>> list(weights(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))))
    ['0.weight', '3.weight']
    """
    return {entry.name: entry.param for entry in _census(module) if entry.param is not None and not entry.reason}


def skipped(module: nn.Module) -> dict[str, str]:
    """Say of the parameters that `weights` leaves out why it does.

    Args:
        module: any module, pruned or not.

    Returns:
        Reasons by dotted name. A tensor that a norm computes from several parameters is named once, as what it is.

    Raises:
        TypeError, ValueError: as `weights`.

    >>> skipped(nn.Sequential(nn.Linear(4, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2, bias=False))))
    {'0.bias': 'a bias', '1.weight': 'computed by _WeightNorm'}
    """
    return {entry.name: entry.reason for entry in _census(module) if entry.reason}


def pickable(module: nn.Module, argument: str) -> dict[str, Tensor]:
    """The weights, when nobody said which: none at all is an error, and leaving out a normed one is said."""
    census = _census(module)
    found = {entry.name: entry.param for entry in census if entry.param is not None and not entry.reason}
    if not found:
        reasons = {entry.name: entry.reason for entry in census}
        raise ValueError(
            f"`{argument}` names nothing to prune: {type(module).__name__} has no weights. Its parameters: {reasons}. "
            "Pass the names of those that are meant, for example names=['weight']."
        )
    foreign = {entry.name: entry.reason for entry in census if entry.reason and entry.param is None}
    if foreign:
        warnings.warn(f"pruning leaves out {foreign}. Undo that first, or pass the names that are meant.", stacklevel=4)
    return found


# ---- one by one -----------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A parameter and why it is no weight, if it is none; what others compute has no parameter of its own."""

    name: str
    param: Any
    reason: str


def _census(module: nn.Module) -> list[_Entry]:
    a_module(module)
    first: dict[int, str] = {}
    census: list[_Entry] = []
    for prefix, owner in module.named_modules():
        if not isinstance(owner, parametrize.ParametrizationList):
            for name, param, reason in _entries(owner):
                full = f"{prefix}.{name}" if prefix else name
                tied = first.setdefault(id(param), full) if param is not None and not reason else full
                census.append(_Entry(full, param, reason if tied == full else f"tied to {tied!r}"))
    return census


def _entries(owner: nn.Module) -> Iterator[_Entry]:
    """The module's own parameters by plain name, in order."""
    foreign = _computed_by_others(owner)
    parts = {part for _, names in foreign.values() for part in names}
    for name, param in {**plain(owner), **behind(owner)}.items():
        if name not in parts and name not in foreign:
            yield _Entry(name, param, _reason(owner, name, param))
    for name, (reason, _) in foreign.items():
        yield _Entry(name, None, reason)


def _reason(owner: nn.Module, name: str, param: Tensor) -> str:
    if not (isinstance(owner, _KINDS) or is_conv1d(owner) or _is_expert(owner, param)):
        return f"of {type(owner).__name__}, which is no kind of layer that people prune"
    if isinstance(param, nn.parameter.UninitializedParameter):
        raise ValueError(f"{name!r} of {type(owner).__name__} is not initialized. Run a forward pass first.")
    if "bias" in name.split("_"):
        return "a bias"
    return "" if param.dim() > 1 else "of one dim"


def is_conv1d(owner: nn.Module) -> bool:
    """Whether it is transformers' `Conv1D`, a Linear with an (in, out) weight; told by name, without importing it."""
    return any(kind.__name__ == "Conv1D" for kind in type(owner).__mro__) and hasattr(owner, "nf")


def _is_expert(owner: nn.Module, param: Tensor) -> bool:
    """Whether a parameter holds the matrices of several experts, as those of Mixtral and Qwen3-MoE do."""
    if isinstance(param, nn.parameter.UninitializedParameter) or param.dim() != 3:
        return False
    return "Experts" in type(owner).__name__ or getattr(owner, "num_experts", None) == param.shape[0]


def _computed_by_others(owner: nn.Module) -> dict[str, tuple[str, list[str]]]:
    """What norms and other libraries compute, by name: by what, and from which of the module's own parameters."""
    found = {}
    for hook in owner._forward_pre_hooks.values():  # weight_norm, spectral_norm; torch.nn.utils.prune
        name = getattr(hook, "_tensor_name", getattr(hook, "name", None))
        parts = [f"{name}{end}" for end in ("_g", "_v", "_orig") if f"{name}{end}" in owner._parameters]
        if parts and name not in owner.__dict__.get(MARK, ()):
            found[str(name)] = f"computed by {type(hook).__name__} of {type(hook).__module__}", parts
    for name, chain in chains(owner).items():
        if others(chain):
            found[name] = f"computed by {', '.join(others(chain))}", []
    return found
