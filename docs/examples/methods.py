"""Ten ways to prune, each a function `method(task, sparsity) -> state`.

Each spends the same budget of training steps, the lottery in every round. Sparsities are of all weights together,
biases left alone, and are met to the element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from training import State, Task, Tensors, batch, initial, loss, masked, model, start, train, weights

import masklib as ml

Method = Callable[[Task, float], State]
Score = Callable[[Task, State, int], Tensors]
Rule = Callable[..., Tensors]  # rule(scores, masks, sparsity=share) -> masks
Schedule = ml.schedules.Schedule


def dense(task: Task, sparsity: float = 0.0) -> State:
    """Train and prune nothing."""
    return train(task, start(task))


# ---- from a trained network -----------------------------------------------------------------------------------------


def magnitude(task: Task, state: State, step: int) -> Tensors:
    """Score the weights by their size."""
    return ml.scores.magnitude(weights(state.params))


def lamp_scores(task: Task, state: State, step: int) -> Tensors:
    """Score the weights by their share of what is left of their layer."""
    return ml.scores.lamp(weights(state.params))


def one_shot(task: Task, sparsity: float, score: Score = magnitude, rule: Rule = ml.compute_mask) -> State:
    """Train for half of the budget, prune once, fine-tune for the other half (Han et al. 2015)."""
    return scheduled(task, ml.schedules.one_shot(sparsity, at=len(task.order) // 2), score, rule)


lamp = partial(one_shot, score=lamp_scores)  # Lee et al. 2021


def gradual(task: Task, sparsity: float, score: Score = magnitude, rule: Rule = ml.compute_mask) -> State:
    """Prune a little more at each of twenty updates in the middle half of the budget (Zhu and Gupta 2017)."""
    half = len(task.order) // 2
    begin, every = half // 2, max(1, half // 20)
    return scheduled(task, ml.schedules.cubic(sparsity, start=begin, stop=begin + half, every=every), score, rule)


def scheduled(task: Task, target: Schedule, score: Score, rule: Rule) -> State:
    """Train, and wherever it is due let a rule make the masks of the scores and the target sparsity."""

    def update(state: State, step: int) -> State:
        if not target.due(step):
            return state
        return masked(state, rule(score(task, state, step), state.masks, sparsity=target(step)))

    return train(task, start(task), update)


def lottery(task: Task, sparsity: float, share: float = 0.5) -> State:
    """Train, prune at most this share of what is left, rewind the others to their initial values; repeat.

    Each round has a full budget (Frankle and Carbin 2019).
    """
    rounds = math.ceil(math.log(1 - sparsity) / math.log(1 - share))
    target = ml.schedules.geometric(sparsity, stop=rounds)
    state = start(task)
    for done in range(1, rounds + 1):
        trained = weights(train(task, state).params)
        state = start(task, ml.l1_unstructured(trained, state.masks, sparsity=target(done)))
    return train(task, state)


# ---- at initialisation ----------------------------------------------------------------------------------------------


def at_start(task: Task, sparsity: float, masks: Callable[[Task, float], Tensors]) -> State:
    """Prune the initial network, then train what is left."""
    return train(task, start(task, masks(task, sparsity)))


def random_masks(task: Task, sparsity: float, budget: Callable[..., dict[str, float]] = ml.budgets.uniform) -> Tensors:
    """Draw each layer's masks at random, to the sparsity that the budget gives it."""
    w = weights(initial(task))
    return ml.layerwise(ml.random_unstructured)(w, key=task.seed, keep=ml.budgets.kept(w, budget(w, sparsity)))


def snip_masks(task: Task, sparsity: float, batches: int = 10) -> Tensors:
    """Keep the weights that the initial loss is most sensitive to (Lee et al. 2019)."""
    params, seen = initial(task), task.order[:batches].flatten()
    grads = torch.func.grad(loss)(params, task, task.train[0][seen], task.train[1][seen])
    return ml.compute_mask(ml.scores.saliency(weights(params), weights(grads)), sparsity=sparsity)


def synflow_masks(task: Task, sparsity: float, rounds: int = 100) -> Tensors:
    """Keep the weights that most flows through, a little fewer in each round, without data (Tanaka et al. 2020)."""
    w, image = weights(initial(task)), task.train[0][:1]
    target = ml.schedules.geometric(sparsity, stop=rounds)
    masks = ml.identity(w)
    for done in range(1, rounds + 1):
        flow = ml.scores.synflow(ml.apply(w, masks), partial(model, task), image)
        masks = ml.compute_mask(flow, masks, sparsity=target(done))
    return masks


AT_START: dict[str, Callable[[Task, float], Tensors]] = {
    "random": random_masks,
    "random ERK": partial(random_masks, budget=ml.budgets.erk),
    "SNIP": snip_masks,
    "SynFlow": synflow_masks,
}
random, random_erk, snip, synflow = (partial(at_start, masks=masks) for masks in AT_START.values())


# ---- dynamic --------------------------------------------------------------------------------------------------------


def dynamic(task: Task, sparsity: float, grow: Score, updates: int = 30) -> State:
    """Start from a random ERK mask; until three quarters of the budget, move a decaying share of each layer's weights.

    Those of least magnitude die; those that grow instead start from zero.
    """
    end = 3 * len(task.order) // 4
    every = max(1, end // updates)
    share = ml.schedules.cosine(0.0, initial=0.3, stop=end, every=every)

    def update(state: State, step: int) -> State:
        if not share.due(step):
            return state
        dying, growing = magnitude(task, state, step), grow(task, state, step)
        return masked(state, ml.layerwise(ml.regrow)(dying, state.masks, grow_scores=growing, amount=share(step)))

    return train(task, start(task, AT_START["random ERK"](task, sparsity)), update)


def by_gradient(task: Task, state: State, step: int) -> Tensors:
    """The size of the gradient that each weight has or would have."""
    grads = ml.dense_grad(state.params, state.masks, loss, task, *batch(task, step))
    return ml.scores.magnitude(weights(grads))


def by_chance(task: Task, state: State, step: int) -> Tensors:
    """Noise, other noise at each step."""
    return ml.scores.random(state.masks, key=task.seed * len(task.order) + step)


rigl = partial(dynamic, grow=by_gradient)  # Evci et al. 2020
set_ = partial(dynamic, grow=by_chance)  # Mocanu et al. 2018, with the budget and the decay of RigL


RANDOM: dict[str, Method] = {"random": random, "random ERK": random_erk}
FAMILIES: dict[str, dict[str, Method]] = {
    "from a trained network": {"one-shot": one_shot, "LAMP": lamp, "gradual": gradual, "lottery": lottery},
    "at initialisation": {"SNIP": snip, "SynFlow": synflow},
    "while training": {"SET": set_, "RigL": rigl},
}
METHODS: dict[str, Method] = RANDOM | {name: method for family in FAMILIES.values() for name, method in family.items()}
