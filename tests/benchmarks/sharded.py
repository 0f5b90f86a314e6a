"""Masks of sharded weights: time, and what crosses between the ranks.

    python tests/benchmarks/sharded.py [weights [call]]

Each line is one call, the median of a few, on every rank of a mesh at once; one rank has a plain tensor. `clock` is
until the last rank is done, `cpu` the processor time of one rank, `sent` what the loopback device carried, divided by
the ranks: what one rank sends. The processes have one thread each; where there are fewer cores than ranks, or others
use them, the clock says how busy the cores were.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # not this folder, whose modules have names of others

import statistics  # noqa: E402
import time  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from sharded.crew import run  # noqa: E402
from torch.distributed.tensor import DTensor, Shard  # noqa: E402

import masklib as ml  # noqa: E402

SIZES = [10_000_000, 100_000_000]
COLUMNS = 1000
REPEATS = 3


def half(scores: Any) -> Any:
    return ml.l1_unstructured(scores, amount=0.5)


def two_of_four(scores: Any) -> Any:
    return ml.n_of_m(scores, keep=2, of=4)


CALLS = {
    "one pool": (half, 0),
    "one pool, all equal": (half, 0),
    "one pool, dim 1 sharded": (half, 1),
    "at random": (partial(ml.random_unstructured, key=0, amount=0.5), 0),
    "2:4": (two_of_four, 0),
    "rows": (partial(ml.compute_mask, amount=0.5, groups=ml.rows()), 0),
    "channels(0)": (partial(ml.compute_mask, amount=0.5, groups=ml.channels(p=2)), 0),
    "channels(1), all cut": (partial(ml.compute_mask, amount=0.5, groups=ml.channels(1, p=2)), 0),
    "rows(1), all cut": (partial(ml.compute_mask, amount=0.5, groups=ml.rows(1)), 0),
}


def carried() -> int:
    """Bytes that the loopback device has carried."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()[8])


def measured(mesh: Any, name: str, rows: int) -> tuple[float, float, float]:
    """Seconds of the clock and of this rank's processor, and bytes a rank."""
    call, dim = CALLS[name]
    part = torch.randn(rows // mesh.size() if dim == 0 else rows, COLUMNS // (1 if dim == 0 else mesh.size()))
    scores = whole_of(torch.ones_like(part) if "equal" in name else part, mesh, dim)
    clocks, cpu, sent = [], [], []
    for _ in range(REPEATS):
        torch.distributed.barrier(group=mesh.get_group())
        bytes_before, start, own = carried(), time.perf_counter(), time.process_time()
        call(scores)
        cpu.append(time.process_time() - own)
        torch.distributed.barrier(group=mesh.get_group())
        clocks.append(time.perf_counter() - start)
        sent.append((carried() - bytes_before) / mesh.size())
    return statistics.median(clocks), statistics.median(cpu), statistics.median(sent)


def whole_of(part: torch.Tensor, mesh: Any, dim: int) -> Any:
    """A DTensor of parts that each rank made itself; on one rank, the plain tensor."""
    return part if mesh.size() == 1 else DTensor.from_local(part, mesh, [Shard(dim)], run_check=False)


def main() -> None:
    """Print a table for each number of weights."""
    sizes = [int(float(size)) for size in sys.argv[1:2]] or SIZES
    for size in sizes:
        print(f"\n{size:,} weights (float32)\n{'':<26}{'ranks':>6}{'clock ms':>10}{'cpu ms':>9}{'sent KB a rank':>16}")
        for name in (n for n in CALLS if n.startswith(" ".join(sys.argv[2:]))):
            for ranks in (1, 2, 4):
                results = run(measured, name, size // COLUMNS, mesh=(ranks,), seconds=300)
                clock, cpu, sent = (max(r[i] for r in results) for i in range(3))
                print(f"{name:<26}{ranks:>6}{1e3 * clock:>10.0f}{1e3 * cpu:>9.0f}{sent / 1e3:>16.1f}", flush=True)


if __name__ == "__main__":
    main()
