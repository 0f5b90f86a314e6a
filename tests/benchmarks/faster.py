"""What accelerate() gains of layers of some shapes and shares of zeros: run by hand.

    python tests/benchmarks/faster.py

Medians of microseconds, taken in turns, on one thread.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from masklib.adapters.accelerate import accelerate

CASES = {
    "Linear 1024 x 1024, 1 input": lambda: (nn.Linear(1024, 1024), torch.randn(1, 1024)),
    "Linear 1024 x 1024, 64 inputs": lambda: (nn.Linear(1024, 1024), torch.randn(64, 1024)),
    "Linear 300 x 784, 1 input": lambda: (nn.Linear(784, 300), torch.randn(1, 784)),
    "Linear 300 x 784, 64 inputs": lambda: (nn.Linear(784, 300), torch.randn(64, 784)),
    "Conv2d 256 -> 256, 1 x 1, 14 x 14": lambda: (nn.Conv2d(256, 256, 1), torch.randn(1, 256, 14, 14)),
    "Conv2d 256 -> 256, 3 x 3, 7 x 7": lambda: (nn.Conv2d(256, 256, 3, padding=1), torch.randn(1, 256, 7, 7)),
    "Conv2d 64 -> 64, 3 x 3, 28 x 28": lambda: (nn.Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 28, 28)),
}


def pruned(layer: nn.Module, alive: float, block: int) -> nn.Module:
    """A layer of which a share lives, one by one or in blocks."""
    matrix = layer.weight.data.view(len(layer.weight), -1)
    live = torch.rand(-(-matrix.shape[0] // block), -(-matrix.shape[1] // block)) < alive
    spread = live.repeat_interleave(block, 0).repeat_interleave(block, 1)
    matrix.mul_(spread[: matrix.shape[0], : matrix.shape[1]])
    return layer


def main() -> None:
    print("| layer | zeros | dense | best | form | times as fast |\n|---|---|---|---|---|---|")
    for name, build in CASES.items():
        for zeros, block in ((0.8, 1), (0.9, 1), (0.98, 1), (0.9, 16)):
            torch.manual_seed(0)
            layer, x = build()
            _, table = accelerate(nn.Sequential(pruned(layer, 1 - zeros, block)), (x,))
            row = table.layers["0"]
            sparse = {form: seconds for form, seconds in row.seconds.items() if form != "dense"}
            best = min(sparse, key=sparse.__getitem__)
            dense, fast = (1e6 * row.seconds[form] for form in ("dense", best))
            zeros_in = f"{zeros:.0%}" if block == 1 else f"{zeros:.0%}, in blocks"
            print(f"| {name} | {zeros_in} | {dense:.0f} | {fast:.0f} | {best} | {dense / fast:.1f} |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main()
