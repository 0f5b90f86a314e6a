"""How much each expert of a model puts in, over batches."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masklib import scores

from .._module.blocks import batches_of, evaluating, run
from ._experts import of_experts
from ._shrink import read_all
from ._structure import Structure


def expert_norms(model: nn.Module, batches: Iterable[Any], structure: Structure) -> scores.ExpertNorms:
    """Run a model on batches, and add up how much each expert puts in for the tokens routed to it.

        total(j) = sum of gate(t, j) * norm(output(t, j)),   count(j) = how many tokens t are routed to j

    The output of an expert is that of the module that holds the packed weights, for it alone with a gate of one.

    Args:
        model: the one that the structure is of. It is left as it is.
        batches: tensors, tuples of arguments, or mappings of keyword arguments.
        structure: of the model, from `structure(model, example_inputs)`.

    Returns:
        What `scores.reap` takes, by the keys of `structure.experts`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there are no batches or no experts; or if their module is not called with tokens (tokens, width),
            the numbers of the experts (tokens, chosen) and gates of the same shape.

    Reference: Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression", 2025.
    """
    read_all(model, {}, of_experts(structure))
    data = _refuse(batches, structure)
    owners = {path: _owner(model, structure, path) for path in structure.experts}
    states: dict[str, Any] = dict.fromkeys(owners)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for path, owner in owners.items():
            hook = partial(_add, states, path, structure.experts[path].units)
            stack.callback(owner.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for batch in data:
            run(model, batch)
    unseen = [path for path, state in states.items() if state is None]
    if unseen:
        raise ValueError(f"`batches` never reach the experts of {unseen}. Add batches that do.")
    return scores.ExpertNorms({p: s.total for p, s in states.items()}, {p: s.count for p, s in states.items()})


def _owner(model: nn.Module, structure: Structure, path: str) -> nn.Module:
    """The module that holds the packed weights."""
    packed = next(d.name for d in structure.experts[path].dims if len(structure.parameters[d.name]) > 2)
    return model.get_submodule(packed.rpartition(".")[0])


def _add(states: dict[str, Any], path: str, count: int, module: nn.Module, args: Any, kwargs: Any) -> None:
    """Add what goes into the experts of one mixture."""
    index, gates = _routing(path, [*args, *kwargs.values()])
    rows, chosen = index.shape
    alone = {id(index): index.reshape(-1, 1), id(gates): torch.ones_like(gates).reshape(-1, 1)}

    def each(value: Any) -> Any:
        tokens = isinstance(value, Tensor) and value.shape[0] == rows
        return alone.get(id(value), value.repeat_interleave(chosen, 0) if tokens else value)

    outputs = module.forward(*map(each, args), **{name: each(value) for name, value in kwargs.items()})
    norms = torch.linalg.vector_norm(outputs.float(), dim=-1).reshape(rows, chosen)
    spread = [x.new_zeros(rows, count).scatter(1, index, x) for x in (norms, gates)]
    states[path] = scores.add_expert_norms(states[path], spread[0][..., None], spread[1])


def _routing(path: str, given: list[Any]) -> tuple[Tensor, Tensor]:
    """The numbers of the experts that each token goes to, and the gates."""
    tensors = [x for x in given if isinstance(x, Tensor) and x.dim() == 2]
    for index in tensors:
        for gates in tensors:
            if not index.is_floating_point() and gates.is_floating_point() and index.shape == gates.shape:
                return index, gates
    raise ValueError(
        f"the experts of {path!r} must be called with tokens (tokens, width), the numbers of the experts (tokens, "
        "chosen) and gates of the same shape, as those of transformers are. Otherwise add up their outputs with "
        "masklib.scores.add_expert_norms."
    )


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse(batches: Any, structure: Structure) -> list[Any]:
    if not structure.experts:
        raise ValueError("`structure` has no experts. structure.explain() says why.")
    return batches_of(batches)
