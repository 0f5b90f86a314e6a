"""A language model pruned block by block, from a folder to a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from masklib.budgets._scores import by_outliers

from .. import oneshot
from ..files import load_masks
from ..files._report import by_reason
from ..files._targets import folder_target
from ..oneshot._asked import Asked, asked
from ..oneshot._streaming import MaskFiles, outlier_shares, stream
from ..report._table import percent, rich_table
from ._language import read_text, refuse_foreign, refuse_long, skeleton, windows
from ._methods import Choice
from ._rules import chosen_rule
from ._talk import BadCall, console
from ._walk import Walk


def prune_blocks(
    source: Path,
    target: str | None,
    choice: Choice,
    walk: Walk,
    names: list[str] | None,
    masks: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Prune a folder block by block, and say what became of it; the arguments are the command's."""
    rule, number = chosen_rule(choice)
    if dry_run:
        raise BadCall(f"`--dry-run` says nothing to `--method {choice.method}`, which runs the pruned model")
    if walk.calibration is None:
        raise BadCall(f"`--method {choice.method}` needs a text: give --calibration FILE")
    if target is None:
        raise BadCall("TARGET is missing")
    work = _work(folder_target(target), walk.resume)
    text = read_text(walk.calibration, "--calibration")
    model, tokenizer = skeleton(source)
    length = walk.length or 2048
    refuse_long(length, model.config)
    parts = windows(tokenizer, text, length, walk.samples or 128, "--calibration")
    refuse_foreign(parts, model)
    batches = [{"input_ids": ids[None]} for ids in parts]
    numbers = dict.fromkeys(("amount", "keep", "sparsity")) | number
    alive = None if masks is None else _alive(masks, model, source)
    with _progress() as tell:
        call = asked(model, batches, rule, numbers, alive, None, None, not walk.go_on, walk.device, tell)
        budget = None if choice.budget is None else choice.sparsity
        call = _shared_out(_named(call, names), budget, source, model, work)
        with _kept(work):
            report = stream(source, target, model, call, MaskFiles(None, walk.save_masks), work)
    _show(report, target)
    if as_json:
        print(json.dumps(_plain(report), indent=2))
    return 0


# ---- before ---------------------------------------------------------------------------------------------------------


def _work(target: Path, resume: bool) -> Path:
    """The folder of work, beside the target."""
    work = target.with_name(f"{target.name}.unfinished")
    if work.exists() and not resume:
        raise ValueError(
            f"{str(work)!r} is what an interrupted call left: pass --resume to go on, or remove it to begin anew"
        )
    return work


def _alive(file: Path, model: Any, source: Path) -> dict[str, Tensor]:
    """The masks of a file by the names of the model: it may say that they are the checkpoint's, or have these alone."""
    found = load_masks(file)
    said = found.history[-1]["with"].get("names") if found.history else None
    known = dict(model.named_parameters())
    if said == "checkpoint" or (said is None and any(name not in known for name in found.masks)):
        return oneshot.to_model(found.masks, model, source)
    return found.masks


def _named(call: Asked, patterns: list[str] | None) -> Asked:
    """Of the weights those that names or globs fit."""
    if not patterns:
        return call
    idle = [p for p in patterns if not any(fnmatchcase(n, p) for n in call.sites)]
    if idle:
        raise ValueError(
            f"`--names` has {idle[0]!r}, which fits no weight in the blocks, such as {next(iter(call.sites))!r}"
        )
    sites = {n: s for n, s in call.sites.items() if any(fnmatchcase(n, p) for p in patterns)}
    others = {n: "not chosen" for n in call.sites if n not in sites}
    return call._replace(sites=sites, left_out=call.left_out | others)


def _shared_out(call: Asked, sparsity: float | None, source: Path, model: Any, work: Path) -> Asked:
    """With a sparsity for each weight, if a budget shares it out."""
    if sparsity is None:
        return call
    shares = outlier_shares(source, model, call, work)
    params = {name: site.param for name, site in call.sites.items()}
    return call._replace(numbers=call.numbers | {"sparsity": by_outliers(params, shares, sparsity)})


@contextmanager
def _kept(work: Path) -> Iterator[None]:
    """Say what is left of a call that fails or is interrupted."""
    try:
        yield
    except BaseException as error:
        if str(error).startswith("`work`"):  # another call's
            raise ValueError(str(error).removeprefix("`work` ")) from None
        if str(error).startswith(own := "`checkpoint_mask_file`"):
            raise ValueError(f"`--save-masks`{str(error).removeprefix(own)}") from None
        if work.exists():
            print(f"Finished blocks lie in {work}; the same call with --resume goes on with them.", file=sys.stderr)
        raise


# ---- what is said ---------------------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Any]:
    """Show on a terminal how many blocks are finished: `tell(finished, blocks)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    to = console(sys.stderr)
    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as shown:
        task = shown.add_task("blocks", total=None)
        yield lambda finished, blocks: shown.update(task, completed=finished, total=blocks)


def _show(report: oneshot.Pruned, target: str) -> None:
    """The table, and what it does not say, on stderr."""
    layers = report.layers
    rows = [(n, f"{x.size - x.kept:,}", percent(1 - x.kept / x.size), percent(x.error)) for n, x in layers.items()]
    dead, size = _total(layers)
    to = console(sys.stderr)
    to.print(
        rich_table("", ("weight", "dead", "sparsity", "error"), rows, ("all", f"{dead:,}", percent(dead / size), ""))
    )
    for reason, names in by_reason(report.left_out).items():
        to.print(f"left out: {', '.join(names)}: {reason}", markup=False)
    to.print(f"Written: {target}", markup=False)


def _total(layers: Mapping[str, oneshot.Layer]) -> tuple[int, int]:
    return sum(x.size - x.kept for x in layers.values()), max(sum(x.size for x in layers.values()), 1)


def _plain(report: oneshot.Pruned) -> dict[str, Any]:
    """The report as JSON has it."""
    dead, size = _total(report.layers)
    layers = {
        n: {"block": x.block, "size": x.size, "dead": x.size - x.kept, "inputs": list(x.inputs), "error": x.error}
        for n, x in report.layers.items()
    }
    return {"weights": layers, "size": size, "dead": dead, "sparsity": dead / size, "left_out": dict(report.left_out)}
