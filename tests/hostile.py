"""Scores that are hard to rank, in every layout, and what every method makes of them on two devices, compared.

Values are drawn on the CPU, so that they are the same wherever they go; they are laid out anew where they arrive.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import registry
import torch

import masklib as ml
import masklib.adapters.prune as drop_in

CPU = torch.device("cpu")
Scores = Any  # a tensor or a mapping of tensors


def draw(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def special(*values: float) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """A tensor that repeats a few values in a shuffled order."""

    def make(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32)[draw(shape).mul(1000).long() % len(values)]

    return make


def extremes(dtype: torch.dtype) -> Callable[[tuple[int, ...]], torch.Tensor]:
    info = torch.iinfo(dtype)

    def make(shape: tuple[int, ...]) -> torch.Tensor:
        values = torch.tensor([info.min, info.max, info.max - 1, info.min + 1, 0, 1, 2])
        return values[draw(shape).mul(1000).long() % len(values)].to(dtype)

    return make


INPUTS: dict[str, Callable[[tuple[int, ...]], torch.Tensor]] = {
    "normal": draw,
    "ties": lambda shape: (draw(shape) * 2).round(),
    "all equal": special(1.0),
    "infinite": special(float("inf"), float("-inf"), 1.0, -2.0),
    "signed zeros": special(0.0, -0.0, 1.0, -1.0),
    "subnormal": special(1e-40, -1e-40, 2e-45, 0.0),
    "NaN": special(float("nan"), 1.0, 2.0, 3.0),
    "float16": lambda shape: (draw(shape) * 1e-5).half(),
    "bfloat16": lambda shape: draw(shape).bfloat16(),
    "float64": lambda shape: 1 + draw(shape).double() * 1e-14,
    **{str(t)[6:]: extremes(t) for t in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)},
}


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, stored in the other order."""
    order = list(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)


# Items add up their elements in float64. A GPU adds in another order, which shows where sums differ in their last bits
# alone, as those of these values do.
SUMS = {
    "channels",
    "channels mean",
    "heads",
    "heads parts",
    "blocks",
    "blocks norm",
    "coupled",
    "ln_structured",
    "chain",
}
ROUNDED = ("float64", "int64", "int32", "mixed integers", "integers and floats")


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda tensor: tensor,
    "transposed": transposed,
    "every second": lambda tensor: torch.stack([tensor, tensor], -1)[..., 0],
    "expanded": lambda tensor: tensor[:1].expand(tensor.shape),
    "unaligned": lambda tensor: torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:].view(tensor.shape),
}


def mappings(shape: tuple[int, ...], device: torch.device) -> Iterator[tuple[str, Scores]]:
    """Several tensors in one call: dtypes mixed, an empty one, and tensors that live on the CPU among them."""
    halves, doubles = draw(shape, 1).half(), draw(shape, 2).double()
    whole = {"b": (draw(shape) * 2).round(), "a": halves.to(device), "c": doubles.to(device)}
    yield "mixed floats", {**whole, "b": whole["b"].to(device)}
    yield "mixed devices", whole
    yield "mixed integers", {"a": extremes(torch.int8)(shape).to(device), "b": extremes(torch.int64)(shape).to(device)}
    yield "integers and floats", {"a": extremes(torch.int64)(shape).to(device), "b": whole["b"].to(device)}
    yield "one is empty", {"a": draw((0, *shape[1:])).to(device), "b": whole["b"].to(device)}
    yield "no tensors", {}


def inputs(shape: tuple[int, ...], device: torch.device) -> Iterator[tuple[str, Scores]]:
    """Every value in every layout, made on the CPU and laid out anew on the device, then the mappings."""
    for (value, make), (layout, view) in itertools.product(INPUTS.items(), VIEWS.items()):
        if value in ("normal", "ties", "float16") or not layout:
            yield f"{value} {layout}".strip(), view(make(shape).to(device))
    yield "empty", draw((0, *shape[1:])).to(device)
    yield from mappings(shape, device)


def masked(scores: Scores, density: float) -> Scores:
    """A mask of the scores' form; on each device the same one."""
    if isinstance(scores, Mapping):
        return {name: masked(scores[name], density) for name in scores}
    kept = torch.rand(scores.shape, generator=torch.Generator().manual_seed(scores.numel())) < density
    return kept.to(scores.device)


def outcome(method: Callable[..., Any], scores: Scores, density: float | None) -> Any:
    """The mask by name and without its device, or the refusal."""
    try:
        mask = method(scores) if density is None else method(scores, masked(scores, density))
    except (ValueError, TypeError, IndexError) as error:
        return type(error).__name__, re.sub(r"cuda(:\d+)?|cpu", "device", str(error))
    named = mask if isinstance(mask, Mapping) else {"": mask}
    return {name: (m.dtype, m.shape, m.cpu()) for name, m in named.items()}


