"""What the pictures share: the digits of scikit-learn, a network, a training loop, and one style."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from masklib.adapters.training import Pruning, attach

torch.set_num_threads(1)  # batches this small gain nothing from a second thread
STYLE = Path(__file__).with_name("gallery.mplstyle")


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The 1,797 images of 8 x 8 in a fixed order: 1,437 to learn from, 360 to test on, each with its labels."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    return x[:1437], y[:1437], x[1437:], y[1437:]


TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = images()


def network(*, seed: int = 0, width: int = 100) -> nn.Sequential:
    """Two hidden layers, whose first weight has a column for each pixel."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def fit(
    net: nn.Module, *, steps: int, update: Any = None, seed: int = 0, each: Callable[[int, Any], None] | None = None
) -> Pruning | None:
    """Train with AdamW, pruned by an update of masklib if there is one; `each(step, pruning)` may look on."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.3)
    pruning = None if update is None else attach(optimizer, net, update)
    chance = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if each is not None:
            each(step, pruning)
        rows = torch.randint(len(TRAIN_X), (64,), generator=chance)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(TRAIN_X[rows]), TRAIN_Y[rows]).backward()
        optimizer.step()
    return pruning


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    """The share of the test images that the network gets right."""
    return float((net(TEST_X).argmax(1) == TEST_Y).double().mean())
