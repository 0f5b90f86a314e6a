"""Modules side by side: what a call costs here and in torch.nn.utils.prune.

    python tests/benchmarks/modules.py

Each row is the least of several interleaved repetitions, on one thread. Columns: milliseconds of torch.nn.utils.prune,
milliseconds here, and how many times as long it takes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.utils.prune as theirs
from torch import nn

import masklib.adapters.prune as ours

REPEATS = 15


def layers(number: int, size: int = 16) -> nn.Sequential:
    """So many square Linears."""
    return nn.Sequential(*(nn.Linear(size, size) for _ in range(number)))


def pairs(net: nn.Sequential) -> list[tuple[nn.Module, str]]:
    """What a global call of the original takes."""
    return [(layer, "weight") for layer in net]


def pruned(library: Any, net: nn.Sequential) -> nn.Sequential:
    """Each layer pruned by half."""
    for layer in net:
        library.l1_unstructured(layer, "weight", 0.5)
    return net


def removed(library: Any, net: nn.Sequential) -> None:
    """Pruning made permanent."""
    for layer in net:
        library.remove(layer, "weight")


def pruned_and_removed(library: Any, net: nn.Sequential) -> None:
    """Both."""
    removed(library, pruned(library, net))


def by_pairs(library: Any, net: nn.Sequential) -> None:
    """All layers as one pool."""
    library.global_unstructured(pairs(net), library.L1Unstructured, amount=0.5)


def by_model(library: Any, net: nn.Sequential) -> None:
    """The same; the original takes pairs only."""
    whole = net if library is ours else pairs(net)
    library.global_unstructured(whole, library.L1Unstructured, amount=0.5)


def forward(_: Any, net: nn.Sequential) -> None:
    """A forward pass of what is pruned."""
    net(torch.ones(1, 16))


ROWS: dict[str, tuple[Callable[[Any], nn.Sequential], Callable[[Any, nn.Sequential], Any]]] = {
    "prune 50 layers of 16 x 16": (lambda library: layers(50), pruned),
    "remove 50": (lambda library: pruned(library, layers(50)), removed),
    "prune and remove 50": (lambda library: layers(50), pruned_and_removed),
    "prune 50 globally, by pairs": (lambda library: layers(50), by_pairs),
    "prune 50 globally, the model": (lambda library: layers(50), by_model),
    "prune 2,000 globally, by pairs": (lambda library: layers(2000), by_pairs),
    "prune 2,000 globally, the model": (lambda library: layers(2000), by_model),
    "forward of 50 pruned": (lambda library: pruned(library, layers(50)), forward),
}


def milliseconds(
    library: Any, make: Callable[[Any], nn.Sequential], call: Callable[[Any, nn.Sequential], Any]
) -> float:
    """One run, without what is prepared for it."""
    net = make(library)
    start = time.perf_counter()
    call(library, net)
    return (time.perf_counter() - start) * 1e3


def measure(row: str) -> tuple[float, float]:
    """The least time of either library, the two taking turns."""
    make, call = ROWS[row]
    repeats = 3 if "2,000" in row else REPEATS
    times = [[milliseconds(library, make, call) for library in (theirs, ours)] for _ in range(repeats)]
    return min(t for t, _ in times), min(t for _, t in times)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'':34}{'torch':>9}{'here':>9}{'ratio':>8}")
    for row in ROWS:
        a, b = measure(row)
        print(f"{row:34}{a:9.2f}{b:9.2f}{b / a:8.2f}")


if __name__ == "__main__":
    main()
