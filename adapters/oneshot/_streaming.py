"""From a checkpoint to a pruned one, with one block at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from masklib import scores
from masklib.budgets._scores import outlier_share

from ..files._atomic import scratch_folder
from ..files._checkpoint import Checkpoint, open_checkpoint
from ..files._history import Told, history_told
from ..files._masks import join_masks, load_masks, mask_target, save_masks
from ..files._names import a_path, named
from ..files._places import is_folder, place_of, write_file, write_folder
from ..files._prune import streamable
from ..files._reading import Counter, reading
from ..files._rewriting import Plan
from ..files._targets import apart
from ._asked import Asked
from ._report import Pruned
from ._rules import Rule
from ._stored import Stored, refuse_values
from ._walk import Nowhere, walk
from ._work import OnDisk, working


def outlier_shares(source: Any, model: nn.Module, call: Asked, work: Path) -> dict[str, float]:
    """The share of outliers among the Wanda scores of each dense weight, for `budgets.owl`; nothing is written.

    Args:
        source, model: as for `prune_checkpoint`.
        call: what is asked; its rule and numbers are not looked at.
        work: where a folder may lie for hidden states.
    """
    refuse_values(model)
    place = Stored(model, streamable(source), call.blocks, call.device)
    shares: dict[str, list[float]] = {}

    def scored(weight: Tensor, state: Any, default_mask: Any, *, of: str) -> tuple[Tensor, Tensor]:
        shares.setdefault(of, []).append(outlier_share(scores.wanda(weight, state)))
        return weight, torch.ones_like(weight, dtype=torch.bool)

    dense = call._replace(rule=Rule(scores.add_input_norms, scored), numbers={"of": {n: n for n in call.sites}})
    with scratch_folder(work) as folder:
        walk(model, dense, place, Nowhere(), OnDisk(folder))
    return {name: sum(parts) / len(parts) for name, parts in shares.items()}


class MaskFiles(NamedTuple):
    """Where masks are written; None for nowhere."""

    mask_file: Any  # by the names of the model
    checkpoint_mask_file: Any  # by those of the checkpoint


def stream(source: Any, target: Any, model: nn.Module, call: Asked, mask_files: MaskFiles, work: Any) -> Pruned:
    """Walk through a model whose values are in a checkpoint, and write another one."""
    refuse_values(model)
    path = a_path(source, "source")
    with named("source"):
        checkpoint = streamable(path)
    goal = place_of(checkpoint, path, target)
    _refuse_places(path, goal, mask_files, work)
    place = Stored(model, checkpoint, call.blocks, call.device)
    with _folder(work, goal) as folder, working(folder, call, place) as (record, states):
        found = walk(model, call, place, record, states)
        indices = range(len(call.blocks))
        if mask_files.mask_file is not None:
            join_masks(mask_files.mask_file, [record.masks(i) for i in indices], _history(call, "model"))
        if mask_files.checkpoint_mask_file is not None:
            packed = [_packed(place, record.masks(i)) for i in indices]
            join_masks(mask_files.checkpoint_mask_file, packed, _history(call, "checkpoint"))
        left = _write(checkpoint, path, goal, [record.weights(i) for i in indices])
    found.left_out.update(dict.fromkeys(left, "beside the checkpoint, and no part of it"))
    return found


def _packed(place: Stored, path: Path) -> Path:
    """The masks of a block in a file beside it, by the names of the checkpoint."""
    packed = path.with_name(f"packed.{path.name}")
    save_masks(packed, place.packed_masks(load_masks(path).masks))
    return packed


def _history(call: Asked, names: str) -> list[Told]:
    """How masks came about, and whose names they have."""
    (step,) = history_told([call.rule.solve])
    numbers = {argument: value for argument, value in call.numbers.items() if value is not None}
    return [{"method": step["method"], "with": {**numbers, "names": names}}]


def _refuse_places(source: Path, target: Path, mask_files: MaskFiles, work: Any) -> None:
    """Refuse places of which one would be lost with another."""
    folders = {"source": source, "target": target}
    if work is not None:
        folders["work"] = a_path(work, "work")
        apart(folders["work"], "work", {"target": target})
        apart(target, "target", {"work": folders["work"]})
    for argument, file in mask_files._asdict().items():
        if file is not None:
            apart(a_path(file, argument), argument, folders)
            mask_target(file, argument)
            folders[argument] = a_path(file, argument)


@contextmanager
def _folder(work: Any, target: Path) -> Iterator[Any]:
    """The folder of work, or one that is removed in any case."""
    if work is not None:
        yield work
        return
    with scratch_folder(target) as folder:
        yield folder


def _write(checkpoint: Checkpoint, source: Path, target: Path, blocks: list[Path]) -> list[str]:
    """Write the checkpoint with the weights of the blocks; return what of the folder does not come along."""
    new = open_checkpoint(blocks)
    with reading(checkpoint, Counter(None)) as files, reading(new, Counter(None)) as fresh:
        stored: dict[str, Any] = {name: files.tensor(entry) for name, entry in checkpoint.entries.items()}
        for name, entry in new.entries.items():
            stored[name] = fresh.tensor(entry).to(stored[name].dtype)
        plan = Plan(stored, {}, files.counter)
        if is_folder(checkpoint, source):
            return write_folder(checkpoint, plan, target, files)[1]
        write_file(checkpoint, plan, target, files)
        return []
