"""What zeros gain: a linear layer dense, masked, as CSR and cut, in bytes and in time."""

from __future__ import annotations

import statistics
import time
import warnings

import torch

import masklib as ml

SIZE, INPUTS, ROUNDS = 1024, 64, 30


def layers(weight, sparsity):
    """The same layer in each form; the cut one has as many weights as the masked one has nonzeros."""
    masked = ml.apply(weight, ml.l1_unstructured(weight, sparsity=sparsity))
    side = round(SIZE * (1 - sparsity) ** 0.5)
    return {"dense": weight, "masked": masked, "CSR": masked.to_sparse_csr(), "cut": weight[:side, :side].contiguous()}


def size(weight):
    """Bytes."""
    if weight.layout is torch.sparse_csr:
        return sum(part.nbytes for part in (weight.values(), weight.col_indices(), weight.crow_indices()))
    return weight.nbytes


def seconds(forms):
    """Median CPU seconds of a product with each, taken in turns."""
    inputs = {name: torch.randn(w.shape[1], INPUTS) for name, w in forms.items()}
    taken = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, weight in forms.items():
            start = time.thread_time()
            weight @ inputs[name]
            taken[name].append(time.thread_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main():
    """Print a table."""
    warnings.filterwarnings("ignore", message="Sparse CSR")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weight = torch.randn(SIZE, SIZE)
    print(f"a layer of {SIZE} x {SIZE}, {INPUTS} inputs, one thread, in shares of the dense layer")
    print("| sparsity | masked: bytes, time | CSR: bytes, time | cut: bytes, time |\n|---|---|---|---|")
    for sparsity in (0.5, 0.8, 0.9, 0.95, 0.99):
        forms = layers(weight, sparsity)
        times = seconds(forms)
        cells = [
            f"{size(forms[name]) / weight.nbytes:.2f}, {times[name] / times['dense']:.2f}"
            for name in ("masked", "CSR", "cut")
        ]
        print(f"| {sparsity:.0%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
