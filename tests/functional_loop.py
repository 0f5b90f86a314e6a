"""Training as pure functions: one step with the update of masks in it, in the arithmetic of `torch.optim.SGD`."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch.func import functional_call, grad_and_value
from training_tasks import loss_of

import masklib as ml

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def sgd(params):
    return torch.optim.SGD(params, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


class State(NamedTuple):
    params: dict  # name: tensor
    velocity: dict  # the same names and shapes
    buffers: dict
    masks: dict  # of the weights
    evidence: tuple = ()


def weights(params):
    return ml.select(params, lambda name, p: p.dim() > 1)


def start(model, update):
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    velocity = {name: torch.zeros_like(p) for name, p in params.items()}
    masks = update(0, weights(params), ml.dense(weights(params)))
    return State(ml.apply(params, masks), ml.apply(velocity, masks), buffers, masks)


def loss(model, params, buffers, x):
    buffers = dict(buffers)
    return loss_of(functional_call(model, {**params, **buffers}, (x,))), buffers


def step(model, update, number, state, x):
    """One step; `number` counts it, an int or a 0-d tensor."""
    differentiated = grad_and_value(partial(loss, model), has_aux=True)
    dense, (_, buffers) = differentiated(state.params, state.buffers, x)
    evidence = state.evidence
    if update.observe is not None:
        evidence = update.observe(evidence or None, weights(state.params), weights(dense))
    grads = ml.apply(dense, state.masks)  # dead parameters are zero: this is the gradient at apply(params, masks)
    moved = {n: torch.add(grads[n], p, alpha=DECAY) for n, p in state.params.items()}
    velocity = {n: torch.add(v * MOMENTUM, moved[n]) for n, v in state.velocity.items()}
    params = {n: torch.add(p, velocity[n], alpha=-RATE) for n, p in state.params.items()}
    params, velocity = ml.apply(params, state.masks), ml.apply(velocity, state.masks)
    seen = weights(dense) if update.observe is None else evidence
    masks = update(number, weights(params), state.masks, seen)
    return State(ml.apply(params, masks), ml.apply(velocity, masks), buffers, masks, evidence)
