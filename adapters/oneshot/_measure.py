"""What a dense model's weights are worth: scores of inputs and of gradients, for budgets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from masklib.scores import InputNorms, add_input_norms

from .._module.blocks import batches_of, blocks_of, evaluating, refuse_empty, run, split
from .._module.values import a_module
from ._asked import sites_of
from ._capture import restore
from ._sites import Site, Watch

Sums = dict[tuple[str, int], InputNorms]  # by the name of a weight, and which of its matrices


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    score: Callable[..., Tensor],
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    names: Collection[str] | None = None,
    blocks: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Score the weights of a dense model by what passes through its layers, so that a budget can compare them.

        S = score(W, inputs)             without a loss, such as `scores.wanda` for `budgets.owl`
        S = score(W, inputs, grads)      with one, such as `scores.curvature` for `budgets.pooled`

    with the sums of the squares of a layer's inputs, and of the gradients of the loss at its outputs. The activations
    of one block at a time are held, with the hidden states between the blocks of one batch.

    Args:
        model: a model in memory; it is run without dropout and caches, and comes back as it was.
        batches: what to measure on, as for `prune`.
        score: `score(weight, inputs)` or `score(weight, inputs, grads)`, with a weight of shape (out, in) and
            `scores.InputNorms` of shapes (in,) and (out,), gives (out, in).
        loss: `loss(outputs, batch)` of the model's outputs, a scalar: the sum over the examples or tokens of a batch,
            such as `next_token_loss`. None for no gradients.
        names, blocks: as for `prune`.

    Returns:
        Scores by name, in the shapes of the weights.

    Raises:
        TypeError: if an argument is not of its type, or the loss gives no tensor.
        ValueError: if there are no batches, names are not those of weights in the blocks, a layer sees no inputs or no
            gradients, or scores have not the shape of the weight.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> found = measure(model, [torch.ones(8, 4)], scores.curvature, loss=lambda y, x: (y**2).sum())
    >>> {name: s.shape for name, s in found.items()}
    {'0.weight': torch.Size([4, 4]), '2.weight': torch.Size([2, 4])}

    Reference: Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", 2015,
    section 3.
    """
    a_module(model, "model")
    refuse_empty(model)
    _refuse_others(score, loss)
    data, parts = batches_of(batches), blocks_of(model, blocks)
    sites, _ = sites_of(model, parts, names)
    inputs: Sums = {}
    grads: Sums = {}
    with evaluating(model):
        if loss is None:
            with Watch(sites.values(), partial(_add, inputs)):
                for batch in data:
                    run(model, batch)
        else:
            with _frozen(model), _in_pieces(parts), torch.enable_grad():
                for batch in data:
                    _backward(model, batch, loss, sites, inputs, grads)
        outputs = None if loss is None else _per_token(grads, inputs)
        return {n: _scores(site, score, inputs, outputs) for n, site in sites.items()}


def _backward(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any, Any], Tensor],
    sites: Mapping[str, Site],
    inputs: Sums,
    grads: Sums,
) -> None:
    """Run forth and back, and add up what passes through the layers."""

    def came(site: Site, part: int, outputs: Tensor) -> None:
        if outputs.requires_grad:
            outputs.register_hook(lambda grad: _add_outputs(grads, site, part, grad))

    with Watch(sites.values(), partial(_add, inputs), came):
        outputs = run(model, batch)
    value = loss(outputs, batch)
    _refuse_no_loss(value)
    value.backward()


def _add(sums: Sums, site: Site, part: int, rows: Tensor) -> None:
    sums[site.name, part] = add_input_norms(sums.get((site.name, part)), rows)


def _add_outputs(sums: Sums, site: Site, part: int, grad: Tensor) -> None:
    """Of a convolution the channels of each group, at all positions."""
    if not site.grouped:
        return _add(sums, site, part, grad)
    batched = grad if grad.dim() == site.param.dim() else grad[None]
    for group, rows in enumerate(batched.movedim(1, -1).chunk(site.parts, -1)):
        _add(sums, site, group, rows)


