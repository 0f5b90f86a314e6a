"""The only raisers: what a bad call is told (the argument, its value, the cause and a call that works)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib._names import named

_REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGER = {torch.int8, torch.int16, torch.int32, torch.int64}
_UNSIGNED = {torch.uint8, torch.uint16, torch.uint32, torch.uint64}
RANKABLE = _REAL | _INTEGER | _UNSIGNED


def place(name: str, argument: str) -> str:
    """Where a tensor stands, for messages: "`scores`", or "`scores` of 'fc1.weight'"."""
    return f"`{argument}` of {name!r}" if name else f"`{argument}`"


# ---- tensors and mappings -------------------------------------------------------------------------------------------


def tensors(value: Any, argument: str) -> Mapping[str, Tensor]:
    """Read a tensor or a mapping of strided tensors by name."""
    entries = named(value)
    for name, tensor in entries.items():
        if not isinstance(name, str):
            raise TypeError(f"`{argument}` must be keyed by names (str), got the key {name!r}.")
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{place(name, argument)} must be a torch.Tensor (or `{argument}` a mapping of them by name), "
                f"got {type(tensor).__name__}. For a module, pass dict(module.named_parameters())."
            )
        if tensor.layout != torch.strided:
            raise TypeError(
                f"{place(name, argument)} must be a dense tensor, got layout {tensor.layout}. Pass .to_dense()."
            )
    return entries


def same_form(value: Any, like: Any, argument: str, reference: str) -> None:
    """Refuse a tensor where a mapping is expected, and the other way round."""
    if isinstance(value, Mapping) != isinstance(like, Mapping):
        raise TypeError(
            f"`{argument}` must be of the form of `{reference}`, {_form(like)}, got {_form(value)}. "
            "Pass a tensor with a tensor, and a mapping by name with a mapping."
        )


def _form(value: Any) -> str:
    return "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def same_names(value: Mapping[str, Any], names: Mapping[str, Any], argument: str, reference: str = "scores") -> None:
    """Refuse a mapping that lacks a name of the reference or holds another one."""
    missing = [n for n in names if n not in value]
    unknown = [n for n in value if n not in names]
    if missing or unknown:
        raise ValueError(
            f"`{argument}` must have exactly the names of `{reference}`: missing {missing}, unknown {unknown}. "
            f"For example {{name: {argument}[name] for name in {reference}}}."
        )


def masks(value: Any, references: Any, argument: str, reference: str = "scores") -> Mapping[str, Tensor]:
    """Read masks: bool, with the names, shapes and devices of the reference."""
    same_form(value, references, argument, reference)
    entries, expected = tensors(value, argument), named(references)
    same_names(entries, expected, argument, reference)
    for name, mask in entries.items():
        mask_like(mask, expected[name], place(name, argument), place(name, reference))
    return entries


def mask_like(mask: Tensor, tensor: Tensor, where: str, reference: str) -> None:
    """Refuse a mask that is not bool or not of the tensor's shape and device."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{where} must be bool (True = kept), got {mask.dtype}. Pass mask != 0.")
    same_shape(mask, tensor, where, reference)
    if mask.device != tensor.device:
        raise ValueError(
            f"{where} must be on the device of {reference}, {tensor.device}, got {mask.device}. "
            f"Pass mask.to({str(tensor.device)!r})."
        )


def same_shape(value: Tensor, tensor: Tensor, where: str, reference: str) -> None:
    """Refuse a tensor whose shape is not the reference's."""
    if value.shape != tensor.shape:
        raise ValueError(
            f"{where} must have the shape of {reference}, {tuple(tensor.shape)}, got {tuple(value.shape)}."
        )


def default_masks(value: Any, scores: Any) -> Mapping[str, Tensor | None]:
    """Read `default_mask`: None is all True everywhere."""
    return dict.fromkeys(named(scores)) if value is None else masks(value, scores, "default_mask")


