"""The weights people mean to prune."""

from __future__ import annotations

from torch import Tensor, nn

from ._attribute import plain

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

    Linear, Bilinear, convolutions, embeddings, RNN matrices and attention projections; no biases, no norms, and a
    tied weight once, under its first name.

    Args:
        module: any module, pruned or not.

    Returns:
        Parameters by the dotted name they have when they are not pruned, in the module's order; of a pruned one the
        `_orig` parameter.

    Raises:
        TypeError: if it is not a module.
        ValueError: if a lazy layer has no values yet.

    >>> list(weights(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))))
    ['0.weight', '3.weight']
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be an nn.Module, got {type(module).__name__}. For example weights(model).")
    found: dict[int, tuple[str, Tensor]] = {}
    for prefix, owner in module.named_modules():
        if isinstance(owner, _KINDS):
            for name, param in _matrices(owner).items():
                found.setdefault(id(param), (f"{prefix}.{name}" if prefix else name, param))
    return dict(found.values())


def _matrices(module: nn.Module) -> dict[str, Tensor]:
    """The module's own parameters of two dims and more, by plain name."""
    own = plain(module)
    lazy = [name for name, param in own.items() if isinstance(param, nn.parameter.UninitializedParameter)]
    if lazy:
        raise ValueError(f"{lazy} of {type(module).__name__} are not initialized. Run a forward pass first.")
    return {n: p for n, p in own.items() if p.dim() > 1 and "bias" not in n.split("_")}
