"""Pruning of checkpoints of any size: ranked as a stream, written as a stream."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from masklib import _read, algebra, history

from ._checkpoint import Checkpoint, open_checkpoint
from ._mask_stream import given_masks
from ._names import a_path, named, shown
from ._picking import Names, as_ranked, picked
from ._places import is_folder, place_of, write_file, write_folder
from ._reading import Counter, Reading, reading
from ._report import Pruned, Report
from ._rewriting import Plan, rewrite
from ._tied import tied_names

Progress = Callable[[int, int], None]  # from the bytes read and the bytes written so far


def prune_checkpoint(
    source: Any, target: Any, method: Any, *, names: Names = None, masks: Any = None, progress: Progress | None = None
) -> Report:
    """Prune a checkpoint of any size, as one pool, in constant memory.

        target[name] = where(mask, source[name], 0),    mask = method(source, masks)[name]

    The method sees a mapping of tensors that lie in the files and are read chunk by chunk: once or twice to rank single
    elements, once more to write. Masks of single elements are to the bit those of the same call in memory.

    Args:
        source: a `.safetensors` file; a folder with one, or with shards and their index; or that index.
        target: a file for a file, which may be the source itself, and a new folder for a folder, into which all else
            comes along as it is: other tensors, metadata, the index, configuration, tokenizer. It appears whole or not
            at all. None writes nothing: the report says what would become of it.
        method: `method(scores, default_mask) -> mask` that needs no data, such as `partial(l1_unstructured,
            sparsity=0.5)`, or a history of them. It sees the weights by name; those of float8 in float32.
        names: which tensors are pruned: names, globs (of floating tensors of two dims or more), or a function
            `(name, tensor) -> bool`. None for floating tensors of two dims or more that by their names are neither
            biases nor embeddings, nor equal to an embedding; docs/recipes/large-checkpoint.md has the rule.
        masks: bool by name, or a file of `save_masks`: what is alive before. A tensor without a mask is alive.
        progress: is called with the bytes read and the bytes written so far, from any thread.

    Returns:
        What became of each tensor, and why the others were left as they are.

    Raises:
        ValueError: if a live weight is NaN, nothing is picked, the method needs a whole tensor at once, or a file does
            not add up; and as the method raises. Nothing is written then.
        TypeError: if an argument is not what it should be, or the method returns no masks.
        OSError: if the system refuses to read or to write, or the disk is too small. Nothing is written then.

    >>> import tempfile, safetensors.torch
    >>> a, b = (f"{tempfile.mkdtemp()}/{name}.safetensors" for name in "ab")
    >>> safetensors.torch.save_file({"fc.weight": torch.tensor([[3.0, -1.0], [0.5, 2.0]])}, a)
    >>> prune_checkpoint(a, b, partial(masklib.l1_unstructured, sparsity=0.5)).sparsity
    0.5
    >>> open_checkpoint(b)["fc.weight"]
    tensor([[3., 0.],
            [0., 2.]])
    """
    path, step = a_path(source, "source"), _step(method)
    if progress is not None:
        _read.function(progress, "progress", "progress=print")
    with named("source"):
        checkpoint = streamable(path)
    place = None if target is None else place_of(checkpoint, path, target)
    _refuse_masks_as_target(masks, place)
    counter, left = Counter(progress), list[str]()
    with reading(checkpoint, counter) as files, given_masks(masks) as given:
        plan, tied, skipped = _planned(checkpoint, files, step, names, given)
        if place is None:
            dead = {n: c for header in checkpoint.headers.values() for n, c in rewrite(header, plan, None).items()}
        elif is_folder(checkpoint, path):
            dead, left = write_folder(checkpoint, plan, place, files)
        else:
            dead = write_file(checkpoint, plan, place, files)
    pruned = {n: Pruned(e.shape, e.dtype, dead[n], tied.get(n)) for n, e in checkpoint.entries.items() if n in dead}
    return Report(pruned, skipped, tuple(left), counter.read, counter.written)


def _planned(
    checkpoint: Checkpoint, files: Reading, method: Any, names: Names, masks: Any
) -> tuple[Plan, dict[str, str], dict[str, str]]:
    """The mask of each tensor that is pruned, what is stored twice, and why the others are not pruned."""
    stored = {name: files.tensor(entry) for name, entry in checkpoint.entries.items()}
    tied = tied_names(checkpoint.entries.values(), files)
    picks, skipped = picked(stored, names, tied)
    weights = {name: as_ranked(name, stored[name]) for name in picks}
    result = method(weights, None if masks is None else _starts(masks, weights, skipped))
    kept = _read.masks(result, weights, "method(scores, default_mask)", "scores")
    twins = {name: kept[first] for name, first in tied.items() if first in kept}
    return Plan(stored, {**kept, **twins}, files.counter), tied, skipped


def _refuse_masks_as_target(masks: Any, place: Path | None) -> None:
    """Refuse to write over the masks."""
    if place is None or not isinstance(masks, (str, Path)) or not (place.exists() and Path(masks).exists()):
        return
    if os.path.samefile(masks, place):
        raise ValueError(f"`target` must be another file than `masks`, got {str(masks)!r} for both.")


def _starts(masks: Any, weights: Mapping[str, Tensor], skipped: Mapping[str, str]) -> dict[str, Tensor]:
    """What is alive before, of all that is pruned."""
    for name in _read.mapping(masks, "masks"):
        if name not in weights:
            why = skipped.get(name, "it has no such tensor")
            raise ValueError(
                f"`masks` must be of tensors that are pruned, got {shown(name)}, which stays as it is: {why}. "
                "Leave it out, or pass it in `names` too."
            )
    read = _read.masks(masks, {name: weights[name] for name in masks}, "masks", "source")
    return {name: read[name] if name in read else algebra.dense(tensor) for name, tensor in weights.items()}


# ---- what is refused ------------------------------------------------------------------------------------------------


def streamable(path: Path) -> Checkpoint:
    """Refuse a checkpoint that is not in safetensors files: others cannot be written without a pickle."""
    checkpoint = open_checkpoint(path)
    others = [file.name for file in checkpoint.files if file not in checkpoint.headers]
    if others:
        raise ValueError(
            f"`source` must be a safetensors file or a folder of them, got {shown(others)}. Convert it: "
            "safetensors.torch.save_file(dict(open_checkpoint(source)), 'model.safetensors')."
        )
    return checkpoint


def _step(method: Any) -> Any:
    """Read a method, or a history as one."""
    if callable(method):
        return method
    if not isinstance(method, (list, tuple)):
        raise TypeError(
            f"`method` must be a method with its numbers bound, or a history of them, got {shown(method)}. "
            "For example partial(masklib.l1_unstructured, sparsity=0.5)."
        )
    return history.chain(*method)