def rankable(scores: Mapping[str, Tensor], magnitude: bool, argument: str = "scores") -> None:
    """Refuse dtypes without an order, and int64 beside floating ones (no common type holds both exactly)."""
    for name, tensor in scores.items():
        if tensor.dtype in RANKABLE or (magnitude and tensor.is_complex()):
            continue
        hint = f"Pass {argument}.abs()." if tensor.is_complex() else f"Pass {argument}.float()."
        raise TypeError(f"{place(name, argument)} must be real floating or integer, got {tensor.dtype}. {hint}")
    dtypes = {t.dtype for t in scores.values()}
    wide, floating = dtypes & {torch.int64, torch.uint64}, [d for d in dtypes if d not in _INTEGER | _UNSIGNED]
    if (wide and floating) or (torch.uint64 in wide and dtypes & _INTEGER):
        raise TypeError(
            f"`scores` of one pool must have a common exact type, got {sorted(map(str, dtypes))}. "
            "Cast them to one dtype, for example scores.double()."
        )


def inexact(value: Any, argument: str) -> Mapping[str, Tensor]:
    """Read floating or complex tensors by name."""
    entries = tensors(value, argument)
    for name, tensor in entries.items():
        if tensor.dtype not in _REAL and not tensor.is_complex():
            raise TypeError(f"{place(name, argument)} must be floating, got {tensor.dtype}. Pass {argument}.float().")
    return entries


# ---- numbers --------------------------------------------------------------------------------------------------------

_MOST = 2**63 - 1
_EXAMPLE = {"amount": "amount=0.2", "keep": "keep=2", "sparsity": "sparsity=0.9"}


def how_many(amount: Any, keep: Any, sparsity: Any) -> tuple[str, Tensor]:
    """Read the one number given: which argument it is, and its value as a 0-d int64 or float64 tensor."""
    pairs = ("amount", amount), ("keep", keep), ("sparsity", sparsity)
    given = [pair for pair in pairs if pair[1] is not None]
    if len(given) != 1:
        got = " and ".join(f"{a}={v!r}" for a, v in given) or "none"
        raise TypeError(f"Give exactly one of `amount`, `keep` and `sparsity`, got {got}. For example amount=0.2.")
    ((argument, value),) = given
    return argument, _number(argument, value)


def _number(argument: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):  # what a numpy number is while it is traced
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        return _tensor_number(argument, value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"`{argument}` must be a number or a 0-d tensor, got {value!r} ({type(value).__name__}). "
            f"For example {_EXAMPLE[argument]}."
        )
    fraction = isinstance(value, (float, np.floating))
    _kind(argument, fraction, value)
    if not 0 <= value <= (1 if fraction else _MOST):
        bound = "a fraction between 0 and 1" if fraction else "at least 0, and no more than a pool has"
        out_of_range(argument, value, bound)
    return torch.scalar_tensor(value, dtype=torch.float64 if fraction else torch.int64, device="cpu")  # type: ignore[arg-type]


def _tensor_number(argument: str, value: Tensor) -> Tensor:
    if value.dim() != 0:
        raise ValueError(f"`{argument}` must be a number or a 0-d tensor, got a tensor of shape {tuple(value.shape)}.")
    if value.dtype not in RANKABLE - {torch.uint64}:
        raise TypeError(f"`{argument}` must be an integer or floating tensor, got {value.dtype}.")
    _kind(argument, value.is_floating_point(), f"a tensor of {value.dtype}")
    return value.detach().to(torch.float64 if value.is_floating_point() else torch.int64)


def _kind(argument: str, fraction: bool, value: Any) -> None:
    if argument == "keep" and fraction:
        raise TypeError(
            f"`keep` must be an int (items that may remain in each pool), got {value}. "
            "For a share of the whole, pass sparsity=0.5."
        )
    if argument == "sparsity" and not fraction:
        raise TypeError(
            f"`sparsity` must be a float in [0, 1] (the dead share of the whole), got {value}. "
            "Pass sparsity=1.0 for everything, or a number of items as amount=."
        )


