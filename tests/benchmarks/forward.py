"""What a pruned Linear costs a forward and a training step, against dense, the original and parametrize.

    python tests/benchmarks/forward.py

Medians of microseconds, side by side in one process and one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.utils.prune as theirs
from torch import nn

import masklib
import masklib.adapters.prune as ours
from masklib.adapters import parametrize

ROUNDS = 400


def medians(works: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Microseconds of each, taken in turns so that a busy machine is busy for all."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * sorted(t)[ROUNDS // 2] for name, t in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    layers = {
        "dense": nn.Linear(512, 512),
        "torch.nn.utils.prune": theirs.l1_unstructured(nn.Linear(512, 512), "weight", 0.5),
        "adapters.prune": ours.l1_unstructured(nn.Linear(512, 512), "weight", 0.5),
        "adapters.parametrize": parametrize.prune(nn.Linear(512, 512), partial(masklib.l1_unstructured, amount=0.5)),
    }
    x = torch.randn(1, 512)

    def inference(layer: nn.Module) -> None:
        with torch.no_grad():
            layer(x)

    def training(layer: nn.Module) -> None:
        layer(x).sum().backward()

    def read(layer: nn.Module) -> None:
        with torch.no_grad():
            layer.weight  # noqa: B018

    for title, work in {"forward, no_grad": inference, "forward and backward": training, "read .weight": read}.items():
        print(title)
        for name, micros in medians({n: partial(work, layer) for n, layer in layers.items()}).items():
            print(f"  {name:24s} {micros:8.1f} us", flush=True)


if __name__ == "__main__":
    main()
