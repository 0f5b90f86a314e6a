"""What a GPU gives: first the same masks as the CPU, to the bit, then how fast and with how many waits.

    python tests/benchmarks/cuda.py                       # at most eight minutes
    python tests/benchmarks/cuda.py --device cpu --quick  # a dry run of a few seconds

Every method of tests/registry.py is called with hostile inputs on the CPU and on the device; masks and refusals must
be equal. The table then has, for each work, the median time, the time of `torch.nn.utils.prune` (or of `topk` and
scatter), how much of the memory bandwidth was used (a fair floor is two reads of the scores and one write of the mask,
at the speed of a copy), the synchronisations a call, and the extra peak memory a weight, the mask included.

Exits with 1 if a mask differs. Needs masklib's `testing` extra; `rich` draws the table if it is there.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # in place of this script's own folder, where torch would find it when it looks for `cuda`
    sys.path[0] = str(Path(__file__).parents[1])

import numpy
import torch
from hostile import check, draw
from torch.nn.utils import prune

import masklib as ml


class Row(NamedTuple):
    """A line of the table: what is measured, by whom, and the bytes that the floor moves."""

    work: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None
    weights: int
    floor: int


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds a call, the device's own work included; after one call to warm up, for at most about two seconds."""
    work()
    wait(device)
    times: list[float] = []
    while len(times) < repeats and sum(times) < 2:
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def synchronisations(work: Callable[[], Any], device: torch.device) -> str:
    """How often one call waits for the device, as torch counts it."""
    if device.type != "cuda":
        return "-"
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return str(sum("synchronizing" in str(each.message) for each in seen))


def extra(work: Callable[[], Any], device: torch.device, weights: int) -> str:
    """Peak memory of one call beyond what was held before it, in bytes a weight."""
    if device.type != "cuda":
        return "-"
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    mask = work()
    wait(device)
    del mask
    return f"{(torch.cuda.max_memory_allocated(device) - before) / weights:.1f}"