def out_of_range(argument: str, value: Any, limit: str) -> None:
    """Raise for a number outside its range."""
    raise ValueError(f"`{argument}` must be {limit}, got {value}. For example {_EXAMPLE[argument]}.")


def integer(value: Any, argument: str, example: str) -> int:
    """Read a plain integer argument such as a dim or a length."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{argument}` must be an int, got {value!r}. For example {example}.")
    return int(value)


def key(value: Any) -> Tensor:
    """Read a 64-bit key as a 0-d int64 tensor; ints of [2**63, 2**64) are taken modulo 2**64."""
    if isinstance(value, Tensor):
        if value.dim() != 0 or value.dtype not in _INTEGER:
            raise TypeError(
                f"`key` must be an int or a 0-d int64 tensor, got {value.dtype} of shape {tuple(value.shape)}."
            )
        return value.detach().to(torch.int64)
    number = integer(value, "key", "key=0")
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"`key` must fit in 64 bits, got {number}. For example key=0.")
    return torch.tensor((number + 2**63) % 2**64 - 2**63, dtype=torch.int64, device="cpu")


# ---- groups ---------------------------------------------------------------------------------------------------------


def dimension(dim: int, tensor: Tensor, where: str) -> int:
    """Count a dim from the front, refusing one that the tensor does not have."""
    if not -tensor.dim() <= dim < tensor.dim():
        hint = "For example dim=-1." if tensor.dim() else "A 0-d tensor has none: use elements()."
        raise IndexError(
            f"`dim` must be a dimension of {where}, which has shape {tuple(tensor.shape)}, got {dim}. {hint}"
        )
    return dim % tensor.dim()


def one_a_channel(values: Tensor, weight: Tensor, dim: int, where: str, reference: str) -> None:
    """Refuse a vector that has not one value for each index along a dim."""
    channels = weight.shape[dimension(dim, weight, reference)]
    if values.shape != (channels,):
        raise ValueError(
            f"{where} must have shape ({channels},), one value for each index along dim {dim} of "
            f"{reference}, got {tuple(values.shape)}."
        )


def divides(length: int, size: int, what: str, dim: int, where: str, hint: str = "Pad the scores.") -> None:
    """Refuse a size that does not split into whole runs of the length."""
    if size % length:
        raise ValueError(f"{what} must divide the size {size} of dim {dim} of {where}, got {length}. {hint}")


def heads_fit(heads: Any, size: int, where: str) -> None:
    """Refuse a size that does not split into parts, or parts that do not split into runs."""
    whole = sum(heads.parts)
    if size % (heads.count * whole) == 0:
        return
    what = "`count`" if whole == 1 else f"`count` ({heads.count}) times the sum of `parts` ({whole})"
    fits = heads._replace(parts=(1,) if size % whole else heads.parts)
    fits = fits._replace(count=math.gcd(heads.count, size // sum(fits.parts)))
    divides(heads.count * whole, size, what, heads.dim, where, f"For example {fits!r}.")


def too_few_dims(groups: Any, tensor: Tensor, where: str) -> None:
    """Raise for a tensor with fewer dims than a block."""
    raise ValueError(
        f"{groups!r} needs at least {len(groups.shape)} dims, got shape {tuple(tensor.shape)} for {where}. "
        f"For example {'blocks(' + repr(groups.shape[-tensor.dim() :]) + ')' if tensor.dim() else 'elements()'}."
    )


def norm(p: Any, mean: Any) -> tuple[float | None, bool]:
    """Read the order of a norm and whether it is divided by the live count."""
    if not isinstance(mean, (bool, np.bool_)):
        raise TypeError(f"`mean` must be a bool, got {mean!r}. For example channels(0, p=2, mean=True).")
    if p is None:
        return None, bool(mean)
    number = order(p, "p")
    if mean and number == 0:
        raise ValueError(f"`p` must not be 0 with mean=True, got {p!r}. For example channels(0, p=2, mean=True).")
    return number, bool(mean)


def order(value: Any, argument: str) -> float:
    """Read the order of a norm: any number, inf and -inf included."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"`{argument}` must be a number (inf and -inf included), got {value!r}. "
            f"For example {argument}=2, the Frobenius norm."
        )
    if value != value:
        raise ValueError(f"`{argument}` must be a number, got {value!r}. For example {argument}=2.")
    return float(value)


