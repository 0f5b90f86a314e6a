"""Files: packing masks, saving and loading them, reading checkpoints.

    python tests/benchmarks/files.py [folder]

Figures are medians of interleaved repetitions on one thread: milliseconds of the thread's own processor time for what
computes, of the clock for what reads and writes. The files lie in the folder, a temporary one if there is none given;
what is read was written just now, so that the system still holds it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from masklib.adapters.files import load_masks, open_checkpoint, save_masks
from masklib.adapters.files._bits import ones, pack, packed_shape, unpack

REPEATS = 7
SIZE = 2**26  # weights


def medians(calls: dict[str, Callable[[], Any]], clock: Callable[[], float]) -> dict[str, float]:
    """The median time of each call in milliseconds, one after another and again."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def shown(title: str, values: dict[str, float]) -> None:
    """A table."""
    print(f"\n{title}")
    for name, value in values.items():
        print(f"  {name:<44} {value:9.1f} ms")


def in_torch(mask: torch.Tensor) -> torch.Tensor:
    """Packing without numpy, for comparison."""
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    return (mask.view(mask.shape[0], -1, 8).to(torch.uint8) * weights).sum(-1, dtype=torch.uint8)


def packing() -> None:
    """A mask of 64 Mi weights, in rows of several widths."""
    calls: dict[str, Callable[[], Any]] = {}
    for columns in (8192, 8191, 147, 27):
        mask = (torch.arange(SIZE // columns * columns, dtype=torch.int32) % 7 > 3).view(-1, columns)
        data = pack(mask)
        assert torch.equal(unpack(data, tuple(mask.shape)), mask)
        assert data.shape == packed_shape(tuple(mask.shape))
        calls[f"pack, rows of {columns}"] = lambda mask=mask: pack(mask)
        calls[f"unpack, rows of {columns}"] = lambda mask=mask, data=data: unpack(data, tuple(mask.shape))
        if columns == 8192:
            calls["count the bits"] = lambda data=data: ones(data)
            calls["pack in torch"] = lambda mask=mask: in_torch(mask)
    shown(f"packing {SIZE} weights (processor time)", medians(calls, time.thread_time))


def mask_files(folder: Path) -> None:
    """Sixteen masks of 4 Mi weights each."""
    masks = {f"{i}": (torch.arange(SIZE // 16) % 7 > 3).view(2048, -1) for i in range(16)}
    path, plain = folder / "masks.safetensors", folder / "bools.safetensors"
    calls: dict[str, Callable[[], Any]] = {
        "save_masks": lambda: save_masks(path, masks),
        "load_masks": lambda: load_masks(path),
        "safetensors.save_file of bools": lambda: save_file(masks, plain),
        "safetensors.load_file of bools": lambda: sum(int(t.view(-1)[-1]) for t in load_file(plain).values()),
    }
    shown(f"mask files of {SIZE} weights (clock)", medians(calls, time.perf_counter))
    sizes = path.stat().st_size, plain.stat().st_size
    print(f"  {sizes[0] / 1e6:.2f} MB, {8 * sizes[0] / SIZE:.4f} bits a weight; as bools {sizes[1] / 1e6:.2f} MB")


def checkpoints(folder: Path) -> None:
    """256 MB in 16 tensors, and 5000 tensors of 64 bytes."""
    large, many = folder / "large.safetensors", folder / "many.safetensors"
    save_file({f"{i}": torch.full((SIZE // 16,), 1.0) for i in range(16)}, large)
    save_file({f"layers.{i}.weight": torch.ones(16) for i in range(5000)}, many)
    checkpoint, buffer = open_checkpoint(large), np.empty(1 << 22, np.uint8)

    def plain() -> None:
        with open(large, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    calls: dict[str, Callable[[], Any]] = {
        "open 5000 tensors": lambda: open_checkpoint(many),
        "read 256 MB by name": lambda: [checkpoint[name] for name in checkpoint],
        "safetensors.load_file of it, and copied": lambda: [t.clone() for t in load_file(large).values()],
        "plain reads of 4 MiB into one buffer": plain,
    }
    shown("checkpoints (clock)", medians(calls, time.perf_counter))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        print(f"torch {torch.__version__}, numpy {np.__version__}")
        packing()
        mask_files(Path(name))
        checkpoints(Path(name))
