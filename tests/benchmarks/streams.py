"""Checkpoints larger than memory: `prune_checkpoint` beside `cat`, and the memory that it takes.

    python tests/benchmarks/streams.py [gigabytes] [folder] [method ...]

A bfloat16 checkpoint shaped like a Llama is made in the folder, a temporary one if it is "". Times are of the clock,
once each, one after another, so that the disk and whoever else uses it are in them; and processor seconds of all
threads. `RssAnon` is what the process holds beside mapped files; what it was before is shown too, mostly torch itself.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import masklib as ml
from masklib.adapters.files import prune_checkpoint
from masklib.adapters.files._atomic import whole_file
from masklib.adapters.files._writer import lay_out, writing

LAYER = {"q": (2048, 2048), "k": (512, 2048), "v": (512, 2048), "o": (2048, 2048), "gate": (8192, 2048)}
LAYER |= {"up": (8192, 2048), "down": (2048, 8192)}
WEIGHTS = sum(a * b for a, b in LAYER.values())
BLOCK = 2**22

METHODS: dict[str, Any] = {
    "l1, one pool": partial(ml.l1_unstructured, sparsity=0.5),
    "random, one pool": partial(ml.random_unstructured, key=0, sparsity=0.5),
    "ERK by layer": lambda w, m: ml.layerwise(ml.l1_unstructured)(w, m, sparsity=ml.budgets.erk(w, 0.5)),
    "2:4": lambda w, m: ml.n_of_m(ml.scores.magnitude(w), m, keep=2, of=4),
    "rows": partial(ml.compute_mask, sparsity=0.5, groups=ml.rows()),
    "channels, L2": partial(ml.ln_structured, n=2, dim=0, sparsity=0.3),
    "three steps of l1": [partial(ml.l1_unstructured, amount=0.2)] * 3,
}


def make(path: Path, gigabytes: float) -> None:
    """Write a checkpoint of normal weights, layers of several scales."""
    specs = {"model.embed_tokens.weight": (torch.bfloat16, (32000, 2048))}
    for i in range(max(1, round(gigabytes * 1e9 / 2 / WEIGHTS))):
        specs |= {f"model.layers.{i}.{n}_proj.weight": (torch.bfloat16, shape) for n, shape in LAYER.items()}
        specs |= {f"model.layers.{i}.norm.weight": (torch.bfloat16, (2048,))}
    header = lay_out(path, specs, {"format": "pt"})
    generator = torch.Generator().manual_seed(0)
    with whole_file(path) as sink, writing(sink, header) as writer:
        for k, entry in enumerate(header.entries.values()):
            for start in range(0, entry.numel, BLOCK):
                size = min(BLOCK, entry.numel - start)
                values = torch.randn(size, generator=generator).mul_(0.02 * (1 + k % 7))
                writer.write(entry.name, values.bfloat16().view(torch.uint8).numpy())


def anonymous() -> float:
    """What this process holds, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def watched(call: Callable[[], Any]) -> tuple[float, float, float, Any]:
    """Seconds of the clock and of the processor, the peak of what is held in MB, and the result."""
    peak, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    clock, processor = time.perf_counter(), time.process_time()
    result = call()
    times = time.perf_counter() - clock, time.process_time() - processor
    done.set()
    watcher.join()
    return *times, peak[0], result


def main(gigabytes: float, folder: Path, names: list[str]) -> None:
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    make(source, gigabytes)
    size = source.stat().st_size
    print(f"{size / 1e9:.2f} GB, {torch.get_num_threads()} threads, RssAnon before {anonymous():.0f} MB")
    for what in ("/dev/null", target):
        start = time.perf_counter()
        subprocess.run(f"cat {source} > {what}", shell=True, check=True)
        print(f"  {f'cat > {Path(what).name}':<28} {time.perf_counter() - start:7.1f} s", flush=True)
    for name, method in METHODS.items():
        for what, place in (("", target), (", dry run", None)):
            if name in names or not names:
                line(name + what, size, partial(prune_checkpoint, source, place, method))


def line(title: str, size: int, call: Callable[[], Any]) -> None:
    """One call, measured."""
    clock, processor, peak, report = watched(call)
    print(
        f"  {title:<28} {clock:7.1f} s  {processor:7.1f} s of processor  {report.bytes_read / size:5.2f} reads  "
        f"RssAnon {peak:5.0f} MB  sparsity {report.sparsity:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    if sys.argv[2:] and sys.argv[2]:
        main(gigabytes, Path(sys.argv[2]), sys.argv[3:])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(gigabytes, Path(temporary), sys.argv[3:])
