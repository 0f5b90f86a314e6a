"""Measure why the comparison comes out as it does, at 98 %.

    python docs/examples/reasons.py

What pruning leaves of the signal at initialisation, what scaling the weights that are left makes of it, and what
becomes of dynamic training with four times the steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from compare import DATA, spread
from methods import AT_START, METHODS
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from training import State, Task, Tensors, accuracy, initial, make_task, model, start, train

import masklib as ml

SPARSITY = 0.98
BLIND = ("random", "random ERK")
MOVING = ("SNIP", "SET", "RigL")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, nargs="+", default=[*DATA])
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one data set, one seed, few steps: to see that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.data, options.seeds, options.steps = options.data[:1], 1, 12
    for data in options.data:
        images, net = DATA[data][0](), DATA[data][1]
        short, long = (
            [make_task(images, net(), seed=seed, steps=steps) for seed in range(options.seeds)]
            for steps in (options.steps, 4 * options.steps)
        )
        Console().print(signal(data, short), budgets(data, short, long))


def signal(data: str, tasks: Sequence[Task]) -> Table:
    """What is left of the logits, and of the layer that loses most; accuracy after training, as it is and rescaled."""
    shown = Table(data, "logits at initialisation", "sparsest layer", "accuracy", "rescaled", box=box.MARKDOWN)
    for name, masks_of in track(AT_START.items(), f"{data}, signal"):
        plain = [start(task, masks_of(task, SPARSITY)) for task in tasks]
        scaled = [rescaled(state) for state in plain] if name in BLIND else []
        sizes = sum(size(task, state.params) for task, state in zip(tasks, plain))
        whole = sum(size(task, initial(task)) for task in tasks)
        accuracies = [trained(tasks, states) if states else "" for states in (plain, scaled)]
        least = min(1 - s for state in plain for s in ml.sparsity(state.masks, per_name=True).values())
        shown.add_row(name, f"{100 * sizes / whole:.2f} %", f"{100 * least:.1f} %", *accuracies)
    return shown


def budgets(data: str, *budgets: Sequence[Task]) -> Table:
    """Accuracies with each budget of steps."""
    shown = Table(data, *(f"{len(tasks[0].order):,} steps" for tasks in budgets), box=box.MARKDOWN)
    for name in track(MOVING, f"{data}, budget"):
        runs = ([accuracy(task, METHODS[name](task, SPARSITY)) for task in tasks] for tasks in budgets)
        shown.add_row(name, *map(spread, runs))
    return shown


def size(task: Task, params: Tensors) -> float:
    """How much the logits differ between images."""
    return model(task, params, task.test[0]).std(0).mean().item()


def rescaled(state: State) -> State:
    """Make up for the variance that pruning takes: divide each layer by the root of its density."""
    density = {name: 1 - dead.float() for name, dead in ml.sparsity(state.masks, per_name=True).items()}
    return state._replace(params={n: p / density[n].sqrt() if n in density else p for n, p in state.params.items()})


def trained(tasks: Sequence[Task], states: Sequence[State]) -> str:
    """Accuracy after the whole budget."""
    return spread([accuracy(task, train(task, state)) for task, state in zip(tasks, states)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
