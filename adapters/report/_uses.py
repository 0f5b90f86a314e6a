"""How often inputs use each entry of a weight, counted while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from .._module.blocks import evaluating
from .._module.weights import is_conv1d

Counter = Callable[[Any, Any, Any], dict[str, int]]  # of a layer, what it was given, and what it returned
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def uses(model: nn.Module, inputs: Sequence[Any]) -> dict[str, int]:
    """By name of the weight: rows of linear layers and of attention, positions of convolutions, none of embeddings."""
    counts: dict[str, int] = {}
    handles = [
        owner.register_forward_hook(_counting(f"{prefix}." if prefix else "", counts), with_kwargs=True)
        for prefix, owner in model.named_modules()
        if _counter_of(owner) is not None
    ]
    try:
        with evaluating(model):
            model(*inputs)
    except Exception as error:
        raise ValueError(
            f"`inputs` must be the positional arguments of a call of the model, which raised {type(error).__name__}: "
            f"{error}. For example inputs=(x,)."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _counting(prefix: str, counts: dict[str, int]) -> Callable[..., None]:
    def count(owner: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        counter = _counter_of(owner)
        given = (*args, *kwargs.values())
        for name, number in counter(owner, given, output).items() if counter else ():
            counts[prefix + name] = counts.get(prefix + name, 0) + number

    return count


def _counter_of(owner: nn.Module) -> Counter | None:
    """What counts the uses in a layer of its kind."""
    kinds: list[tuple[Any, Counter]] = [
        (nn.Linear, lambda m, x, y: {"weight": y.numel() // max(m.out_features, 1)}),
        (_CONVS, lambda m, x, y: {"weight": y.numel() // m.out_channels}),
        (_TRANSPOSED, lambda m, x, y: {"weight": x[0].numel() // m.in_channels}),
        ((nn.Embedding, nn.EmbeddingBag), lambda m, x, y: {"weight": 0}),
        (nn.MultiheadAttention, _of_attention),
    ]
    if is_conv1d(owner):
        return lambda m, x, y: {"weight": y.numel() // m.nf}
    return next((counter for kind, counter in kinds if isinstance(owner, kind)), None)


def _of_attention(owner: nn.MultiheadAttention, given: Any, output: Any) -> dict[str, int]:
    """As often as there are queries; not counted where there are other keys than queries."""
    query, key = given[:2]
    names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")
    return dict.fromkeys(names, query.numel() // owner.embed_dim) if query.shape == key.shape else {}
