"""Updates as values: what they compute beside slow oracles, when they are due, and under transforms."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_tasks import UPDATES

import masklib as ml
from masklib import schedules, updates


def params(seed=0):
    chance = torch.Generator().manual_seed(seed)
    return {name: torch.randn(4, 8, generator=chance) for name in ("a", "b")}


def run(update, steps, step_of=lambda step: step, advance=None):
    """All masks of some steps; the weights and gradients of each are drawn anew."""
    masks, seen = ml.dense(params()), []
    state = None
    for step in range(steps):
        weights, grads = params(step), params(1000 + step)
        state = state if update.observe is None else update.observe(state, weights, grads)
        masks = (advance or update)(step_of(step), weights, masks, grads if update.observe is None else state)
        seen.append({n: m.clone() for n, m in masks.items()})
    return seen


def same(a, b):
    return all(torch.equal(x[n], y[n]) for x, y in zip(a, b, strict=True) for n in x)


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_masks_change_only_where_an_update_is_due_and_nothing_is_mutated(update):
    masks = run(update, 14)
    for step in range(1, 14):
        if not update.due(step):
            assert same([masks[step]], [masks[step - 1]])
    assert not same([masks[0]], [masks[-1]]) or update.due(0)
    weights, alive, grads = params(), ml.dense(params()), params(1)
    if update.observe is None:
        before = [{n: t.clone() for n, t in part.items()} for part in (weights, alive, grads)]
        update(3, weights, alive, grads)
        assert same(before, [weights, alive, grads])


@pytest.mark.parametrize("name", [n for n in UPDATES if n not in ("movement", "gradual erk")])
def test_one_compiled_graph_serves_all_steps(name):
    update = UPDATES[name]
    torch._dynamo.reset()
    compiled = torch.compile(lambda *args: update(*args), fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert same(run(update, 8), run(update, 8, step_of=torch.tensor, advance=compiled))


@pytest.mark.parametrize("name", UPDATES)
def test_values_pickle(name):
    copy = pickle.loads(pickle.dumps(UPDATES[name]))
    assert same(run(UPDATES[name], 8), run(copy, 8))


@pytest.mark.parametrize("seed", range(3))
def test_vmap_is_an_ensemble(seed):
    weights = torch.stack([params(seed + i)["a"] for i in range(3)])
    update = updates.gradual(ml.l1_unstructured, schedules.linear(0.5, stop=4))
    batched = torch.vmap(lambda w: update(2, {"w": w}, {"w": torch.ones_like(w, dtype=torch.bool)})["w"])(weights)
    alone = [update(2, {"w": w}, ml.dense({"w": w}))["w"] for w in weights]
    assert torch.equal(batched, torch.stack(alone))


# ---- beside oracles -------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 6), st.integers(1, 25))
def test_ac_dc_alternates(sparse, dense, start, more):
    stop = start + more
    update = updates.ac_dc(sparsity=0.5, sparse=sparse, dense=dense, start=start, stop=stop)
    state, expected, due = "dense", [], []
    for step in range(stop + 3):  # phase by phase, counted out
        before, left = state, 0
        if step == start:
            state, ends = "sparse", step + sparse
        elif start < step < stop and step == ends:
            state = "dense" if state == "sparse" else "sparse"
            ends += dense if state == "dense" else sparse
        elif step == stop:
            state = "sparse"
        due.append(state != before or step == stop or left)
        expected.append(32 if state == "sparse" else 64)
    assert [bool(update.due(step)) for step in range(stop + 3)] == [bool(d) for d in due]
    assert [int(ml.count(m)) for m in run(update, stop + 3)] == expected


@given(st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.integers(1, 4), st.integers(4, 9), st.integers(0, 5))
def test_rigl_is_the_papers_algorithm(sparsity, every, stop, key):
    update = updates.rigl(sparsity=sparsity, every=every, stop=stop, key=key)
    masks = run(update, 12)
    counts = ml.budgets.kept(params(), ml.budgets.erk(params(), sparsity))
    assert all(int(m[n].sum()) == counts[n] for m in masks for n in m)
    share = schedules.cosine(0.0, initial=0.3, stop=stop, every=every)
    for step in range(1, 12):
        if not share.due(step):
            continue
        for name, old in masks[step - 1].items():
            weight, grad = (params(seed)[name].abs().flatten().tolist() for seed in (step, 1000 + step))
            alive = [i for i, m in enumerate(old.flatten().tolist()) if m]
            moved = round(share(step) * len(alive))
            kept = set(sorted(alive, key=lambda i: weight[i])[moved:])
            grown = sorted(set(range(32)) - kept, key=lambda i: grad[i])[32 - len(kept) - moved :] if moved else []
            assert kept | set(grown) == {i for i, m in enumerate(masks[step][name].flatten().tolist()) if m}


def test_set_grows_at_random_and_differently_each_time():
    update = updates.set_(sparsity=0.5, every=2, key=3)
    masks = run(update, 9)
    for step in (2, 4, 6, 8):
        kept = ml.layerwise(ml.l1_unstructured)(params(step), masks[step - 1], amount=0.3)
        noise = ml.scores.random(params(step), key=3 + step)
        for name in kept:
            number = int(masks[step - 1][name].sum() - kept[name].sum())
            grown = ml.compute_mask({name: noise[name]}, {name: ~kept[name]}, keep=number)[name]
            assert torch.equal(masks[step][name], kept[name] | grown)
    assert updates.set_(sparsity=0.5, every=2, stop=5).due(5)


def test_budgets_share_out_what_a_schedule_says():
    update = updates.gradual(ml.l1_unstructured, schedules.linear(0.5, stop=4), budget=ml.budgets.erk)
    weights = {"wide": torch.randn(20, 20), "narrow": torch.randn(2, 20)}
    masks = update(4, weights, ml.dense(weights))
    expected = ml.layerwise(ml.l1_unstructured)(weights, keep=ml.budgets.kept(weights, ml.budgets.erk(weights, 0.5)))
    assert int(ml.count(masks)) == 220
    assert same([masks], [expected])


def test_a_plain_function_is_due_at_every_step():
    update = updates.gradual(ml.l1_unstructured, lambda step: 0.1 * step)
    assert [int(ml.count(m)) for m in run(update, 5)] == [64, 58, 51, 45, 38]


def test_decayed_is_its_equation():
    g, p, m = torch.randn(5), torch.randn(5), torch.tensor([True, False, True, False, False])
    assert torch.equal(updates.decayed({"w": g}, {"w": p}, {"w": m}, 0.5)["w"], g + 0.5 * ~m * p)
