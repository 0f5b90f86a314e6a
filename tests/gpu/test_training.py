"""Training with masks on a GPU: the dead stay dead through fused steps, scaled losses and compiled models."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from training_tasks import EVERY, STEPS, UPDATES, assert_zero, batch, loss_of, net

import masklib as ml
from masklib.adapters import parametrize
from masklib.adapters.training import attach

pytestmark = pytest.mark.filterwarnings("ignore:TensorFloat32")  # what torch.compile recommends
HALF = partial(ml.layerwise(ml.l1_unstructured), amount=0.5)
DENSE = ("straight through", "sr-ste")  # updates whose dead weights go on learning


def train(model, optimizer, pruning, steps=STEPS, forward=None):
    for step in range(steps):
        optimizer.zero_grad()
        loss_of((forward or model)(batch(step).cuda())).backward()
        optimizer.step()
        assert_zero(pruning, optimizer)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("optimizer", ["AdamW", "Adam fused", "SGD nesterov foreach"])
def test_updates_count_as_on_the_cpu(update, optimizer):
    counts = []
    for device in ("cpu", "cuda"):
        model = net().to(device)
        own = EVERY[optimizer](model.parameters())
        pruning = attach(own, model, UPDATES[update])
        for step in range(STEPS):
            own.zero_grad()
            loss_of(model(batch(step).to(device))).backward()
            own.step()
        if update not in DENSE:
            assert_zero(pruning, own)
        assert all(m.device.type == device for m in pruning.masks.values())
        counts.append({n: int(m.sum()) for n, m in pruning.masks.items()})
    assert counts[0] == counts[1]


def test_random_growth_is_that_of_the_cpu():
    """SET drops and grows by a key: with the same weights the same masks."""
    masks = []
    for device in ("cpu", "cuda"):
        model = net().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        pruning = attach(optimizer, model, UPDATES["set"])
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model(batch(step).to(device))).backward()
            optimizer.step()
        masks.append({n: m.cpu() for n, m in pruning.masks.items()})
    assert all(torch.equal(m, masks[1][n]) for n, m in masks[0].items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaled_losses(dtype):
    model = net().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruning = attach(optimizer, model, UPDATES["gradual"])
    scaler = torch.amp.GradScaler("cuda")
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype):
            loss = loss_of(model(batch(step).cuda()))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert_zero(pruning, optimizer)
    assert float(ml.sparsity(pruning.masks)) > 0.7


@pytest.mark.parametrize("update", ["gradual", "rigl"])
def test_compiled_models(update):
    model = net().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    pruning = attach(optimizer, model, UPDATES[update])
    train(model, optimizer, pruning, forward=torch.compile(model))


def test_parametrized_models_train():
    model = net().cuda()
    parametrize.prune(model, HALF)
    forward, optimizer = torch.compile(model), torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(forward(batch(step).cuda())).backward()
        optimizer.step()
    weight = model[0].weight
    assert int((weight == 0).sum()) == weight.numel() // 2


def test_capturable_steps_in_a_graph():
    """A whole step is captured once and replayed: hooks around `step` do not run then, so the masks must be in it."""
    model = net().cuda().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, capturable=True)
    pruning = attach(optimizer, model, UPDATES["static"])
    x = batch(0).cuda()

    def step():
        optimizer.zero_grad(set_to_none=False)
        loss_of(model(x)).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert_zero(pruning, optimizer)


def test_a_run_goes_on_on_another_device():
    runs = []
    for device in ("cpu", "cuda"):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        pruning = attach(optimizer, model, UPDATES["gradual"])
        for step in range(5):
            optimizer.zero_grad()
            loss_of(model(batch(step))).backward()
            optimizer.step()
        state = copy.deepcopy((model.state_dict(), optimizer.state_dict(), pruning.state_dict()))
        model = net(3).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        pruning = attach(optimizer, model, UPDATES["gradual"])
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        pruning.load_state_dict(state[2])
        for step in range(5, STEPS):
            optimizer.zero_grad()
            loss_of(model(batch(step).to(device))).backward()
            optimizer.step()
        assert_zero(pruning, optimizer)
        runs.append({n: int(m.sum()) for n, m in pruning.masks.items()})
    assert runs[0] == runs[1]
