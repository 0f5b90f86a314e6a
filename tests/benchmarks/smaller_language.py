"""SmolLM2-135M without a quarter of its neurons and heads: what it loses, what it gets back, and what is gained.

    nice python tests/benchmarks/smaller_language.py [--out results.json] [--steps 40]
    python tests/benchmarks/smaller_language.py [--out results.json] --draw picture.png

The model and the texts are those of language.py. Units are scored on calibration windows, neurons in one pool and keys
and values with their queries in another. The best cut is then trained for a few steps on the logits of the dense model.
What is measured is written as soon as it is known. Twenty minutes of one core.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from language import load, texts
from torch import Tensor, nn

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.structural import Structure, shrink, structure

SHARE = 0.25
RATE = 3e-4  # of Adam


# ---- scores ---------------------------------------------------------------------------------------------------------


def taylor(model: nn.Module, names: list[str], windows: list[Tensor]) -> dict[str, Tensor]:
    """(w * g)**2 summed over the windows."""
    params = {n: p for n, p in model.named_parameters() if n in names}
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for window in windows:
        loss = model(input_ids=window, labels=window, use_cache=False).loss
        grads = dict(zip(params, torch.autograd.grad(loss, list(params.values()))))
        for name, score in ml.scores.taylor({n: p.detach() for n, p in params.items()}, grads).items():
            total[name] += score
    return total


def activation(model: nn.Module, names: list[str], windows: list[Tensor]) -> dict[str, Tensor]:
    """abs(w) * norm(x) of the layers that units enter, and nothing of those that they leave."""
    into = [n for n in names if n.endswith(("down_proj.weight", "o_proj.weight"))]
    states: dict[str, Any] = dict.fromkeys(into)

    def hook(name: str) -> Callable[..., None]:
        def add(_module: Any, args: Any) -> None:
            states[name] = ml.scores.add_input_norms(states[name], args[0].flatten(0, -2))

        return add

    layers = {n: model.get_submodule(n.removesuffix(".weight")) for n in into}
    handles = [layer.register_forward_pre_hook(hook(n)) for n, layer in layers.items()]
    with torch.no_grad():
        for window in windows:
            model(input_ids=window, use_cache=False)
    for handle in handles:
        handle.remove()
    scores = {n: torch.zeros_like(p) for n, p in model.named_parameters() if n in names}
    return scores | {n: ml.scores.wanda(layer.weight.detach(), states[n]) for n, layer in layers.items()}


# How the scores of a unit's elements become its own: a sum, and a norm.
SCORES = {"Taylor": (taylor, 1), "activation": (activation, 2)}


def masks_of(found: Structure, scores: dict[str, Tensor], p: int, layerwise: bool) -> dict[str, Tensor]:
    """A quarter of the neurons, in all layers or in each, and a quarter of the heads."""
    neurons = found.select(lambda s: "mlp" in s.dims[0].name)
    heads = found.select(lambda s: "attn" in s.dims[0].name)
    masks: dict[str, Tensor] = {}
    for part, each in ((neurons, layerwise), (heads, False)):
        mine, floor = {n: scores[n] for n in part.names}, {} if each else {"least": 1}
        masks |= ml.compute_mask(mine, sparsity=SHARE, groups=part.groups(p, layerwise=each), **floor)
    return masks


# ---- training -------------------------------------------------------------------------------------------------------


def distil(student: nn.Module, teacher: nn.Module, windows: list[Tensor], say: Callable[[str], None]) -> None:
    """One step of Adam a window, towards the teacher's distribution of the next token."""
    adam = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
    rate = ml.schedules.cosine(0.0, initial=RATE, stop=len(windows))
    for step, window in enumerate(windows):
        with torch.no_grad():
            aim = teacher(input_ids=window, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
        own = student(input_ids=window, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
        loss = F.kl_div(own, aim, log_target=True, reduction="batchmean")
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        adam.param_groups[0]["lr"] = rate(step) * min(1.0, (step + 1) / 4)
        adam.step()
        say(f"step {step}: loss {float(loss):.3f}")


# ---- what is gained -------------------------------------------------------------------------------------------------


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def cache_bytes(model: nn.Module, window: Tensor) -> int:
    """What the cache of keys and values holds for each token."""
    with torch.no_grad():
        cache = model(input_ids=window[:, :16], use_cache=True).past_key_values
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return sum(t.numel() * t.element_size() for t in tensors) // 16


def rates(models: dict[str, nn.Module], window: Tensor, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Tokens in a second of one core, reading 256 at once and writing 16 one by one; medians, in turns."""
    taken: dict[str, dict[str, list[float]]] = {n: {"read": [], "write": []} for n in models}
    with torch.no_grad():
        for _ in range(rounds):
            for name, model in models.items():
                start = time.thread_time()
                out = model(input_ids=window[:, :256], use_cache=True)
                middle = time.thread_time()
                for i in range(16):
                    out = model(input_ids=window[:, 256 + i, None], past_key_values=out.past_key_values)
                taken[name]["read"].append(256 / (middle - start))
                taken[name]["write"].append(16 / (time.thread_time() - middle))
    return {n: {k: statistics.median(v) for k, v in each.items()} for n, each in taken.items()}


# ---- the run --------------------------------------------------------------------------------------------------------


def measure(out: Path, samples: int, steps: int, length: int) -> None:
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"perplexity": {}, "seconds": {}}
    started = time.process_time()

    def note(part: str, name: str, value: Any) -> None:
        results.setdefault(part, {})[name] = value
        out.write_text(json.dumps(results, indent=1))
        print(f"{time.process_time() - started:6.0f} s  {part}, {name}: {value}", flush=True)

    model, tokenizer = load()
    windows, test = texts(tokenizer, 0, samples + steps, 512)
    calibration, lessons = windows[:samples], [w[:, :length] for w in windows[samples:]]
    note("perplexity", "dense", oneshot.perplexity(model, test))
    before = time.process_time()
    found = structure(model, {"input_ids": calibration[0][:, :16]})
    note("seconds", "structure", time.process_time() - before)
    found = found.select(lambda s: s.units != model.config.hidden_size)
    cuts = {}
    for name, (score, p) in SCORES.items():
        scores = score(model, found.names, calibration)
        for layerwise in (False, True):
            cuts[name, layerwise] = masks = masks_of(found, scores, p, layerwise)
            pruned = copy.deepcopy(model)
            pruned.load_state_dict(ml.apply(dict(model.named_parameters()), masks), strict=False)
            note(
                "perplexity", f"{name}, {'each layer' if layerwise else 'all layers'}", oneshot.perplexity(pruned, test)
            )
            del pruned
    best = min(list(results["perplexity"])[1:], key=lambda n: results["perplexity"][n])
    masks = cuts[best.split(",")[0], best.endswith("each layer")]
    before = time.process_time()
    small = shrink(model, masks, found)
    note("seconds", "shrink", time.process_time() - before)
    note("best", "cut", best)
    models = {"dense": model, "smaller": small}
    for name, each in models.items():
        note("parameters", name, parameters(each))
        note("megabytes", name, sum(p.numel() * p.element_size() for p in each.parameters()) / 1e6)
        note("cache", name, cache_bytes(each, test[0]))
    note("perplexity", "smaller", oneshot.perplexity(small, test))
    for name, rate in rates(models, test[0]).items():
        note("rates", name, rate)
    distil(
        small.train(), model, lessons, lambda line: print(f"{time.process_time() - started:6.0f} s  {line}", flush=True)
    )
    note("perplexity", f"distilled, {steps} steps", oneshot.perplexity(small.eval(), test))


# ---- what is shown ---------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """The cuts by their perplexities; then what was measured of the dense model and of the smaller one."""
    lost = results["perplexity"]
    lines = [f"| {name} | {lost[name]:.2f} |" for name in lost]
    lines += ["", f"| {'':24} | dense | smaller | ratio |"]
    rows = [(part, results[part]["dense"], results[part]["smaller"]) for part in ("parameters", "megabytes", "cache")]
    rates = {name: results["rates"][name] for name in ("dense", "smaller")}
    rows += [(f"tokens/s, {k}", rates["dense"][k], rates["smaller"][k]) for k in ("read", "write")]
    return "\n".join([*lines, *(f"| {n:24} | {a:,.0f} | {b:,.0f} | {b / a:.2f} |" for n, a, b in rows)])


def picture(results: dict[str, Any]) -> Any:
    """Perplexities on a logarithmic axis, and what is left or gained as shares of the dense model's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    figure.suptitle("SmolLM2-135M without a quarter of its neurons and heads")
    left, right = figure.subplots(1, 2)
    lost = {n: p for n, p in results["perplexity"].items() if n != "smaller"}
    best = results["best"]["cut"]
    colours = [
        "#707070" if n == "dense" else "#D55E00" if n.startswith("distilled") else "#0072B2" if n == best else "#B0B0B0"
        for n in lost
    ]
    bars = left.barh(list(lost), list(lost.values()), color=colours)
    left.bar_label(bars, fmt="{:.1f}", padding=3)
    left.set(xlabel="perplexity, logarithmic", xscale="log", xlim=(8, 2.2 * max(lost.values())))
    names = {"parameters": "parameters", "cache": "cache of keys and values"}
    shares = {label: results[part]["smaller"] / results[part]["dense"] for part, label in names.items()}
    for kind, label in (("read", "tokens a second, reading"), ("write", "tokens a second, writing")):
        shares[label] = results["rates"]["smaller"][kind] / results["rates"]["dense"][kind]
    bars = right.barh(list(shares), [100 * share for share in shares.values()], color="#0072B2")
    right.bar_label(bars, fmt="{:.0f} %", padding=3)
    right.axvline(100, color="#707070", linestyle=":")
    right.set(xlabel="% of the dense model's", xlim=(0, 125 * max(shares.values())))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("smaller-language.json"))
    parser.add_argument("--samples", type=int, default=8, help="windows of 512 tokens to score on")
    parser.add_argument("--steps", type=int, default=40, help="of distillation")
    parser.add_argument("--length", type=int, default=256, help="tokens a step")
    parser.add_argument("--draw", type=Path, default=None, help="show earlier results, and write their picture here")
    asked = parser.parse_args()
    if asked.draw:
        results = json.loads(asked.out.read_text())
        print(table(results))
        return picture(results).savefig(asked.draw, dpi=80)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    measure(asked.out, asked.samples, asked.steps, asked.length)


if __name__ == "__main__":
    main()