def lengths(value: Any, argument: str, example: str) -> tuple[int, ...]:
    """Read positive lengths, such as those of a block."""
    if not isinstance(value, Sequence) or not value:
        raise TypeError(f"`{argument}` must be a tuple of ints, got {value!r}. For example {example}.")
    sizes = tuple(integer(v, argument, example) for v in value)
    if min(sizes) < 1:
        raise ValueError(f"`{argument}` must be positive, got {min(sizes)}. For example {example}.")
    return sizes


_COUPLED = "coupled({'fc1.weight': channels(0), 'fc2.weight': channels(1)}, p=2)"


def coupled_sets(sets: Sequence[Any], kinds: tuple[type, ...]) -> None:
    """Refuse anything but mappings from name to groups with items, each name in one of them."""
    for each in sets:
        if not isinstance(each, Mapping):
            raise TypeError(f"`sets` must be mappings from name to groups, got {each!r}. For example {_COUPLED}.")
        if not each:
            raise ValueError(f"`sets` must not be empty mappings, got {each!r}. For example {_COUPLED}.")
        for name, groups in each.items():
            _member(name, groups, kinds)
    counts = Counter(name for each in sets for name in each)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"`sets` must have each name once, got {twice} in several. Join these sets, or leave {twice} out of one."
        )


def _member(name: Any, groups: Any, kinds: tuple[type, ...]) -> None:
    """Refuse what cannot be coupled."""
    if not isinstance(name, str):
        raise TypeError(f"`sets` must be keyed by names (str), got the key {name!r}. For example {_COUPLED}.")
    if not isinstance(groups, kinds):
        raise TypeError(
            f"`sets` must hold channels, heads, blocks or elements, got {groups!r} for {name!r}. "
            f"For example {_COUPLED}."
        )
    if getattr(groups, "p", None) is not None or getattr(groups, "mean", False):
        raise ValueError(
            f"`sets` must hold groups without `p` and `mean` of their own, got {groups!r} for {name!r}: "
            f"an item has one score. For example {_COUPLED}."
        )


def coupled_scores(groups: Any, scores: Any) -> None:
    """Refuse scores that do not have exactly the names of the sets."""
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"`scores` must be a mapping of tensors by name for {groups!r}, got a {type(scores).__name__}. "
            "For example dict(module.named_parameters()); for one tensor alone, groups=channels(0, p=2)."
        )
    names = [name for members in groups.sets for name, _ in members]
    missing, unknown = [n for n in names if n not in scores], [n for n in scores if n not in names]
    if missing or unknown:
        found = [n for n in names if n in scores]
        hints = [f"Leave {missing} out of coupled, or pass their scores."] if missing else []
        hints += [f"Pass {{name: scores[name] for name in {found}}}, or couple {unknown} too."] if unknown else []
        raise ValueError(
            "`scores` must have exactly the names of coupled `groups`: "
            f"missing {missing}, unknown {unknown}. {' '.join(hints)}"
        )


def same_items(counts: Sequence[int], members: Mapping[str, Any]) -> None:
    """Refuse tensors of a set that do not have as many items each."""
    few, many = min(counts), max(counts)
    if few == many:
        return
    found = ", ".join(f"{count} of {name!r} by {groups!r}" for count, (name, groups) in zip(counts, members.items()))
    name, groups = list(members.items())[counts.index(many)]
    runs = f"heads({few}, dim={getattr(groups, 'dim', 0)})"
    hint = f"For {name!r}, for example {runs}." if few and many % few == 0 else "Others need a set of their own."
    raise ValueError(
        f"the tensors of a set must have as many items each, got {found}. "
        f"An (out, in) weight has the outputs as channels(0), the inputs as channels(1). {hint}"
    )