def _scores(site: Site, score: Callable[..., Tensor], inputs: Sums, grads: Sums | None) -> Tensor:
    """The scores of a weight, matrix by matrix."""
    scores = torch.empty_like(site.param.detach(), dtype=torch.promote_types(site.param.dtype, torch.float32))
    for part, (own, weight) in enumerate(zip(site.matrices(scores), site.matrices(site.param.detach()))):
        sums = [inputs.get((site.name, part))]
        if grads is not None:
            sums.append(grads.get((site.name, part)))
        _refuse_unseen(site, part, sums)
        own.copy_(_scored(site, score, weight, sums))
    return scores


def _scored(site: Site, score: Callable[..., Tensor], weight: Tensor, sums: Sequence[InputNorms | None]) -> Tensor:
    try:
        found = score(weight, *sums)
    except TypeError as error:
        taken = "weight, inputs" if len(sums) == 1 else "weight, inputs, grads"
        raise TypeError(
            f"`score` must take ({taken}), those without a loss the first two, got {score!r}: {error}. "
            "For example scores.wanda without a loss, scores.curvature with loss=next_token_loss."
        ) from error
    _refuse_shape(site, found, weight)
    return found


def _per_token(grads: Sums, inputs: Sums) -> Sums:
    """Squares in the mean over what the busiest layer sees: an expert that sees few tokens matters less."""
    most = max((state.count for state in inputs.values()), default=0)
    return {place: InputNorms(state.total, most) for place, state in grads.items()}


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of parameters, whose activations would have to be held."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for param, flag in before:
            param.requires_grad = flag


@contextmanager
def _in_pieces(blocks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Gradients from the first block on, each block run again when its turn comes: one at a time is held."""
    with ExitStack() as stack:
        stack.callback(next(iter(blocks.values())).register_forward_pre_hook(_with_grad, with_kwargs=True).remove)
        for block in blocks.values():
            own = vars(block).get("forward")
            stack.callback(restore, block, own)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        yield


def _with_grad(block: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    state, call = split(type(block).__name__, args, kwargs)
    return (state.detach().requires_grad_(), *call.args), call.kwargs


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_others(score: Any, loss: Any) -> None:
    if not callable(score):
        raise TypeError(
            f"`score` must be a function such as scores.wanda, got {score!r}. For example scores.curvature."
        )
    if loss is not None and not callable(loss):
        raise TypeError(f"`loss` must be a function of outputs and batch, got {loss!r}. For example next_token_loss.")


def _refuse_no_loss(value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"`loss` must give a tensor, got {type(value).__name__}. For example next_token_loss.")
    if value.numel() != 1 or not value.requires_grad:
        raise ValueError(
            f"`loss` must give one number that depends on the blocks, got shape {tuple(value.shape)} and "
            f"requires_grad={value.requires_grad}. Sum it up: loss=lambda outputs, batch: (outputs**2).sum()."
        )
    if not value.isfinite():
        raise ValueError(f"`loss` must give a finite number, got {value.item()}. Are the model's weights finite?")


def _refuse_unseen(site: Site, part: int, sums: Sequence[InputNorms | None]) -> None:
    unseen = [kind for kind, state in zip(("inputs", "gradients"), sums) if state is None]
    if unseen:
        which = f"expert {part} of {site.name!r}" if site.parts > 1 else repr(site.name)
        raise ValueError(
            f"{which} saw no {' and no '.join(unseen)}. Add batches that reach it, or leave it out by names=."
        )


def _refuse_shape(site: Site, found: Any, weight: Tensor) -> None:
    if not isinstance(found, Tensor):
        raise TypeError(f"`score` must give a tensor, got {type(found).__name__} for {site.name!r}.")
    if found.shape != weight.shape:
        raise ValueError(
            f"`score` must give scores of the shape {tuple(weight.shape)} of {site.name!r}, got {tuple(found.shape)}."
        )
