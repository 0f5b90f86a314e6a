"""What the layer solvers take: SparseGPT beside a transcription of the published code, ADMM beside SparseGPT.

    OMP_NUM_THREADS=1 python tests/benchmarks/reconstruct.py

Milliseconds of CPU time, medians of layers taken in turns in one process, so that a busy machine is busy for all; and
the error of the outputs on inputs that were not seen, relative to pruning by magnitude.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import masklib as ml

ROUNDS = 5
LAYERS = {"q 576 x 576": (576, 576), "up 1536 x 576": (1536, 576), "down 576 x 1536": (576, 1536)}


def reference(weight: Tensor, total: Tensor, count: int, sparsity: float = 0.5, n: int = 0, m: int = 0) -> Tensor:
    """SparseGPT as its authors published it (`n` of every `m` are pruned; 0 for single elements)."""
    w, h = weight.clone(), total * (2 / count)
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(0.01 * h.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for start in range(0, w.shape[1], 128):
        stop = min(start + 128, w.shape[1])
        block, pruned, errors = w[:, start:stop].clone(), torch.zeros_like(w[:, start:stop]), None
        errors, losses = torch.zeros_like(block), torch.zeros_like(block)
        factor = inverse[start:stop, start:stop]
        if n:
            mask = torch.zeros_like(block) == 1
        else:
            saliency = block**2 / factor.diagonal().reshape(1, -1) ** 2
            mask = saliency <= torch.sort(saliency.flatten())[0][int(saliency.numel() * sparsity)]
        for i in range(stop - start):
            column, d = block[:, i], factor[i, i]
            if n and i % m == 0:
                saliency = block[:, i : i + m] ** 2 / factor.diagonal()[i : i + m].reshape(1, -1) ** 2
                mask.scatter_(1, i + torch.topk(saliency, n, dim=1, largest=False)[1], True)
            q = column.clone()
            q[mask[:, i]] = 0
            pruned[:, i] = q
            losses[:, i] = (column - q) ** 2 / d**2
            error = (column - q) / d
            block[:, i:] -= error.unsqueeze(1).matmul(factor[i, i:].unsqueeze(0))
            errors[:, i] = error
        w[:, start:stop] = pruned
        w[:, stop:] -= errors.matmul(inverse[start:stop, stop:])
    return w


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, ml.scores.Hessian, Tensor]:
    """A weight, the statistics of correlated inputs with a few large features, and inputs that were not seen."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=draw) / columns**0.5 + torch.eye(columns)
    mix *= torch.randn(columns, generator=draw).exp()
    x = torch.randn(3 * columns, columns, generator=draw) @ mix
    weight = torch.randn(rows, columns, generator=draw) / columns**0.5
    return weight, ml.scores.add_hessian(None, x[: 2 * columns]), x[2 * columns :]


def medians(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.thread_time()
            work()
            times[name].append(time.thread_time() - start)
    return {name: 1e3 * sorted(t)[ROUNDS // 2] for name, t in times.items()}


def main() -> None:
    for pattern, number, theirs in (
        ("50 %", {"sparsity": 0.5}, {"sparsity": 0.5}),
        ("2:4", {"keep": 2, "groups": ml.windows(4)}, {"n": 2, "m": 4}),
    ):
        for layer, (rows, columns) in LAYERS.items():
            weight, state, unseen = problem(rows, columns)
            works: dict[str, Callable[[], object]] = {
                "reference": partial(reference, weight, *state, **theirs),
                "sparsegpt": partial(ml.sparsegpt, weight, state, **number),
                "admm": partial(ml.admm, weight, state, **number),
            }
            times = medians(works)
            base = float(((unseen @ (weight - plain(weight, number)).T) ** 2).sum())
            print(f"{pattern}, {layer}", flush=True)
            for name, work in works.items():
                got = work()
                new = got if isinstance(got, Tensor) else got[0]
                error = float(((unseen @ (weight - new).T) ** 2).sum()) / base
                print(f"  {name:10s} {times[name]:8.1f} ms  {times['reference'] / times[name]:5.2f} x   {error:.4f}")


def plain(weight: Tensor, number: dict) -> Tensor:
    return ml.apply(weight, ml.compute_mask(weight.abs(), **number))


if __name__ == "__main__":
    main()
