"""What accelerate() gains of layers of some shapes and shares of zeros: run by hand.

    python tests/benchmarks/faster.py [--device cuda]

Medians of microseconds, taken in turns, on one thread. On a GPU the layers are those of language models, in bfloat16.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch import nn

import masklib as ml
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


def on_gpu(wide: int, out: int, tokens: int) -> tuple[nn.Module, torch.Tensor]:
    return nn.Linear(wide, out, bias=False), torch.randn(tokens, wide)


ON_GPU = {
    f"Linear {out} x {wide}, {tokens} inputs": (wide, out, tokens)
    for wide, out in ((1024, 1024), (4096, 4096), (4096, 14336), (14336, 4096))
    for tokens in (1, 16, 256, 4096)
}
ZEROS = {"80%": (0.8, 1), "90%": (0.9, 1), "98%": (0.98, 1), "90%, in blocks": (0.9, 16)}


def line(name: str, zeros: str, layer: nn.Module, x: torch.Tensor) -> str:
    """A row of the table: the dense layer beside the best of its other forms."""
    _, table = accelerate(nn.Sequential(layer), (x,))
    row = table.layers["0"]
    sparse = {form: seconds for form, seconds in row.seconds.items() if form != "dense"}
    if not sparse:
        return f"| {name} | {zeros} | {1e6 * row.seconds['dense']:.0f} | | {row.untried.get('2:4', '')} | |"
    best = min(sparse, key=sparse.__getitem__)
    dense, fast = (1e6 * row.seconds[form] for form in ("dense", best))
    return f"| {name} | {zeros} | {dense:.0f} | {fast:.0f} | {best} | {dense / fast:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    print("| layer | zeros | dense | best | form | times as fast |\n|---|---|---|---|---|---|")
    for name, build in CASES.items() if device == "cpu" else ():
        for zeros, (share, block) in ZEROS.items():
            torch.manual_seed(0)
            layer, x = build()
            print(line(name, zeros, pruned(layer, 1 - share, block), x), flush=True)
    for name, sizes in ON_GPU.items() if device != "cpu" else ():
        layer, x = (each.to(device, torch.bfloat16) for each in on_gpu(*sizes))
        mask = ml.n_of_m(layer.weight.detach().abs(), keep=2, of=4)
        layer.weight.data *= mask
        print(line(name, "2:4", layer, x), flush=True)
        layer.weight.data *= torch.rand_like(layer.weight) < 0.04
        print(line(name, "98%", layer, x), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main()
