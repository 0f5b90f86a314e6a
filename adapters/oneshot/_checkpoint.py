"""A checkpoint pruned block by block: of the model one block at a time is in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._module.values import a_module
from ._asked import Progress, asked
from ._report import Pruned
from ._rules import Rule
from ._walk import walk


def prune_checkpoint(
    source: Any,
    target: Any,
    model: nn.Module,
    batches: Iterable[Any],
    rule: Rule,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    default_masks: Mapping[str, Tensor] | None = None,
    names: Collection[str] | None = None,
    blocks: Sequence[str] | None = None,
    strict: bool = True,
    mask_file: Any = None,
    work: Any = None,
    device: Any = None,
    progress: Progress | None = None,
) -> Pruned:
    """Prune a checkpoint as `prune` does a model, with one block of it at a time in memory.

        target[name] = what prune(model with the values of source, ...) makes of name

    What is in memory at a time is a block twice, what the rule gathers of its inputs, and one hidden state; the others
    lie in the folder of work. Before the first block it is that one, and all that is not in the blocks.

    Args:
        source: a folder with safetensors files and their index, if there are several; or one file.
        target: a new folder for a folder, into which all else comes along as it is: other tensors, the index,
            configuration, tokenizer; a file for a file. It appears whole or not at all.
        model: of the same names and shapes, its parameters on the meta device, its buffers not:
            `with accelerate.init_empty_weights(): model = AutoModelForCausalLM.from_config(config)`, then
            `model.tie_weights()`. It is left as it is.
        batches, rule, amount, keep, sparsity, default_masks, names, blocks, strict, progress: as for `prune`.
        mask_file: where the masks are written, as `save_masks` does it; None for nowhere.
        work: a folder beside which nothing else is needed to go on: blocks that are finished are kept in it if the call
            is interrupted, and taken from it by the same call. It takes as much room as the weights to prune, and as
            the hidden states, and is removed at the end. None for one that is removed in any case.
        device: where the block at hand is computed; None for the CPU.

    Returns:
        A report as that of `prune`, whose `masks` are empty: they lie in `mask_file`.

    Raises:
        TypeError, ValueError: as `prune`; and if the model has values, its buffers have none, or the checkpoint does
            not have its tensors under their names, such as experts that are put together when they are loaded. No
            target is written then.
        OSError: if the system refuses to read or to write. No target is written then.

    Reference: as for `prune`.
    """
    from ..files._masks import join_masks
    from ..files._names import a_path, named
    from ..files._places import place_of
    from ..files._prune import streamable
    from ..files._targets import file_target
    from ._stored import Stored, refuse_values
    from ._work import working

    a_module(model, "model")
    refuse_values(model)
    numbers = {"amount": amount, "keep": keep, "sparsity": sparsity}
    call = asked(model, batches, rule, numbers, default_masks, names, blocks, strict, device, progress)
    path = a_path(source, "source")
    with named("source"):
        checkpoint = streamable(path)
    goal = place_of(checkpoint, path, target)
    if mask_file is not None:
        file_target(mask_file, "mask_file")
    place = Stored(model, checkpoint, call.blocks, call.device)
    with _folder(work, goal) as folder, working(folder, call, place) as (record, states):
        found = walk(model, call, place, record, states)
        indices = range(len(call.blocks))
        if mask_file is not None:
            join_masks(mask_file, [record.masks(i) for i in indices])
        left = _write(checkpoint, path, goal, place.names, [record.weights(i) for i in indices])
    found.left_out.update(dict.fromkeys(left, "beside the checkpoint, and no part of it"))
    return found


@contextmanager
def _folder(work: Any, target: Path) -> Iterator[Any]:
    """The folder of work, or one that is removed in any case."""
    if work is not None:
        yield work
        return
    from ..files._atomic import scratch_folder

    with scratch_folder(target) as folder:
        yield folder


def _write(checkpoint: Any, source: Path, target: Path, names: Mapping[str, str], blocks: list[Path]) -> list[str]:
    """Write the checkpoint with the weights of the blocks; return what of the folder does not come along."""
    from ..files._checkpoint import open_checkpoint
    from ..files._places import is_folder, write_file, write_folder
    from ..files._reading import Counter, reading
    from ..files._rewriting import Plan

    new = open_checkpoint(blocks)
    with reading(checkpoint, Counter(None)) as files, reading(new, Counter(None)) as fresh:
        stored: dict[str, Any] = {name: files.tensor(entry) for name, entry in checkpoint.entries.items()}
        for name, entry in new.entries.items():
            stored[names[name]] = fresh.tensor(entry).to(stored[names[name]].dtype)
        plan = Plan(stored, {}, files.counter)
        if is_folder(checkpoint, source):
            return write_folder(checkpoint, plan, target, files)[1]
        write_file(checkpoint, plan, target, files)
        return []
