"""Structural pruning of small networks of many families by masklib and by Torch-Pruning, each judged by its outputs.

    python tests/benchmarks/rivals.py [family ...]

Torch-Pruning is used as the quick start of its README says, and is installed by
`pip install --no-deps torch-pruning==1.6.1`. Each run is a process of its own with half a minute of the processor.

All parameters are drawn at random, so that which rows and columns are left can be read off the values. The masked
model is the original with zeros elsewhere:

exact    the smaller model computes what the masked one does
differs  it runs, but computes something else, by the given share of the largest output
fails    it cannot be run, or saves nothing
error    the library raised
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

import masklib as ml
from masklib.adapters.structural import shrink, structure

sys.path.insert(0, str(Path(__file__).parents[1]))
import zoo

SECONDS = 30
SHARE = 0.3


# ---- the two libraries: a model and inputs in, the smaller model and the masks of its parameters out -----------------


def masklib(model: nn.Module, inputs: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """All sets, each cut by the same share."""
    found = structure(model, inputs)
    scores = {n: p.detach() for n, p in model.named_parameters() if n in found.names}
    masks = ml.compute_mask(scores, sparsity=SHARE, groups=found.groups(p=2, mean=True, layerwise=True))
    first = {id(p): n for n, p in model.named_parameters()}
    by_name = {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
    return shrink(model, masks, found), {n: masks[first] for n, first in by_name.items() if first in masks}


def torch_pruning(model: nn.Module, inputs: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """All groups, each cut by the same share, the layer that gives the output left out, with the help it asks for.

    Caches are off; it is told the heads of each attention, and the sizes in the modules are set by hand afterwards.
    """
    import torch_pruning as tp

    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        config.use_cache = False
    before = {n: p.detach().clone() for n, p in model.named_parameters(remove_duplicate=False)}
    pruner = tp.pruner.MagnitudePruner(
        model,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=SHARE,
        ignored_layers=[last_layer(model)],
        num_heads={layer: heads for attention in model.modules() for layer, heads in projections(attention)},
        output_transform=lambda out: out["logits"] if isinstance(out, dict) else out,
    )
    pruner.step()
    for attention in model.modules():
        set_sizes(attention)
    return model, {n: left(before[n], p.detach()) for n, p in model.named_parameters()}


def projections(module: nn.Module) -> list[tuple[nn.Module, int]]:
    """The projections of an attention with their heads."""
    if isinstance(module, nn.MultiheadAttention):
        return [(module, module.num_heads)]
    layers = [(n, m) for n, m in module.named_children() if n.split("_")[0] in ("q", "k", "v", "query", "key", "value")]
    return [(m, m.out_features // size_of_a_head(module)) for _, m in layers if isinstance(m, nn.Linear)]


def size_of_a_head(attention: nn.Module) -> int:
    """What the module calls it."""
    return next(vars(attention)[n] for n in SIZES if n in vars(attention))


SIZES = ("attention_head_size", "head_dim", "key_value_proj_dim")


def set_sizes(module: nn.Module) -> None:
    """Write the sizes that the projections have now into an attention: it keeps its heads, which are narrower."""
    layers = [m for m, _ in projections(module) if isinstance(m, nn.Linear)] if has_size(module) else []
    names = [n for n in ("num_attention_heads", "num_heads", "n_heads") if n in vars(module)]
    if layers and names:
        wide = layers[0].out_features
        size = wide // vars(module)[names[0]]
        sizes = dict.fromkeys(SIZES, size) | dict.fromkeys(("all_head_size", "inner_dim"), wide)
        vars(module).update({n: v for n, v in sizes.items() if n in vars(module)})


def has_size(module: nn.Module) -> bool:
    return any(n in vars(module) for n in SIZES)


LIBRARIES = {f.__name__: f for f in (masklib, torch_pruning)}


def last_layer(model: nn.Module) -> nn.Module:
    """What gives the output: it is the last one defined in all of these."""
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)][-1]


def left(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Which entries are still there. They are numbers drawn at random, of which no two are equal."""
    return torch.isin(before, after)


# ---- judging ---------------------------------------------------------------------------------------------------------


def run(model: nn.Module, inputs: Any) -> torch.Tensor:
    """The output that the model is for."""
    out = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return (out["logits"] if isinstance(out, dict) else out).detach()


def judge(family: str, library: str, answer: Any) -> None:
    """Cut one model by one library, and send the verdict, the share left of its parameters, and seconds of CPU."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    model, inputs = zoo.build(family)
    big, _ = zoo.build(family)
    start = time.process_time()
    try:
        small, masks = LIBRARIES[library](model, inputs)
    except BaseException as error:
        return answer.send((f"error: {first_line(error)}", None, time.process_time() - start))
    seconds = time.process_time() - start
    return answer.send((verdict(big, small, masks, inputs), size(small) / size(big), seconds))


def verdict(big: nn.Module, small: nn.Module, masks: Any, inputs: Any) -> str:
    """What the smaller model is worth."""
    if size(small) >= size(big):
        return "fails: nothing is cut"
    try:
        got = run(small, inputs)
    except Exception as error:
        return f"fails: {first_line(error)}"
    params = {n: p.detach() for n, p in big.named_parameters(remove_duplicate=False)}
    masked = run_masked(big, ml.apply(params, masks), inputs)
    if got.shape != masked.shape:
        return f"fails: outputs {tuple(got.shape)} instead of {tuple(masked.shape)}"
    gap = float((got - masked).abs().max() / masked.abs().max())
    return "exact" if gap < 1e-6 else f"differs by {gap:.0%}"


def run_masked(model: nn.Module, params: Any, inputs: Any) -> torch.Tensor:
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    out = functional_call(model, params, args, kwargs, tie_weights=False)
    return (out["logits"] if isinstance(out, dict) else out).detach()


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"[:70]


def judged(family: str, library: str) -> tuple[str, float | None, float]:
    """The verdict from a process of its own, ended when its time is over."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=judge, args=(family, library, send), daemon=True)
    child.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        child.join()
        return ("timeout" if child.exitcode == -signal.SIGXCPU else "error: the process died"), None, SECONDS
    finally:
        child.kill()
        child.join()


def main(families: list[str]) -> None:
    for library in LIBRARIES.values():
        library(*zoo.build("mlp"))  # what is imported here, no child waits for
    for family in families:
        zoo.build(family)
        for library in LIBRARIES:
            what, share, seconds = judged(family, library)
            rest = "" if share is None else f"{share:.0%}"
            print(f"{family:14}{library:15}{rest:>5}{seconds:7.2f} s  {what}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [*zoo.PLAIN, *zoo.LANGUAGE])