def labelling(value: Any, argument: str) -> Any:
    """Refuse labels that are not integer tensors."""
    for name, tensor in tensors(value, argument).items():
        if tensor.dtype not in (_INTEGER | {torch.uint8}):
            raise TypeError(
                f"{place(name, argument)} must hold integer labels, got {tensor.dtype}. "
                "For example labels(torch.arange(scores.numel()).view(scores.shape))."
            )
    return value


def group_value(value: Any, kinds: tuple[type, ...]) -> None:
    """Refuse anything but a groups value."""
    if not isinstance(value, kinds):
        raise TypeError(
            f"`groups` must be a groups value, got {value!r}. For example groups=elements() or groups=rows(0)."
        )


def labels_like(value: Any, scores: Mapping[str, Tensor], argument: str) -> Mapping[str, Tensor]:
    """Read label tensors with the names and shapes of the scores."""
    entries = tensors(value, argument)
    same_names(entries, scores, argument)
    for name, label in entries.items():
        same_shape(label, scores[name], place(name, argument), place(name, "scores"))
    return entries


def rankable_each(values: Mapping[str, Tensor], *, magnitude: bool = False, argument: str = "scores") -> None:
    """Like `rankable`, for tensors that are not compared with one another."""
    for name, tensor in values.items():
        rankable({name: tensor}, magnitude, argument)


# ---- histories and parameters ---------------------------------------------------------------------------------------


def known_names(value: Mapping[str, Any], names: Mapping[str, Any], argument: str, reference: str) -> None:
    """Refuse names that the reference does not have."""
    unknown = [n for n in value if n not in names]
    if unknown:
        raise ValueError(f"`{argument}` has names that `{reference}` lacks: {unknown}. Known names: {list(names)}.")


def mapping(value: Any, argument: str) -> Mapping[str, Tensor]:
    """Read a mapping of tensors by name."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"`{argument}` must be a mapping of tensors by name, got {type(value).__name__}. "
            "For example dict(module.named_parameters())."
        )
    return tensors(value, argument)


def function(value: Any, argument: str, example: str) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise TypeError(f"`{argument}` must be callable, got {value!r}. For example {example}.")


def steps(value: Any) -> tuple[Any, ...]:
    """Read a history: an iterable of callables."""
    example = "[partial(l1_unstructured, amount=0.2)]"
    if callable(value) or not isinstance(value, Iterable):
        raise TypeError(f"`history` must be a sequence of steps, got {value!r}. For example {example}.")
    history = tuple(value)
    for index, step in enumerate(history):
        function(step, f"history[{index}]", example)
    return history


# ---- schedules and budgets ------------------------------------------------------------------------------------------


def share(value: Any, argument: str) -> float:
    """Read a number in [0, 1]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"`{argument}` must be a number in [0, 1], got {value!r}. For example {argument}=0.9.")
    if not 0 <= value <= 1:
        raise ValueError(f"`{argument}` must be a number in [0, 1], got {value!r}. For example {argument}=0.9.")
    return float(value)


def positive(value: Any, argument: str, example: str) -> float:
    """Read a positive finite number."""
    number = order(value, argument)
    if not 0 < number < float("inf"):
        raise ValueError(f"`{argument}` must be positive and finite, got {value!r}. For example {example}.")
    return number


def step(value: Any) -> Any:
    """Read a step: an int, or a 0-d integer tensor as int64."""
    if isinstance(value, Tensor) and value.dim() == 0 and value.dtype in (_INTEGER | {torch.uint8}):
        return value.long()
    if isinstance(value, (Tensor, bool)) or not isinstance(value, (int, np.integer)):
        shown = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"a step must be an int or a 0-d integer tensor, got {shown}. For example 100.")
    return int(value)


