"""The model without the units that masks have killed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from masklib import _read
from masklib.masking import apply

from .._module.same import Under, difference
from .._module.trial import refuse_lazy, refuse_meta, tensors
from ._capture import first_names
from ._cut import dead_units, kept_places, roots_of, smaller
from ._fold import epsilons, folded, readings
from ._settings import Cut, follow_config
from ._sizes import Change, changes, known_numbers, set_all, sizes_after, tries
from ._structure import Structure
from ._told import number_of, set_number


def shrink(model: nn.Module, masks: Mapping[str, Tensor], structure: Structure) -> nn.Module:
    """Cut the units that masks have killed out of a copy of the model.

        shrink(model, masks, structure)(x) = functional_call(model, apply(params, masks), (x,))

    A unit goes if all that belongs to it is dead, in all its tensors; other dead entries become zeros. Numbers in
    modules follow (`in_features`, `groups`, heads), and so does a `config` of transformers. The smaller model is run
    beside the masked one before it is returned, on the example inputs and on twice the batch.

    Args:
        model: the one that the structure is of. It is left as it is.
        masks: bool, by parameter name, of the parameters' shapes; as from `compute_mask` with `structure.groups()`.
        structure: of the model, from `structure(model, example_inputs)`.

    Returns:
        A smaller dense model of the same classes, on the same device, in the same mode, with tensors of its own.

    Raises:
        TypeError: if an argument is of another kind, or a mask not bool.
        ValueError: if a mask has no parameter, or not its shape; if the structure is of another model; if no unit is
            dead, or all units of a set are; or if the smaller model would not compute what the masked one does, as
            where the code holds a size as a literal.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> found = structure(net, (torch.ones(1, 2),))
    >>> masks = compute_mask({n: net.get_parameter(n) for n in found.names}, keep=2, groups=found.groups(p=2))
    >>> shrink(net, masks, found)[0]
    Linear(in_features=2, out_features=2, bias=True)
    """
    params, kept = read_all(model, masks, structure)
    dead = dead_units(structure, kept)
    _refuse_dead(structure, dead)
    small, why = _tried(model, params, kept, structure, dead)
    if why is not None:
        _refuse_cut(model, params, kept, structure, dead, why)
    gone, masked = roots_of(structure, dead), apply(params, kept)
    numbers = sizes_after(structure, gone) | epsilons(model, folded(structure, gone))
    cut = Cut(numbers, known_numbers(structure))
    follow_config(small, cut, lambda: difference(model, masked, small, structure.inputs) is None)
    return small


def _tried(model: nn.Module, params: Any, masks: Any, structure: Structure, dead: Any) -> tuple[nn.Module, str | None]:
    """The smaller model with numbers that make it compute what the masked one does; or why it does not."""
    shapes, gone = {name: tensor.shape for name, tensor in tensors(model)}, roots_of(structure, dead)
    small = smaller(model, masks, kept_places(structure, dead, shapes))
    return small, fitted(model, apply(params, masks), small, structure, gone, changes(model, structure, gone))


def fitted(
    model: nn.Module,
    masked: Mapping[str, Tensor],
    small: nn.Module,
    structure: Structure,
    gone: Any,
    found: list[Change],
    under: Under = nullcontext,
) -> str | None:
    """Set the numbers with which the smaller model computes what the masked one does; or why there are none."""
    before, why = dict(model.named_modules()), None
    for chosen in tries(model, found):
        for change in found:
            set_number(small.get_submodule(change.path), change.name, number_of(before[change.path], change.name))
        set_all(small, chosen)
        for _ in readings(small, folded(structure, gone)):
            why = difference(model, masked, small, structure.inputs, under)
            if why is None:
                return None
    return why


# ---- what is refused ------------------------------------------------------------------------------------------------


def read_all(model: Any, masks: Any, structure: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and the masks by first names, checked."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` must be a module, got {type(model).__name__}. For example shrink(model, masks, found)."
        )
    if not isinstance(structure, Structure):
        raise TypeError(
            f"`structure` must be what structure(model, example_inputs) returns, got {type(structure).__name__}."
        )
    _read.mapping(masks, "masks")
    refuse_meta(model)
    refuse_lazy(model)
    params, first = dict(model.named_parameters(remove_duplicate=False)), first_names(model)
    _read.known_names(_read.tensors(masks, "masks"), params, "masks", "params")
    for name, mask in masks.items():
        _read.mask_like(mask, params[name], _read.place(name, "masks"), _read.place(name, "model"))
    wrong = [n for n, shape in structure.shapes.items() if n not in params or tuple(params[n].shape) != shape]
    if wrong:
        raise ValueError(
            f"`structure` is of another model: {wrong[0]!r} has not the shape {structure.shapes[wrong[0]]} here. "
            "Call structure(model, example_inputs) again."
        )
    kept: dict[str, Tensor] = {}
    for name, mask in masks.items():
        kept[first[name]] = mask if first[name] not in kept else kept[first[name]] & mask
    return {n: p.detach() for n, p in params.items() if first[n] == n}, kept


def _refuse_dead(structure: Structure, dead: list[Tensor]) -> None:
    """Refuse a cut of nothing, and one that ends the network."""
    ended = [s for s, gone in zip(structure.sets, dead) if gone.all()]
    if ended:
        raise ValueError(
            f"`masks` leave nothing of {ended[0]!r}, which ends the network. "
            "Pass least=1 to compute_mask, so that each set keeps a unit."
        )
    if not any(gone.any() for gone in dead):
        raise ValueError(
            "`masks` kill no unit in all its tensors, so that there is nothing to cut. "
            "Pass groups=structure.groups(p=2) to compute_mask, with the scores of all structure.names; "
            "or for masks of single weights, shrink(model, idle(model, masks, structure).masks, structure)."
        )


# Of so many sets each is tried alone to name the one that cannot be cut; more would take long on large models.
_ALONE = 12


def _refuse_cut(model: nn.Module, params: Any, masks: Any, structure: Structure, dead: Any, why: str) -> None:
    """Refuse what would not compute the same, and name a set that does not."""
    cut = [i for i, gone in enumerate(dead) if gone.any()]
    guilty = ""
    for i in cut[:_ALONE]:
        alone = [gone & (i == j) for j, gone in enumerate(dead)]
        if _tried(model, params, masks, structure, alone)[1] is not None:
            guilty = f" Not even of {structure.sets[i]!r} alone can units be cut."
            break
    raise ValueError(
        f"`masks` cut a model that would no longer compute what the masked one does: {why}.{guilty} {_advice(why)} "
        "Or leave the set out with structure.select()."
    )


def _advice(why: str) -> str:
    if "multiple of" in why:  # the kernels of grouped products read rows of whole 16 bytes
        return (
            "Keep so many units of each set that a row of the cut weights has whole multiples of these bytes, or let "
            "the model do without that kernel: model.set_experts_implementation('batched_mm') in transformers."
        )
    return "Where the code holds a size as a number of its own, let it read the size from a tensor."
