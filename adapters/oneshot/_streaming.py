"""From a checkpoint to a pruned one, with one block at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masklib import scores
from masklib.budgets._scores import outlier_share

from ..files._atomic import scratch_folder
from ..files._checkpoint import Checkpoint, open_checkpoint
from ..files._masks import join_masks, mask_target
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


def stream(source: Any, target: Any, model: nn.Module, call: Asked, mask_file: Any, work: Any) -> Pruned:
    """Walk through a model whose values are in a checkpoint, and write another one."""
    refuse_values(model)
    path = a_path(source, "source")
    with named("source"):
        checkpoint = streamable(path)
    goal = place_of(checkpoint, path, target)
    _refuse_places(path, goal, mask_file, work)
    place = Stored(model, checkpoint, call.blocks, call.device)
    with _folder(work, goal) as folder, working(folder, call, place) as (record, states):
        found = walk(model, call, place, record, states)
        indices = range(len(call.blocks))
        if mask_file is not None:
            join_masks(mask_file, [record.masks(i) for i in indices])
        left = _write(checkpoint, path, goal, [record.weights(i) for i in indices])
    found.left_out.update(dict.fromkeys(left, "beside the checkpoint, and no part of it"))
    return found


def _refuse_places(source: Path, target: Path, mask_file: Any, work: Any) -> None:
    """Refuse places of which one would be lost with another."""
    folders = {"source": source, "target": target}
    if work is not None:
        folders["work"] = a_path(work, "work")
        apart(folders["work"], "work", {"target": target})
        apart(target, "target", {"work": folders["work"]})
    if mask_file is not None:
        apart(a_path(mask_file, "mask_file"), "mask_file", folders)
        mask_target(mask_file, "mask_file")


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