def same(a: Any, b: Any) -> bool:
    if not isinstance(a, dict) or not isinstance(b, dict):
        return type(a) is type(b) and a == b
    return list(a) == list(b) and all(a[n][:2] == b[n][:2] and torch.equal(a[n][2], b[n][2]) for n in a)


def rounds_otherwise(name: str, what: str) -> bool:
    """Whether the masks of a method may differ between devices, as sums do in their last bits."""
    return name in SUMS and what.startswith(ROUNDED)


class Work(NamedTuple):
    """One call of the check: its name, the method with its number, and scores on the CPU and on the device."""

    name: str
    method: Callable[..., Any]
    here: Scores
    there: Scores


def small_works(device: torch.device, quick: bool) -> Iterator[Work]:
    """Every method of the registry, small hostile scores, every number that it takes."""
    for name, case in registry.CASES.items():
        for shape in case.shapes[: 1 if quick else 3]:
            for number in [n for pair in registry.numbers_of(case, 0.3, 0.6) for n in pair][: 1 if quick else None]:
                for (what, here), (_, there) in zip(inputs(shape, CPU), inputs(shape, device)):
                    if rounds_otherwise(name, what):
                        continue
                    yield Work(f"{name}, {what}, {shape}, {number}", registry.bind(case, number), here, there)


def large_works(device: torch.device, quick: bool) -> Iterator[Work]:
    """Pools of such a size that a sample, several passes, long rows and many windows come into play."""
    rows, columns = (64, 1024) if quick else (255, 1536)
    methods: dict[str, Callable[..., Any]] = {
        "l1_unstructured": partial(ml.l1_unstructured, amount=0.5),
        "compute_mask, all but one": partial(ml.compute_mask, keep=1),
        "random_unstructured": partial(ml.random_unstructured, key=3, sparsity=0.9),
        "rows": partial(ml.compute_mask, amount=0.5, groups=ml.rows()),
        "columns": partial(ml.compute_mask, keep=7, groups=ml.rows(-1)),
        "2:4": partial(ml.n_of_m, keep=2, of=4),
        "8:32": partial(ml.n_of_m, keep=8, of=32),
        "channels": partial(ml.compute_mask, amount=0.5, groups=ml.channels(0)),
    }
    here, there = (list(inputs((rows, columns), where)) for where in (CPU, device))
    for (name, method), ((what, a), (_, b)) in itertools.product(methods.items(), zip(here, there)):
        if not rounds_otherwise(name, what):
            yield Work(f"{name}, {what}, ({rows}, {columns})", method, a, b)


def side_stream(scores: torch.Tensor) -> torch.Tensor:
    """Prune scores that a busy stream of its own is still computing."""
    if scores.device.type != "cuda":
        return ml.l1_unstructured(scores, amount=0.5)
    stream = torch.cuda.Stream(scores.device)
    stream.wait_stream(torch.cuda.current_stream(scores.device))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        mask = ml.l1_unstructured(scores.clone(), amount=0.5)
    stream.synchronize()
    return mask


def one_call_for_all(scores: torch.Tensor) -> torch.Tensor:
    levels = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    return torch.vmap(lambda level: ml.l1_unstructured(scores, sparsity=level))(levels)


def compiled(scores: torch.Tensor) -> torch.Tensor:
    return torch.compile(partial(ml.l1_unstructured, amount=0.5), fullgraph=True, backend="aot_eager")(scores)


def module(scores: torch.Tensor) -> torch.Tensor:
    layer = torch.nn.Linear(*reversed(scores.shape), bias=False, device=scores.device)
    layer.weight = torch.nn.Parameter(scores)
    return drop_in.l1_unstructured(layer, "weight", amount=0.5).weight != 0


def ways(device: torch.device, quick: bool) -> Iterator[Work]:
    """Other ways to the same call, and tensors of millions."""
    scores = draw((257, 511))
    for method in (side_stream, one_call_for_all, compiled, module):
        yield Work(method.__name__, method, scores, scores.to(device))
    for name, make in () if quick else INPUTS.items():
        scores = make((2048, 2053))
        yield Work(f"4 M, {name}", partial(ml.l1_unstructured, amount=0.3), scores, scores.to(device))


def check(device: torch.device, quick: bool, until: float) -> tuple[int, list[str]]:
    """Call everything on both sides. Returns the number of calls compared and the names of those that differ."""
    count, wrong = 0, []
    many = itertools.chain(large_works(device, quick), small_works(device, quick))
    some = itertools.islice(many, 0, None, 5 if quick else 1)
    turns = zip(some, itertools.cycle((0.7, 1.0, 0.7, 0.0)))
    both = ((work, density) for work, masked in turns for density in (None, masked))
    for work, density in itertools.chain(((work, None) for work in ways(device, quick)), both):
        if time.monotonic() > until:
            return count, [*wrong, f"not finished in time: stopped at {work.name}"]
        count += 1
        here, there = (outcome(work.method, scores, density) for scores in (work.here, work.there))
        if not same(here, there):
            wrong.append(f"{work.name}, mask of density {density}")
    return count, wrong
