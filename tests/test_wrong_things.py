"""Every public function is given the wrong thing in each argument, and answers in its own words or rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from wrong import HESSIAN, NORMS, M, W, X, called, told

import masklib as ml

SQUARES, MOVES = ml.scores.add_squared_grads(None, W), ml.scores.add_movement(None, W, W)
GRADS, EXPERTS = ml.scores.add_input_norms(None, W.T), ml.scores.add_expert_norms(None, W[None], W[:, 0].abs()[None])


def model(params: Any, inputs: Any) -> Any:
    return inputs @ params.T


def loss(params: Any, *_: Any) -> Any:
    return params.square().sum()


def step(scores: Any, default_mask: Any = None) -> Any:
    return ml.compute_mask(scores, default_mask, amount=1)


# A right call of everything: the function, and its arguments by name ("*args" are positional ones).
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "compute_mask": (ml.compute_mask, {"scores": W, "default_mask": M, "amount": 1, "groups": ml.rows()}),
    "compute_mask least": (ml.compute_mask, {"scores": {"a": W}, "keep": 3, "least": 1}),
    "l1_unstructured": (ml.l1_unstructured, {"scores": W, "default_mask": M, "sparsity": 0.5}),
    "random_unstructured": (ml.random_unstructured, {"scores": W, "default_mask": M, "key": 1, "keep": 2}),
    "ln_structured": (ml.ln_structured, {"scores": W, "default_mask": M, "n": 2, "dim": 0, "amount": 1}),
    "random_structured": (ml.random_structured, {"scores": W, "default_mask": M, "dim": 1, "key": 1, "amount": 1}),
    "n_of_m": (ml.n_of_m, {"scores": W, "default_mask": M, "keep": 1, "of": 3, "dim": 1}),
    "custom_from_mask": (ml.custom_from_mask, {"scores": W, "default_mask": M, "mask": M}),
    "identity": (ml.identity, {"scores": W, "default_mask": M}),
    "regrow": (ml.regrow, {"scores": W, "default_mask": M, "grow_scores": W, "amount": 1}),
    "fold": (ml.fold, {"history": [step], "scores": W, "default_mask": M}),
    "scan": (ml.scan, {"history": [step], "scores": W, "default_mask": M}),
    "chain": (ml.chain, {"*steps": step}),
    "layerwise": (ml.layerwise, {"method": step}),
    "layerwise called": (ml.layerwise(ml.l1_unstructured), {"scores": {"a": W}, "default_mask": None, "amount": 1}),
    "select": (ml.select, {"params": {"a": W}, "where": lambda name, p: True}),
    "apply": (ml.apply, {"params": W, "masks": M}),
    "dense_grad": (ml.dense_grad, {"params": W, "masks": M, "loss": loss}),
    "dense": (ml.dense, {"params": W}),
    "intersection": (ml.intersection, {"a": M, "b": M}),
    "union": (ml.union, {"a": M, "b": M}),
    "difference": (ml.difference, {"a": M, "b": M}),
    "complement": (ml.complement, {"mask": M, "within": M}),
    "overlap": (ml.overlap, {"a": M, "b": M}),
    "alive": (ml.alive, {"mask": M, "groups": ml.channels()}),
    "count": (ml.count, {"mask": M}),
    "sparsity": (ml.sparsity, {"mask": M}),
    "rows": (ml.rows, {"dim": 0}),
    "windows": (ml.windows, {"of": 2, "dim": 0, "ragged": True}),
    "channels": (ml.channels, {"dim": 0, "p": 2, "mean": True}),
    "heads": (ml.heads, {"count": 2, "dim": 0, "parts": (1,), "p": 2, "mean": True}),
    "blocks": (ml.blocks, {"shape": (1, 2), "p": 2, "mean": True, "ragged": True}),
    "coupled": (ml.coupled, {"*sets": {"a": ml.channels()}, "p": 2, "mean": True}),
    "labels": (ml.labels, {"items": M.long(), "pools": None}),
    "by_index": (ml.Folding.by_index, {"index": torch.tensor([[0], [1]]), "shape": (2,)}),
    "sparsegpt": (
        ml.sparsegpt,
        {"weight": W, "statistics": HESSIAN, "default_mask": M, "sparsity": 0.5, "block": 2, "damping": 0.1},
    ),
    "admm": (
        ml.admm,
        {"weight": W, "statistics": HESSIAN, "default_mask": M, "sparsity": 0.5, "penalty": (1.0,), "relaxation": 1.3}
        | {"damping": 0.1},
    ),
    "reconstruct": (ml.reconstruct, {"weight": W, "statistics": HESSIAN, "mask": M, "damping": 0.1}),
    "uniform": (ml.budgets.uniform, {"params": {"a": W}, "sparsity": 0.5, "fixed": None, "least": 0}),
    "er": (ml.budgets.er, {"params": {"a": W}, "sparsity": 0.5, "fixed": None, "least": 0}),
    "erk": (ml.budgets.erk, {"params": {"a": W}, "sparsity": 0.5, "fixed": {"a": 0.5}, "least": 0}),
    "proportional": (ml.budgets.proportional, {"params": {"a": W}, "sparsity": 0.5, "densities": {"a": 1.0}}),
    "owl": (ml.budgets.owl, {"scores": {"a": W.abs()}, "sparsity": 0.5, "outliers": 5.0, "margin": 0.08, "least": 0}),
    "pooled": (ml.budgets.pooled, {"scores": {"a": W.abs()}, "sparsity": 0.5, "margin": 0.1, "least": 0}),
    "kept": (ml.budgets.kept, {"params": {"a": W}, "sparsities": {"a": 0.5}, "groups": ml.channels()}),
    "magnitude": (ml.scores.magnitude, {"params": W}),
    "random": (ml.scores.random, {"params": W, "key": 1}),
    "lamp": (ml.scores.lamp, {"params": W}),
    "fpgm": (ml.scores.fpgm, {"params": W, "dim": 0}),
    "batch_norm": (ml.scores.batch_norm, {"params": W, "scales": W[:, 0], "dim": 0}),
    "saliency": (ml.scores.saliency, {"params": W, "grads": W}),
    "taylor": (ml.scores.taylor, {"params": W, "grads": W}),
    "fisher": (ml.scores.fisher, {"params": W, "state": SQUARES}),
    "movement": (ml.scores.movement, {"state": MOVES}),
    "grasp": (ml.scores.grasp, {"params": W, "loss": loss}),
    "synflow": (ml.scores.synflow, {"params": W, "model": model, "inputs": X}),
    "wanda": (ml.scores.wanda, {"params": W, "state": NORMS, "dim": 1}),
    "ria": (ml.scores.ria, {"params": W, "state": NORMS, "dim": 1, "power": 0.5}),
    "curvature": (ml.scores.curvature, {"params": W, "state": NORMS, "grads": GRADS, "dim": 1}),
    "reap": (ml.scores.reap, {"state": EXPERTS}),
    "add_expert_norms": (ml.scores.add_expert_norms, {"state": EXPERTS, "outputs": W[None], "gates": W[:, 0][None]}),
    "distance": (ml.scores.distance, {"state": ml.scores.add_angles(None, W, W)}),
    "add_angles": (ml.scores.add_angles, {"state": ml.scores.add_angles(None, W, W), "inputs": W, "outputs": W}),
    "add_influences": (ml.scores.add_influences, {"state": None, "inputs": W, "outputs": W}),
    "add_input_norms": (ml.scores.add_input_norms, {"state": NORMS, "inputs": X}),
    "add_hessian": (ml.scores.add_hessian, {"state": HESSIAN, "inputs": X}),
    "add_squared_grads": (ml.scores.add_squared_grads, {"state": SQUARES, "grads": W}),
    "add_movement": (ml.scores.add_movement, {"state": MOVES, "params": W, "grads": W}),
    "cubic": (ml.schedules.cubic, {"final": 0.9, "stop": 10, "every": 2, "start": 1, "initial": 0.0}),
    "geometric": (ml.schedules.geometric, {"final": 0.9, "stop": 10}),
    "join": (ml.schedules.join, {"parts": [ml.schedules.one_shot(0.5), ml.schedules.one_shot(0.9)], "boundaries": [5]}),
    "due": (ml.schedules.cubic(0.9, stop=10).due, {"step": 3}),
    "a schedule": (ml.schedules.cubic(0.9, stop=10), {"step": 3}),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_right_call_is_right(name):
    called(*CALLS[name])


@pytest.mark.parametrize("name", CALLS)
def test_the_wrong_thing_is_told(name):
    function, arguments = CALLS[name]
    bad = told(function, lambda: arguments)
    assert not bad, "\n" + bad