def window(every: Any, start: Any, stop: Any) -> tuple[int, int, int | None]:
    """Read the steps of updates."""
    between, first = integer(every, "every", "every=100"), integer(start, "start", "start=0")
    last = None if stop is None else integer(stop, "stop", "stop=1000")
    if between < 1:
        raise ValueError(f"`every` must be at least 1, got {every}. For example every=100.")
    if last is not None and last <= first:
        raise ValueError(f"`stop` must be after `start`, got start={start} and stop={stop}.")
    return between, first, last


def joined(parts: Any, boundaries: Any) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Read schedules and the steps between them."""
    if not isinstance(parts, Sequence) or not parts or not all(map(callable, parts)):
        raise TypeError(f"`parts` must be schedules, got {parts!r}. For example [one_shot(0.0), cubic(0.9, stop=100)].")
    steps = tuple(integer(b, "boundaries", "[100, 200]") for b in boundaries)
    if len(steps) != len(parts) - 1 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(
            f"`boundaries` must be {len(parts) - 1} increasing steps, one between each two parts, got {list(steps)}."
        )
    return tuple(parts), steps


def least(value: Any, size: int, name: str) -> int:
    """Read how many elements a tensor keeps at least."""
    count = integer(value, "least", "least=1")
    if not 0 <= count <= size:
        raise ValueError(f"`least` must be between 0 and the size {size} of {name!r}, got {count}. Fix that tensor.")
    return count


def reachable(
    sparsity: float, alive: float, fewest: float, most: float, sizes: Mapping[str, int], given: Mapping[str, float]
) -> None:
    """Refuse a sparsity that the tensors which are not fixed cannot make up for."""
    slack = 1e-9 * sum(sizes.values())
    if fewest - slack <= alive <= most + slack:
        return
    everything = max(sum(sizes.values()), 1)
    low, high = (sparsity + (alive - bound) / everything for bound in (most, fewest))
    raise ValueError(
        f"`sparsity` must be between {low:.6g} and {high:.6g} with these `fixed` and `least`, got {sparsity}. "
        f"Fixed are: {dict(given)}."
    )


def patterns_fit(patterns: Any, names: Iterable[str], fits: Any) -> None:
    """Refuse a pattern that fits no name."""
    if not isinstance(patterns, Mapping):
        raise TypeError(f"`fixed` must be a mapping or a function, got {patterns!r}. For example {{'*.bias': 0.0}}.")
    known = list(names)
    idle = [p for p in patterns if not any(fits(n, p) for n in known)]
    if idle:
        raise ValueError(f"`fixed` has names that fit no tensor: {idle}. The tensors: {known}.")


def reconstructed(weight: Any, hessian: Any, groups: Any, kinds: tuple[type, ...], block: Any, damping: Any) -> None:
    """Check a weight, the Hessian of its inputs, and how it is pruned block by block."""
    for tensor, argument in ((weight, "weight"), (hessian, "hessian")):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            shown = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"`{argument}` must be a floating tensor, got {shown}.")
    if weight.dim() != 2 or hessian.shape != (weight.shape[1],) * 2:
        raise ValueError(
            f"`weight` must have shape (out, in) and `hessian` (in, in), got {tuple(weight.shape)} and "
            f"{tuple(hessian.shape)}. Flatten a convolution's kernel: weight.flatten(1)."
        )
    along = (-1, 1) if hasattr(groups, "of") else (0, -2)
    if not isinstance(groups, kinds) or getattr(groups, "dim", along[0]) not in along:
        raise TypeError(f"`groups` must be elements(), rows() or windows(of) along the inputs, got {groups!r}.")
    columns = integer(block, "block", "block=128")
    if columns < 1 or (hasattr(groups, "of") and columns % groups.of):
        raise ValueError(f"`block` must be a positive multiple of the windows, got {block} for {groups!r}.")
    if not 0 <= order(damping, "damping") < float("inf"):
        raise ValueError(f"`damping` must be at least 0 and finite, got {damping!r}. For example damping=0.01.")
