"""What 2:4 gains on this GPU: products of bfloat16, dense and packed, called one by one and replayed from a graph.

    python tests/benchmarks/two_of_four.py

Microseconds a product, back to back. Calls by themselves show what the host takes; a graph, what the kernel takes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

import masklib as ml

SHAPES = ((1024, 1024), (4096, 4096), (14336, 4096), (4096, 14336))  # (out, in)
INPUTS = (16, 256, 4096)


def microseconds(call: Callable[[], object], times: int = 30) -> float:
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - start) / times


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """The same as a graph, after calls on a stream of its own to warm up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    warnings.simplefilter("ignore")  # torch's, that packed tensors are a prototype
    print(torch.cuda.get_device_name(), torch.__version__)
    print(
        "| weight | inputs | dense | 2:4 | dense, graph | 2:4, graph | times as fast |\n|---|---|---|---|---|---|---|"
    )
    for out, wide in SHAPES:
        weight = torch.randn(out, wide, device="cuda", dtype=torch.bfloat16)
        weight *= ml.n_of_m(weight.abs(), keep=2, of=4)
        packed = torch.sparse.to_sparse_semi_structured(weight)
        for inputs in INPUTS:
            x = torch.randn(inputs, wide, device="cuda", dtype=torch.bfloat16)
            calls = [partial(functional.linear, x, w) for w in (weight, packed)]
            taken = [microseconds(call) for call in (*calls, *map(captured, calls))]
            shown = " | ".join(f"{each:.0f}" for each in taken)
            print(f"| {out} x {wide} | {inputs} | {shown} | {taken[2] / taken[3]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
