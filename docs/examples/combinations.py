"""Choose score, structure and schedule one by one: every combination is one expression, and this trains them all.

    python docs/examples/combinations.py

LeNet-300-100 on scikit-learn's digits, 90 % of the weights pruned in the middle of training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from statistics import mean

import torch
from methods import gradual, magnitude, one_shot
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from training import State, Task, Tensors, accuracy, batch, digits, lenet, loss, make_task, weights

import masklib as ml

OUTPUT = "5.weight"  # the last layer: one row a class
Results = dict[tuple[str, str, str], list[float]]  # accuracies by score, structure and schedule, one a seed


# ---- scores: of the weights in a state, seen on the images of a step ------------------------------------------------


def taylor(task: Task, state: State, step: int) -> Tensors:
    """How much the loss would change without it, to first order."""
    grads = ml.dense_grad(state.params, state.masks, loss, task, *batch(task, step))
    return ml.scores.taylor(weights(state.params), weights(grads))


def wanda(task: Task, state: State, step: int) -> Tensors:
    """The size of each weight times the norm of the input that it weighs."""
    flows = ml.scores.add_input_norms(None, layer_inputs(task, state.params, batch(task, step)[0]))
    return ml.scores.wanda(weights(state.params), flows)


def layer_inputs(task: Task, params: Tensors, images: torch.Tensor) -> Tensors:
    """What flows into each linear layer, by the name of its weight."""
    found = {}
    for index, layer in enumerate(task.net.children()):
        own = {name: params[f"{index}.{name}"] for name, _ in layer.named_parameters()}
        found |= {f"{index}.weight": images} if own else {}
        images = torch.func.functional_call(layer, own, (images,))
    return found


# ---- structures: scores, masks and a sparsity in, masks out ---------------------------------------------------------


def erk(scores: Tensors, masks: Tensors, sparsity: float) -> Tensors:
    """Each layer on its own, as sparse as ERK has it."""
    return ml.layerwise(ml.compute_mask)(scores, masks, sparsity=ml.budgets.erk(scores, sparsity))


def two_of_four_erk(scores: Tensors, masks: Tensors, sparsity: float) -> Tensors:
    """2:4 in every layer, then what ERK takes of that; the output layer keeps the half that 2:4 leaves."""
    budget = ml.budgets.erk(scores, max(sparsity, 0.5), fixed={OUTPUT: 0.5})
    steps = partial(ml.n_of_m, keep=2, of=4), partial(ml.layerwise(ml.compute_mask), sparsity=budget)
    return ml.fold(steps, scores, masks)


SCORES = {"magnitude": magnitude, "Taylor": taylor, "Wanda": wanda}
STRUCTURES: dict[str, Callable[..., Tensors]] = {
    "anywhere": ml.compute_mask,
    "in each row": partial(ml.compute_mask, groups=ml.rows()),
    "ERK": erk,
    "2:4, then ERK": two_of_four_erk,
    "blocks of 1 x 4": partial(ml.compute_mask, groups=ml.blocks((1, 4))),
}
SCHEDULES = {"one-shot": one_shot, "cubic": gradual}


# ---- all of them ----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> Results:
    """Train every combination and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps, to see that it runs")
    options = parser.parse_args(arguments)
    seeds, steps = (1, 20) if options.quick else (options.seeds, options.steps)
    results: Results = {names: [] for names in product(SCORES, STRUCTURES, SCHEDULES)}
    images = digits()
    for names, seed in track([*product(results, range(seeds))], "combinations"):
        task = make_task(images, lenet(pixels=64), seed=seed, steps=steps)
        results[names].append(accuracy(task, combined(task, *names)))
    Console().print(table(results))
    return results


def combined(task: Task, score: str, structure: str, schedule: str, sparsity: float = 0.9) -> State:
    """Train with one combination."""
    return SCHEDULES[schedule](task, sparsity, score=SCORES[score], rule=STRUCTURES[structure])


def table(results: Results) -> Table:
    """Mean accuracies over the seeds, in per cent."""
    shown = Table("structure", "schedule", box=box.MARKDOWN)
    for score in SCORES:
        shown.add_column(score, justify="right")
    for structure, schedule in product(STRUCTURES, SCHEDULES):
        means = (mean(results[score, structure, schedule]) for score in SCORES)
        shown.add_row(structure, schedule, *(f"{100 * value:.1f}" for value in means))
    return shown


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
