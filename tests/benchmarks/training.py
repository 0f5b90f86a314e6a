"""What masks cost a training step: CPU time and peak memory of every path, beside dense and the original.

    OMP_WAIT_POLICY=passive python tests/benchmarks/training.py [--threads 1 2] [--rounds 40]

Milliseconds of CPU time (all threads of the process; passive, so that they do not spin) a step, medians of steps taken
in turns in one process; the ratio is the median of ratios to the dense step beside it. On a busy machine it is off by
some per cent: what a step spends in the hooks of `attach`, which is printed too, is the steadier figure. Bytes are
those of tensors held, a prunable weight, beyond dense. Peak is the growth of the resident set over three steps in a
process of its own, of one thread.
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.utils.prune as theirs
from torch import nn
from torch.func import functional_call

import masklib as ml
import masklib.adapters.prune as ours
from masklib import schedules, updates
from masklib.adapters import parametrize, weights
from masklib.adapters.optimizer import keep_zero
from masklib.adapters.training import attach

# ---- models ---------------------------------------------------------------------------------------------------------


def transformer() -> tuple[nn.Module, torch.Tensor]:
    """2.1 million weights, 16 sequences of 64."""
    layer = partial(nn.TransformerEncoderLayer, 256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.Sequential(layer(), layer(), nn.Linear(256, 2048, bias=False)), torch.randn(16, 64, 256)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.body(x)).relu()


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    """0.3 million weights, 64 images of 16 x 16."""
    body = (nn.Conv2d(3, 64, 3, padding=1, bias=False), Block(64), Block(64), Block(64), Block(64))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), torch.randn(64, 3, 16, 16)


# ---- paths ----------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A model under training: its optimizer, what must stay alive, and how gradients come about."""

    optimizer: torch.optim.Optimizer
    kept: Any
    backward: Callable[[torch.Tensor], None]


def begin(model: nn.Module) -> torch.optim.Optimizer:
    """Fused: `torch.sqrt` of zeros, by which the other ways divide, takes 4.8 ms a million on MKL, of others .36 ms."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, kept: Any = None) -> Run:
    return Run(optimizer, kept, lambda x: loss(model(x)).backward())


def dense(model: nn.Module) -> Run:
    return plain(model, begin(model))


def attached(model: nn.Module, update: Any = updates.static(ml.l1_unstructured, amount=0.9)) -> Run:
    optimizer = begin(model)
    return plain(model, optimizer, attach(optimizer, model, update))


def functional(model: nn.Module) -> Run:
    """`torch.func.grad` through `apply`."""
    masks = ml.l1_unstructured({n: p.detach() for n, p in weights(model).items()}, amount=0.9)
    params = dict(model.named_parameters())

    def masked_loss(values: Any, buffers: Any, x: torch.Tensor) -> Any:
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        return loss(functional_call(model, ml.apply(values, masks) | buffers, (x,))), buffers

    def backward(x: torch.Tensor) -> None:
        values = {name: p.detach() for name, p in params.items()}
        grads, buffers = torch.func.grad(masked_loss, has_aux=True)(values, dict(model.named_buffers()), x)
        for name, grad in grads.items():
            params[name].grad = grad
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])

    return Run(begin(model), masks, backward)


def original(model: nn.Module, prune: Any = theirs) -> Run:
    """Not in attention, where the original fails at the second step: it computes weights of modules that are called."""
    names = [name for name in weights(model) if "self_attn" not in name]
    pairs = [(model.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in names]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.9)
    return dense(model)


def dropped_in(model: nn.Module) -> Run:
    optimizer = original(model, ours).optimizer
    return plain(model, optimizer, keep_zero(optimizer, model))


def parametrized(model: nn.Module) -> Run:
    parametrize.prune(model, partial(ml.l1_unstructured, amount=0.9))
    optimizer = begin(model)
    return plain(model, optimizer, keep_zero(optimizer, model))


PATHS: dict[str, Callable[[nn.Module], Run]] = {
    "dense": dense,
    "attach": attached,
    "attach, SR-STE 2:4": partial(attached, update=updates.sr_ste(keep=2, of=4)),
    "parametrize, keep_zero": parametrized,
    "drop-in, keep_zero": dropped_in,
    "functional": functional,
    "torch.nn.utils.prune": original,
}
MODELS = {"transformer": transformer, "convolutions": convolutions}
SKIPPED = {("convolutions", "attach, SR-STE 2:4")}  # windows of 4 do not fit 3 x 3 kernels along the last dim


def step(run: Run, x: torch.Tensor) -> None:
    run.optimizer.zero_grad()
    run.backward(x)
    run.optimizer.step()


# ---- measures -------------------------------------------------------------------------------------------------------


def held() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors()}
    return sum(storages.values())


def _tensors() -> list[torch.Tensor]:
    found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    return found + [t.grad for t in found if t.is_leaf and t.grad is not None]


def in_turns(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """The median milliseconds of CPU time, and of the ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name].append(1e3 * (time.process_time() - start))
    first = next(iter(times.values()))
    return {
        name: (statistics.median(t), statistics.median(a / b for a, b in zip(t, first))) for name, t in times.items()
    }


