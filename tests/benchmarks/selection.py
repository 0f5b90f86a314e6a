"""Selection against torch.nn.utils.prune and against the memory floor, side by side in one process.

    python tests/benchmarks/selection.py [--quick]

Prints medians. The floor is two reads of the scores and one write of a bool mask, by torch on the same threads. Run it
alone on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import prune

import masklib
from masklib import scores


def median(work: Callable[[], Any], repeats: int) -> float:
    """Milliseconds, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[repeats // 2]


def floor(tensor: torch.Tensor) -> Callable[[], None]:
    mask = torch.empty(tensor.shape, dtype=torch.bool)

    def work() -> None:
        tensor.sum()
        tensor.sum()
        mask.fill_(True)

    return work


def original(tensor: torch.Tensor, amount: float) -> Callable[[], Any]:
    method = prune.L1Unstructured(amount)
    ones = torch.ones_like(tensor)
    return lambda: method.compute_mask(tensor, ones)


def show(work: str, ours: float, *others: tuple[str, float]) -> None:
    ratios = "   ".join(f"{name} {time:9.2f} ms ({time / ours:6.2f} x)" for name, time in others)
    print(f"{work:44s} {ours:9.3f} ms   {ratios}", flush=True)


def whole_tensors(sizes: list[int], repeats: int) -> None:
    for n in sizes:
        tensor = torch.randn(n)
        ours = median(partial(masklib.l1_unstructured, tensor, amount=0.5), repeats)
        least = median(floor(tensor), repeats)
        theirs = median(original(tensor, 0.5), max(1, repeats // 8) if n > 2**22 else repeats)
        show(f"l1_unstructured, {n / 1e6:.3g} M fp32, 50 %", ours, ("original", theirs), ("floor", least))


def inputs(n: int, repeats: int) -> None:
    normal = torch.randn(n)
    reference = median(partial(masklib.l1_unstructured, normal, amount=0.5), repeats)
    alive = masklib.l1_unstructured(normal, amount=0.5)
    cases: dict[str, Callable[[], Any]] = {
        "sorted": partial(masklib.l1_unstructured, normal.abs().sort().values, amount=0.5),
        "reversed": partial(masklib.l1_unstructured, normal.abs().sort(descending=True).values, amount=0.5),
        "heavily tied (8 values)": partial(masklib.l1_unstructured, (normal * 2).round(), amount=0.5),
        "all equal": partial(masklib.l1_unstructured, torch.ones(n), amount=0.5),
        "half zero": partial(masklib.l1_unstructured, normal.clamp(min=0), amount=0.25),
        "bf16": partial(masklib.l1_unstructured, normal.bfloat16(), amount=0.5),
        "fp16": partial(masklib.l1_unstructured, normal.half(), amount=0.5),
        "fp64": partial(masklib.l1_unstructured, normal.double(), amount=0.5),
        "int8": partial(masklib.l1_unstructured, (normal * 30).to(torch.int8), amount=0.5),
        "transposed": partial(masklib.l1_unstructured, normal.view(4096, -1).t(), amount=0.5),
        "channels_last": partial(
            masklib.l1_unstructured,
            normal.view(-1, 512, 4, 4).contiguous(memory_format=torch.channels_last),
            amount=0.5,
        ),
        "signed scores": partial(masklib.compute_mask, normal, amount=0.5),
        "1 %": partial(masklib.l1_unstructured, normal, amount=0.01),
        "90 %": partial(masklib.l1_unstructured, normal, amount=0.9),
        "99 %": partial(masklib.l1_unstructured, normal, amount=0.99),
        "second round, on the surviving half": partial(masklib.l1_unstructured, normal, alive, amount=0.5),
        "random_unstructured": partial(masklib.random_unstructured, normal, key=0, amount=0.5),
    }
    show(f"normal, {n / 1e6:.3g} M fp32, 50 %", reference)
    for name, work in cases.items():
        ours = median(work, repeats)
        print(f"  {name:42s} {ours:9.3f} ms   {ours / reference:6.2f} x the normal case", flush=True)


def topk_and_scatter(tensor: torch.Tensor, k: int) -> torch.Tensor:
    mask = torch.ones(tensor.shape, dtype=torch.bool)
    return mask.scatter_(-1, tensor.topk(k, dim=-1, largest=False).indices, False)


def sparsifier(weight: torch.Tensor) -> Callable[[], Any]:
    from torch.ao.pruning import WeightNormSparsifier

    def work() -> None:
        module = torch.nn.Linear(*reversed(weight.shape), bias=False)
        module.weight = torch.nn.Parameter(weight)
        model = torch.nn.Sequential(module)
        pruner = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
        pruner.prepare(model, [{"tensor_fqn": "0.weight"}])
        pruner.step()

    return work


def short_pools(side: int, repeats: int) -> None:
    weight = torch.randn(side, side)
    size = scores.magnitude(weight)
    ours = median(partial(masklib.n_of_m, size, keep=2, of=4), repeats)
    topk = median(lambda: topk_and_scatter(size.view(-1, 4), 2), max(3, repeats // 4))
    ao = median(sparsifier(weight), 3)
    show(f"2:4 on {side} x {side}", ours, ("topk and scatter", topk), ("WeightNormSparsifier", ao))
    for of, keep in ((8, 4), (16, 4), (32, 8)):
        ours = median(partial(masklib.n_of_m, size, keep=keep, of=of), repeats)
        topk = median(lambda of=of, keep=keep: topk_and_scatter(size.view(-1, of), of - keep), 3)
        show(f"{keep}:{of} on {side} x {side}", ours, ("topk and scatter", topk))
    ours = median(partial(masklib.compute_mask, size, amount=0.5, groups=masklib.rows()), repeats)
    topk = median(lambda: topk_and_scatter(size, side // 2), max(3, repeats // 4))
    show(f"50 % of each row, {side} x {side}", ours, ("topk and scatter", topk))
    ours = median(partial(masklib.ln_structured, weight, n=2, dim=0, amount=0.5), repeats)
    structured = prune.LnStructured(0.5, n=2, dim=0)
    theirs = median(lambda: structured.compute_mask(weight, torch.ones_like(weight)), repeats)
    show(f"50 % of rows by L2 norm, {side} x {side}", ours, ("original", theirs))


def model() -> dict[str, torch.Tensor]:
    """72 matrices with 85 M weights, the shapes of a 12-layer transformer."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    return {f"{layer:02}.{i}": torch.randn(s) for layer in range(12) for i, s in enumerate(shapes)}


def global_original(params: dict[str, torch.Tensor]) -> Callable[[], Any]:
    def work() -> None:
        modules = [torch.nn.Module() for _ in params]
        for module, p in zip(modules, params.values()):
            module.weight = torch.nn.Parameter(p)
        prune.global_unstructured([(m, "weight") for m in modules], prune.L1Unstructured, amount=0.5)

    return work


def mapping(repeats: int) -> None:
    params = model()
    ours = median(partial(masklib.l1_unstructured, params, amount=0.5), repeats)
    theirs = median(global_original(params), 1)
    show("mapping of 72 matrices, 85 M, global 50 %", ours, ("global_unstructured", theirs))
    for name in ("ours", "original"):
        out = subprocess.run([sys.executable, __file__, "--peak", name], capture_output=True, text=True, check=True)
        print(f"  extra peak memory, {name:9s} {out.stdout.strip()} bytes a parameter")


def peak(name: str) -> None:
    """Extra peak memory of one call, in a process of its own."""
    params = model()
    work = partial(masklib.l1_unstructured, params, amount=0.5) if name == "ours" else global_original(params)
    masklib.l1_unstructured(torch.randn(2**18), amount=0.5)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    work()
    print(f"{(memory('VmHWM') - before) / sum(p.numel() for p in params.values()):.2f}")


def memory(field: str) -> int:
    """Bytes of memory of this process."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


def small(repeats: int) -> None:
    tensor = torch.randn(1000)
    alive = tensor.abs() > 0.1
    for name, work in {
        "1,000 elements": partial(masklib.l1_unstructured, tensor, amount=0.5),
        "1,000 elements, masked": partial(masklib.l1_unstructured, tensor, alive, amount=0.5),
    }.items():
        show(name, median(work, 100 * repeats), ("original", median(original(tensor, 0.5), 100 * repeats)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--peak", choices=("ours", "original"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return peak(options.peak)
    repeats = 5 if options.quick else 25
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {repeats}")
    small(repeats)
    whole_tensors([2**20, 2**24] if options.quick else [2**20, 2**24, 2**27], repeats)
    inputs(2**22 if options.quick else 2**24, repeats)
    short_pools(2048 if options.quick else 4096, repeats)
    mapping(repeats)


if __name__ == "__main__":
    main()
