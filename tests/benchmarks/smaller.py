"""What structure() and shrink() take, what is cut of each family, and what is gained: run by hand.

python tests/benchmarks/smaller.py            # the tiny families of the tests
python tests/benchmarks/smaller.py speed      # three networks of real width, dense beside smaller
python tests/benchmarks/smaller.py language   # SmolLM2-135M, with and without its width: seconds of the processor
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import masklib as ml
from masklib.adapters.structural import count, idle, shrink, structure

sys.path.insert(0, str(Path(__file__).parents[1]))
import zoo


def cut(model, inputs, share):
    """The smaller model, its structure, and the seconds that both took."""
    start = time.perf_counter()
    found = structure(model, inputs)
    middle = time.perf_counter()
    scores = {n: p.detach() for n, p in model.named_parameters() if n in found.names}
    masks = ml.compute_mask(scores, sparsity=share, groups=found.groups(p=2, mean=True, layerwise=True))
    between = time.perf_counter()
    small = shrink(model, masks, found)
    return small, found, masks, middle - start, time.perf_counter() - between


def families():
    print(f"{'family':14}{'sets':>5}{'units':>7}{'parameters':>12}{'left':>7}{'structure s':>13}{'shrink s':>10}")
    for name in [*zoo.PLAIN, *zoo.LANGUAGE]:
        model, inputs = zoo.build(name)
        small, found, _, first, second = cut(model, inputs, 0.4)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (model, small)]
        units = sum(s.units for s in found.sets)
        row = f"{name:14}{len(found.sets):5}{units:7}{sizes[0]:12,}{sizes[1] / sizes[0]:7.0%}"
        print(f"{row}{first:13.2f}{second:10.2f}")


def wide():
    """Networks of the width that people run."""
    mlp = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    yield "MLP 1024", mlp, (torch.randn(64, 784),)
    layers = [nn.Sequential(nn.Conv2d(c, d, 3, 1 + (c < d), 1), nn.BatchNorm2d(d), nn.ReLU()) for c, d in _CHANNELS]
    yield (
        "CNN 32-256",
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)),
        (torch.randn(8, 3, 64, 64),),
    )
    block = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    yield "encoder 512", nn.TransformerEncoder(block, 2, enable_nested_tensor=False), (torch.randn(4, 64, 512),)


_CHANNELS = [(3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]


def milliseconds(models, inputs, rounds=15):
    """Medians of one forward each, in turns, so that what else runs meets all of them."""
    times = [[] for _ in models]
    with torch.no_grad():
        for _ in range(rounds):
            for model, taken in zip(models, times):
                start = time.perf_counter()
                model(*inputs)
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken[2:]) * 1e3 for taken in times]


def speed():
    print(f"{'network':14}{'cut':>5}{'parameters':>12}{'macs':>7}{'dense ms':>10}{'smaller ms':>12}{'times':>7}")
    for name, model, inputs in wide():
        model.eval()
        for share in (0.25, 0.5):
            small, found, masks, *_ = cut(model, inputs, share)
            before, after = count(found), count(found, masks)
            dense, fewer = milliseconds([model, small], inputs)
            row = f"{name:14}{share:5.0%}{after.parameters / before.parameters:12.0%}{after.macs / before.macs:7.0%}"
            print(f"{row}{dense:10.2f}{fewer:12.2f}{dense / fewer:7.2f}")


def language():
    from language import load

    model, _ = load()
    inputs, params = {"input_ids": torch.randint(1000, (1, 16))}, {n: p.detach() for n, p in model.named_parameters()}
    start = time.process_time()
    whole = structure(model, inputs)
    print(f"structure {time.process_time() - start:.1f} s: {len(whole.sets)} sets, {len(whole.names)} tensors")
    for name, found in (("all sets", whole), ("not the width", whole.select(lambda s: s.units != 576))):
        start = time.process_time()
        scores = {n: params[n] for n in found.names}
        masks = ml.compute_mask(scores, sparsity=0.25, groups=found.groups(p=2, mean=True, layerwise=True))
        middle = time.process_time()
        small = shrink(model, masks, found)
        left = sum(p.numel() for p in small.parameters())
        print(
            f"{name}: compute_mask {middle - start:.1f} s, shrink {time.process_time() - middle:.1f} s, {left:,} left"
        )
    for sparsity in (0.5, 0.9, 0.98):
        start, matrices = time.process_time(), [n for n, p in params.items() if p.dim() == 2 and "embed" not in n]
        units = idle(model, {n: ml.l1_unstructured(params[n], sparsity=sparsity) for n in matrices}, whole)
        left = count(whole, units.masks).parameters
        taken = time.process_time() - start
        print(f"{sparsity:.0%} by magnitude: idle {taken:.1f} s, {units.units:,} units, {left:,} left")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    {"speed": speed, "language": language}.get(sys.argv[-1], families)()
