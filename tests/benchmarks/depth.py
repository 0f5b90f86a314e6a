"""SmolLM2-135M without some of its 30 blocks: perplexities by score, run by hand.

    nice python tests/benchmarks/depth.py [--length 256]

The model and the texts are those of language.py. Some minutes of one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from language import load, texts
from torch import Tensor, nn

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.depth import drop, measure

COUNTS = (1, 3, 6)


def masks_by_rule(
    model: nn.Module, batches: list[dict[str, Tensor]], count: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Which blocks stay, by the rules of the papers, and without looking."""
    add = ml.scores.add_influences
    found = measure(model, batches, add=add)
    yield "influence, one by one", ml.compute_mask(found.scores, amount=count)
    yield "angle, last tokens, a run", measure(model, batches, length=count, last=True).lowest()
    yield "angle, all tokens, a run", measure(model, batches, length=count).lowest()
    names = found.blocks
    yield "the last ones", {name: torch.tensor(i < len(names) - count) for i, name in enumerate(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=256)
    length = parser.parse_args().length
    torch.set_num_threads(1)
    model, tokenizer = load()
    calibration, test = texts(tokenizer, 0, 8, length)
    batches = [{"input_ids": window} for window in calibration]
    print("| blocks dropped | which | perplexity | time |\n|---|---|---|---|")
    start = time.thread_time()
    print(f"| none | | {oneshot.perplexity(model, test):.1f} | 1.00 |", flush=True)
    dense = time.thread_time() - start
    for count in COUNTS:
        for name, masks in masks_by_rule(model, batches, count):
            small = drop(model, masks, {"input_ids": test[0][:, :32]})
            gone = [n.rpartition(".")[2] for n, kept in masks.items() if not kept]
            start = time.thread_time()
            found = oneshot.perplexity(small, test)
            taken = (time.thread_time() - start) / dense
            print(f"| {count} by {name} | {', '.join(gone)} | {found:.1f} | {taken:.2f} |", flush=True)


if __name__ == "__main__":
    main()