def bandwidth(device: torch.device, quick: bool) -> float:
    """Bytes a second that a copy moves, reads and writes together."""
    source = torch.ones(2**22 if quick else 2**28, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median(lambda: target.copy_(source), device, 20)


def original(tensor: torch.Tensor, method: Any) -> Callable[[], Any]:
    ones = torch.ones_like(tensor)
    return lambda: method.compute_mask(tensor, ones)


def topk_and_scatter(tensor: torch.Tensor, k: int) -> torch.Tensor:
    mask = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
    return mask.scatter_(-1, tensor.topk(k, dim=-1, largest=False).indices, False)


def row(
    work: str, method: Callable[..., Any], tensor: torch.Tensor, theirs: Callable[[], Any] | None = None, *masks: Any
) -> Row:
    moved = tensor.numel() * (2 * tensor.element_size() + 1)
    return Row(work, partial(method, tensor, *masks), theirs, tensor.numel(), moved)


def whole_tensors(device: torch.device, quick: bool) -> Iterator[Row]:
    half = partial(ml.l1_unstructured, amount=0.5)
    for n in (1000, 2**16) if quick else (1000, 2**20, 2**24, 2**27):
        tensor = draw((n,)).to(device)
        yield row(f"l1_unstructured, {n:,} fp32, 50 %", half, tensor, original(tensor, prune.L1Unstructured(0.5)))
    normal = draw((2**16 if quick else 2**24,)).to(device)
    yield row("  sorted", half, normal.abs().sort().values)
    yield row("  heavily tied (8 values)", half, (normal * 2).round())
    yield row("  all equal", half, torch.ones_like(normal))
    yield row("  half zero, 25 %", partial(ml.l1_unstructured, amount=0.25), normal.clamp(min=0))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        yield row(f"  {str(dtype)[6:]}", half, normal.to(dtype))
    yield row("  int8", half, (normal * 30).to(torch.int8))
    yield row("  transposed", half, normal.view(256, -1).t())
    yield row("  99 %", partial(ml.l1_unstructured, amount=0.99), normal)
    yield row("  second round, on the surviving half", half, normal, None, half(normal))
    yield row("  random_unstructured", partial(ml.random_unstructured, key=0, amount=0.5), normal)


def short_pools(device: torch.device, quick: bool) -> Iterator[Row]:
    side = 256 if quick else 4096
    weight = draw((side, side)).to(device)
    size = weight.abs()
    for keep, of in ((2, 4), (4, 8), (4, 16), (8, 32)):
        others = partial(topk_and_scatter, size.view(-1, of), of - keep)
        yield row(f"{keep}:{of} on {side} x {side}", partial(ml.n_of_m, keep=keep, of=of), size, others)
    for name, groups, folded in (("row", ml.rows(), size), ("column", ml.rows(-1), size.t().contiguous())):
        others = partial(topk_and_scatter, folded, side // 2)
        yield row(
            f"50 % of each {name}, {side} x {side}", partial(ml.compute_mask, amount=0.5, groups=groups), size, others
        )
    theirs = original(weight, prune.LnStructured(0.5, n=2, dim=0))
    yield row(
        f"50 % of rows by L2 norm, {side} x {side}", partial(ml.ln_structured, n=2, dim=0, amount=0.5), weight, theirs
    )


def model(device: torch.device, quick: bool) -> dict[str, torch.Tensor]:
    """72 matrices with 85 M weights, the shapes of a 12-layer transformer."""
    wide = 24 if quick else 768
    shapes = [(wide, wide)] * 4 + [(4 * wide, wide), (wide, 4 * wide)]
    return {f"{layer:02}.{i}": draw(s, i).to(device) for layer in range(12) for i, s in enumerate(shapes)}


def global_original(params: dict[str, torch.Tensor]) -> None:
    modules = [torch.nn.Module() for _ in params]
    for module, p in zip(modules, params.values()):
        module.weight = torch.nn.Parameter(p)
    prune.global_unstructured([(m, "weight") for m in modules], prune.L1Unstructured, amount=0.5)


def mapping(device: torch.device, quick: bool) -> Iterator[Row]:
    params = model(device, quick)
    weights = sum(p.numel() for p in params.values())
    ours = partial(ml.l1_unstructured, params, amount=0.5)
    yield Row(
        f"72 matrices, {weights:,} weights, global 50 %", ours, partial(global_original, params), weights, 9 * weights
    )
    kept = ml.l1_unstructured(params, amount=0.5)
    yield Row("  apply", partial(ml.apply, params, kept), None, weights, 9 * weights)
    yield Row("  sparsity", partial(ml.sparsity, kept), None, weights, weights)


HEADINGS = ("work", "masklib", "other", "faster", "of bandwidth", "waits", "bytes a weight", "other's bytes")


def measured(row: Row, device: torch.device, speed: float, repeats: int) -> tuple[str, ...]:
    ours = median(row.ours, device, repeats)
    theirs = None if row.theirs is None else median(row.theirs, device, max(3, repeats // 4))
    return (
        row.work,
        f"{1e3 * ours:.3f} ms",
        "" if theirs is None else f"{1e3 * theirs:.3f} ms",
        "" if theirs is None else f"{theirs / ours:.1f} x",
        f"{row.floor / speed / ours:.0%}",
        synchronisations(row.ours, device),
        extra(row.ours, device, row.weights),
        "" if row.theirs is None else extra(row.theirs, device, row.weights),
    )


def table(device: torch.device, quick: bool, until: float) -> Iterator[tuple[str, ...]]:
    """One line a work; a work that fails or comes too late says so in its line."""
    speed, repeats = bandwidth(device, quick), 3 if quick else 25
    yield ("a copy, reads and writes together", f"{speed / 1e9:.0f} GB/s", *[""] * (len(HEADINGS) - 2))
    for each in itertools.chain(whole_tensors(device, quick), short_pools(device, quick), mapping(device, quick)):
        if time.monotonic() > until:
            yield (each.work, "no time left", *[""] * (len(HEADINGS) - 2))
            continue
        try:
            yield measured(each, device, speed, repeats)
        except Exception as error:  # the other lines are worth having
            yield (each.work, type(error).__name__, str(error)[:60], *[""] * (len(HEADINGS) - 3))


def show(lines: list[tuple[str, ...]]) -> None:
    """Print the table, with `rich` if it is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(line[i]) for line in [HEADINGS, *lines]) for i in range(len(HEADINGS))]
        for line in [HEADINGS, *lines]:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
        return
    drawn = Table()
    for heading in HEADINGS:
        drawn.add_column(heading, justify="left" if heading == "work" else "right", no_wrap=True)
    for line in lines:
        drawn.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 150).print(drawn)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", type=torch.device, help="where to measure; cpu is a dry run")
    parser.add_argument("--quick", action="store_true", help="few calls, small sizes")
    parser.add_argument("--minutes", type=float, default=8, help="how long it may take; default 8")
    options = parser.parse_args(arguments)
    device, start = options.device, time.monotonic()
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; for a dry run pass --device cpu --quick")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{card}; torch {torch.__version__}, CUDA {torch.version.cuda}, numpy {numpy.__version__}", flush=True)
    count, wrong = check(device, options.quick, start + 60 * options.minutes / 2)
    print(f"{count:,} calls compared with the CPU in {time.monotonic() - start:.0f} s, {len(wrong)} differ")
    for name in wrong[:30]:
        print("  differs:", name)
    show(list(table(device, options.quick, start + 60 * options.minutes * 0.93)))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
