"""The blocks of a model, and how it is run on batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from masklib import _read


def blocks_of(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """The blocks by name: those that are named, else the longest list of one type."""
    if names is not None:
        return {name: _named(model, name) for name in listed(names, "blocks", "['encoder.0', 'encoder.1']")}
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and _is_of_one_type(m)}
    if lists:
        name = max(lists, key=lambda n: len(lists[n]))
        return {f"{name}.{i}" if name else f"{i}": block for i, block in enumerate(lists[name])}
    if isinstance(model, nn.Sequential) and len(model):
        return dict(model.named_children())
    raise ValueError(
        f"`blocks` must be named for {type(model).__name__}, which has no ModuleList of one type. "
        "Pass the names of modules that follow one another, for example blocks=['encoder.0', 'encoder.1']."
    )


def listed(value: Any, argument: str, example: str) -> list[str]:
    """Read names."""
    several = isinstance(value, Collection) and _read.iterates(value)
    plain = several and not isinstance(value, (str, bytes, Tensor, Mapping))
    names = list(value) if plain else []
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`{argument}` must be a list of names, got {value!r}. For example {argument}={example}.")
    if len(set(names)) < len(names):
        raise ValueError(f"`{argument}` must have each name once, got {names}.")
    return names


def _is_of_one_type(modules: nn.ModuleList) -> bool:
    return len({type(m) for m in modules}) == 1


def _named(model: nn.Module, name: Any) -> nn.Module:
    found = dict(model.named_modules()).get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"`blocks` must name modules of {type(model).__name__}, got {name!r}.")
    return found


def first_of(outputs: Any) -> Any:
    """The hidden state that a block returns."""
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def batches_of(value: Any) -> list[Any]:
    """Read batches."""
    if isinstance(value, (Tensor, Mapping, str)) or not _read.iterates(value):
        raise TypeError(f"`batches` must be an iterable of batches, got {type(value).__name__}. For example [batch].")
    batches = list(value)
    if not batches:
        raise ValueError("`batches` must hold a batch at least, got none. For example [{'input_ids': ids}].")
    return batches


class Call(NamedTuple):
    """What a block is called with in one batch, but for the hidden state, which stands first."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def split(name: str, args: Any, kwargs: Any) -> tuple[Tensor, Call]:
    """The hidden state apart from the rest."""
    if args and isinstance(args[0], Tensor):
        return args[0], Call(tuple(args[1:]), dict(kwargs))
    state = kwargs.get("hidden_states")
    if not isinstance(state, Tensor):
        raise ValueError(f"{name!r} must be called with a tensor first, or as `hidden_states`. Pass other blocks=.")
    return state, Call(tuple(args), {n: v for n, v in kwargs.items() if n != "hidden_states"})


def run(model: nn.Module, batch: Any, argument: str = "batches") -> Any:
    """Call the model on a batch: a tensor, a tuple of arguments, or a mapping of keyword arguments."""
    args = batch if isinstance(batch, (tuple, list)) else () if isinstance(batch, Mapping) else (batch,)
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else next(iter(args), None)
    if isinstance(ids, Tensor) and not (ids.is_floating_point() or ids.is_complex() or ids.is_meta) and ids.numel():
        _refuse_unknown_tokens(model, ids, argument)
    try:
        return model(*args, **(batch if isinstance(batch, Mapping) else {}))
    except TypeError as error:
        kind = type(model).__name__
        raise TypeError(
            f"`{argument}` must hold what {kind} is called with: a tensor, a tuple of arguments, or a mapping of "
            f"keyword arguments, got {type(batch).__name__}: {error}"
        ) from error
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:  # of torch: a shape, a dtype, or a token that does not exist
        raise ValueError(
            f"`{argument}` must hold what {type(model).__name__} can be run on, such as ids of its own tokens of shape "
            f"(batch, length), got {_said(batch)}: {str(error).splitlines()[0]}"
        ) from error


def _refuse_unknown_tokens(model: nn.Module, ids: Tensor, argument: str) -> None:
    """Refuse ids that a language model has no embeddings of: on a GPU, looking them up ends all work of the process."""
    count = None
    with suppress(AttributeError, NotImplementedError):  # no language model, or one of pictures
        count = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    low, high = (int(end) for end in ids.long().aminmax())
    if isinstance(count, int) and not 0 <= low <= high < count:
        raise ValueError(
            f"`{argument}` must hold ids of the {count} tokens that {type(model).__name__} knows, got {low} to {high}. "
            "Is the tokenizer the model's?"
        )


def _said(batch: Any) -> str:
    """The tensors of a batch in a word each."""
    return ", ".join(
        f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)[:40]
        for leaf in pytree.tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
    )


def refuse_empty(model: nn.Module) -> None:
    """Refuse a model that is not in memory."""
    empty = next((name for name, param in model.named_parameters() if param.is_meta), None)
    if empty is not None:
        raise ValueError(
            f"`model` must have its values, and {empty!r} is on the meta device. Load it, or pass its checkpoint to "
            "oneshot.prune_checkpoint."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients and caches, and experts one by one; all as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    settings = [(c, n, v) for c in configs.values() for n, v in _QUIET.items() if hasattr(c, n)]
    before = [(c, n, getattr(c, n)) for c, n, _ in settings]
    try:
        model.eval()
        for config, name, value in settings:
            setattr(config, name, value)
        with torch.inference_mode(False), torch.no_grad():  # tensors that are inference's count no versions
            yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)
        for module, mode in modes.items():
            module.training = mode


_QUIET = {"use_cache": False, "_experts_implementation": "eager"}
