"""Every layer timed in every form, and the model of those that are faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from masklib import _read

from .._module.same import difference, gap
from .._module.trial import call, copied, first_line, quiet, refuse_meta, twin
from .._module.values import a_module
from ._forms import alive, forms_of, no_layer
from ._layers import matrix_of
from ._race import race
from ._replace import replaced
from ._table import Layer, Table

Timer = Callable[[Mapping[str, Callable[[], Any]]], Mapping[str, float]]


def accelerate(
    model: nn.Module, example_inputs: Any, *, margin: float = 1.1, timer: Timer = race
) -> tuple[nn.Module, Table]:
    """Replace the layers of a copy of the model that run faster sparse, on this machine and for inputs like these.

        a layer becomes the fastest of its forms f if  time(dense) >= margin * time(f)

    Each linear layer, `Conv1D` of transformers and convolution (one or two dims, one group) is timed on the inputs that
    it sees: dense; in CSR and BSR, each in both orders of the product; and 2:4 on CUDA. Its outputs in each form must
    be the dense ones but for rounding. All zeros count, whoever made them. If the whole model is not faster with its
    faster layers, all of it stays dense.

    Args:
        model: it is left as it is; it is run in eval mode, without caches and gradients.
        example_inputs: a tuple of arguments or a dict of keyword arguments. Another batch size may have other winners.
        margin: how many times as fast a layer has to be at least to be replaced.
        timer: from functions by name to seconds by name; `race` runs them in turns and takes medians.

    Returns:
        The copy, in the mode of the model, and what was tried and gained, which prints as a table. Replaced layers are
        frozen: their weights are buffers. `restore` loads its `state_dict()` again.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the model has no such layer, does not run on the example inputs, or has no values; or if `timer`
            does not give seconds for each name.

    >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    >>> fast, table = accelerate(net, (torch.randn(8, 64),))
    >>> {name: layer.form for name, layer in table.layers.items()}
    {'0': 'dense', '2': 'dense'}
    """
    _refuse_others(model, margin, timer)
    fast = copied(model)
    layers, left_out = _layers(fast)
    calls = _calls(fast, layers, example_inputs)
    clock = _Clock(timer)
    with quiet():
        left_out |= {name: why for name in layers if (why := _not_alone(layers[name], calls[name])) is not None}
        tried = [name for name in layers if name not in left_out]
        found = {name: _tried(layers[name], calls[name], clock, margin) for name in tried}
        found = _without_spoilers(model, fast, found, example_inputs)
        chosen = {name: each.module for name, each in found.items() if each.module is not None}
        before, after = _in_all(model, fast, chosen, example_inputs, clock)
    rows = {name: each.row for name, each in found.items()}
    if chosen and after >= before:
        chosen, rows = {}, {name: row._replace(form="dense") for name, row in rows.items()}
    return replaced(fast, chosen), Table(rows, left_out, before, after)


class _Found(NamedTuple):
    """What was found of a layer, and what to put in its place."""

    row: Layer
    module: nn.Module | None


class _Clock:
    """A timer whose answers are checked."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer

    def __call__(self, calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        found = self.timer(calls)
        if not isinstance(found, Mapping) or set(found) != set(calls):
            raise ValueError(f"`timer` must give seconds for each of {list(calls)}, got {found!r}. For example race.")
        return {name: _read.real(found[name], f"timer(...)[{name!r}]", "seconds", "timer=race") for name in calls}


def _not_alone(layer: nn.Module, inputs: list[Tensor]) -> str | None:
    """Why a layer cannot be run by itself, as where the model calls it under autocast."""
    try:
        for x in inputs:
            layer(x)
    except Exception as error:
        return f"it does not run by itself on what it is given: {_sentence(first_line(error))}"
    return None if inputs else "it was not called"


def _tried(layer: nn.Module, inputs: list[Tensor], clock: _Clock, margin: float) -> _Found:
    """Time a layer in all its forms."""
    makers, untried = forms_of(layer)
    forms: dict[str, nn.Module] = {"dense": layer}
    expected = [layer(x) for x in inputs]
    for name, make in makers.items():
        try:
            form = make(layer)
            apart = [how for x, y in zip(inputs, expected) if (how := gap(y, form(x))) is not None]
        except Exception as error:  # whatever a backend says of what it cannot do
            untried[name] = f"it fails: {_sentence(first_line(error))}"
            continue
        if apart:
            untried[name] = f"its results differ by {max(apart):.0e}"
        else:
            forms[name] = form
    seconds = clock({name: _run(form, inputs) for name, form in forms.items()})
    best = min(seconds, key=lambda name: seconds[name])
    chosen = best if seconds["dense"] >= margin * seconds[best] else "dense"
    matrix = matrix_of(layer)
    shape = matrix.shape[0], matrix.shape[1]
    row = Layer(type(layer).__name__, shape, alive(matrix), seconds, untried, chosen)
    return _Found(row, None if chosen == "dense" else forms[chosen])


def _sentence(text: str) -> str:
    """The first one: torch goes on with lists of backends."""
    return text.split(". ")[0].rstrip(".")


def _run(form: nn.Module, inputs: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        for x in inputs:
            form(x)

    return run


def _without_spoilers(model: nn.Module, fast: nn.Module, found: dict[str, _Found], inputs: Any) -> dict[str, _Found]:
    """Without layers that the model cannot do with in another form, such as those whose weights it reads itself."""

    def wrong(names: Any) -> str | None:
        chosen = {name: found[name].module for name in names}
        return difference(model, dict(model.named_parameters()), _with(fast, chosen), inputs) if chosen else None

    chosen = [name for name, each in found.items() if each.module is not None]
    if wrong(chosen) is None:
        return found
    why = {name: wrong([name]) for name in chosen}
    fine = [name for name in chosen if why[name] is None]
    together = wrong(fine)
    return {
        name: _kept_dense(each, why.get(name) or together) if each.module is not None else each
        for name, each in found.items()
    }


def _kept_dense(found: _Found, why: str | None) -> _Found:
    if why is None:
        return found
    row = found.row
    return _Found(
        row._replace(form="dense", untried={**row.untried, row.form: f"the model needs it dense: {_sentence(why)}"}),
        None,
    )


def _with(model: nn.Module, layers: Mapping[str, Any]) -> nn.Module:
    """A model that shares all tensors, with some layers replaced."""
    return replaced(twin(model), layers)


def _in_all(
    model: nn.Module, fast: nn.Module, chosen: Mapping[str, nn.Module], inputs: Any, clock: _Clock
) -> tuple[float, float]:
    """Seconds of one run, before and after."""
    args, kwargs = call(inputs)
    models = {"dense": twin(model)} | ({"accelerated": _with(fast, chosen)} if chosen else {})
    seconds = clock({name: lambda m=m: m(*args, **kwargs) for name, m in models.items()})  # type: ignore[misc]
    return seconds["dense"], seconds.get("accelerated", seconds["dense"])


# ---- which layers there are, and what they see ----------------------------------------------------------------------


def _layers(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The layers that have sparse forms, by first name; and why others with weights have none."""
    layers, left_out = {}, {}
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for param in module._parameters.values():
            owners.setdefault(id(param), set()).add(id(module))
    for name, module in model.named_modules():
        why = no_layer(module) or _spoken_for(module, owners)
        if why is None:
            layers[name] = module
        elif any(p is not None and p.dim() > 1 for p in module._parameters.values()):
            left_out[name] = why
    if not layers:
        raise ValueError(
            f"`model` has no linear layer or convolution that could run faster: {left_out or type(model).__name__}."
        )
    return layers, left_out


def _spoken_for(module: nn.Module, owners: Mapping[int, set[int]]) -> str | None:
    """Why a layer cannot be replaced, though it has sparse forms."""
    weight: Any = module.weight
    if _read.is_sharded(weight):
        return "its weight is sharded"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks, which another layer would not run; of a module pruned in place, bake them first"
    return "its weight is tied to another layer's" if len(owners.get(id(weight), ())) > 1 else None


def _calls(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Any) -> dict[str, list[Tensor]]:
    """What goes into each layer in one run of the model."""
    args, kwargs = call(inputs)
    host = twin(model)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(name: str) -> Any:
        return lambda module, given, named: seen[name].append(next(iter([*given, *named.values()])))

    for name in layers:
        host.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True)
    with quiet():
        try:
            host(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"`model` does not run on these `example_inputs`: {first_line(error)} "
                "Pass inputs that model(*example_inputs), or model(**example_inputs), takes."
            ) from error
    return seen


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_others(model: Any, margin: Any, timer: Any) -> None:
    a_module(model, "model")
    refuse_meta(model)
    factor = _read.real(margin, "margin", "a number", "margin=1.1")
    if not 1 <= factor < float("inf"):
        raise ValueError(f"`margin` must be 1 or more (how many times as fast), got {margin}. For example margin=1.1.")
    if not callable(timer):
        raise TypeError(f"`timer` must be a function from calls to seconds, got {timer!r}. For example timer=race.")