def peak(model: str, path: str) -> float:
    """MB that the resident set grows by at most, in a process of its own."""
    line = [sys.executable, __file__, "--peak", model, path]
    return float(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def _grown(model: str, path: str) -> float:
    torch.set_num_threads(1)
    before = _resident("VmRSS")
    built, x = MODELS[model]()
    run = PATHS[path](built)
    for _ in range(3):
        step(run, x)
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1e3  # type: ignore[index]


# ---- the tables -----------------------------------------------------------------------------------------------------


def table(model: str, rounds: int, with_peak: bool) -> None:
    runs, works, extra = {}, {}, {}
    for name in (name for name in PATHS if (model, name) not in SKIPPED):
        torch.manual_seed(0)
        before = held()
        built, x = MODELS[model]()
        runs[name] = PATHS[name](built)
        works[name] = partial(step, runs[name], x)
        works[name]()
        extra[name] = held() - before
    plain_model, x = MODELS[model]()
    size = sum(p.numel() for p in weights(plain_model).values())
    print(f"\n{model}, {size:,} prunable weights, {torch.get_num_threads()} threads")
    print(f"{'':24}{'ms a step':>10}{'x dense':>9}{'bytes a weight':>16}{'peak, MB' if with_peak else '':>10}")
    for name, (millis, ratio) in in_turns(works, rounds).items():
        bytes_each = (extra[name] - extra["dense"]) / size
        grown = f"{peak(model, name):10.0f}" if with_peak else ""
        print(f"{name:24}{millis:10.2f}{ratio:9.3f}{bytes_each:16.2f}{grown}", flush=True)
    hooks, whole = in_hooks(runs["attach"], x, rounds)
    print(f"  {'attach, in its hooks':22}{hooks:10.2f}{hooks / (whole - hooks):9.3f}")
    _print_updates(plain_model, x, rounds // 4 + 1)


def in_hooks(run: Run, x: torch.Tensor, rounds: int) -> tuple[float, float]:
    """The median milliseconds of CPU time that a step spends in what `attach` hooked to it, and in all."""
    spent, whole = [], []

    def timed(function: Any, *args: Any) -> Any:
        start = time.process_time()
        result = function(*args)
        spent[-1] += 1e3 * (time.process_time() - start)
        return result

    for hooks in (run.optimizer._optimizer_step_pre_hooks, run.optimizer._optimizer_step_post_hooks):
        hooks.update({key: partial(timed, hook) for key, hook in hooks.items()})
    for _ in range(rounds):
        spent.append(0.0)
        start = time.process_time()
        step(run, x)
        whole.append(1e3 * (time.process_time() - start))
    return statistics.median(spent), statistics.median(whole)


def _print_updates(model: nn.Module, x: torch.Tensor, rounds: int) -> None:
    """What an update costs, alone, beside a dense step."""
    params = {n: p.detach() for n, p in weights(model).items()}
    grads = {n: torch.randn_like(p) for n, p in params.items()}
    rigl = updates.rigl(sparsity=0.9, every=1, stop=100)
    made = {
        "gradual, one pool": updates.gradual(ml.l1_unstructured, schedules.linear(0.9, stop=100)),
        "gradual, ERK": updates.gradual(ml.l1_unstructured, schedules.linear(0.9, stop=100), budget=ml.budgets.erk),
        "RigL": rigl,
    }
    masks = {"gradual, one pool": ml.dense(params), "gradual, ERK": ml.dense(params)}
    masks["RigL"] = rigl(0, params, ml.dense(params))
    works: dict[str, Callable[[], Any]] = {"a dense step": partial(step, dense(model), x)}
    works |= {name: partial(update, 50, params, masks[name], grads) for name, update in made.items()}
    for name, (millis, ratio) in in_turns(works, rounds).items():
        print(f"  {name:22}{millis:10.2f}{ratio:9.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--no-peak", action="store_true")
    parser.add_argument("--peak", nargs=2)
    options = parser.parse_args()
    if options.peak:
        print(_grown(*options.peak))
        return
    for threads in options.threads:
        torch.set_num_threads(threads)
        for model in MODELS:
            table(model, options.rounds, not options.no_peak and threads == options.threads[0])


if __name__ == "__main__":
    main()
