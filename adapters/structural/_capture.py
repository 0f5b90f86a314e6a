"""The graph of a model, as `torch.export` captures it, without touching the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._module.trial import call, first_line, quiet, tensors, twin
from ._routing import settle
from ._silence import Way
from ._walk import Act, Rule, Walk, acts, fixed, walk_graph


class Captured(NamedTuple):
    """An exported program and the tensors that its placeholders are.

    Args:
        program: of `torch.export.export`.
        owners: for each placeholder that is a parameter or buffer, its first name in the model; for others None.
        norms: the modules that divide by a root mean square, by their kind and by what they hold.
        constants: tensors of the code, by the names of their placeholders.
        held: tensors of modules that cannot be cut whatever the graph says, with the reason.
    """

    program: Any
    owners: list[str | None]
    norms: frozenset[str]
    held: dict[str, str]
    constants: dict[str, Any]


def traced(model: nn.Module) -> nn.Module:
    """A twin that computes experts together: a loop over those that were chosen cannot be captured."""
    hosts = twin(model)
    for module in hosts.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_experts_implementation", None) == "eager":
            config._experts_implementation = "batched_mm"
    return hosts


def capture(model: nn.Module, inputs: Any) -> Captured:
    """Export a twin of the model; parameters and buffers by their first names."""
    args, kwargs = call(inputs)
    hosts = traced(model)
    with quiet():
        try:
            program = torch.export.export(hosts, args, kwargs, strict=False)
        except Exception as error:
            raise ValueError(
                f"`model` cannot be captured by torch.export with these `example_inputs`: {first_line(error)} "
                "Pass inputs that model(*example_inputs), or model(**example_inputs), takes."
            ) from error
    first = first_names(hosts)
    owners = [
        first.get(str(spec.target)) if spec.kind.name in ("PARAMETER", "BUFFER") else None
        for spec in program.graph_signature.input_specs
    ]
    norms = frozenset(path for path, module in hosts.named_modules() if epsilon(module) is not None)
    constants = {spec.arg.name: program.constants.get(spec.target) for spec in program.graph_signature.input_specs}
    return Captured(program, owners, norms, _held(hosts, first), constants)


def epsilon(module: nn.Module) -> str | None:
    """The attribute for the epsilon of a norm by the root mean square; None for any other module.

    Only what looks like one is taken for one: the name, a weight of one dim, no bias. Whether it is one shows when the
    smaller model is run.
    """
    weight, name = getattr(module, "weight", None), type(module).__name__
    named = "RMSNorm" in name or name == "T5LayerNorm"
    if not named or not isinstance(weight, Tensor) or weight.dim() != 1 or len(list(module.parameters())) != 1:
        return None
    held = ("eps",) if isinstance(module, nn.RMSNorm) else ("variance_epsilon", "eps")
    return next((n for n in held if isinstance(getattr(module, n, None), float) or type(module) is nn.RMSNorm), None)


def _held(model: nn.Module, first: Mapping[str, str]) -> dict[str, str]:
    """Tensors of modules that have one number for sizes which a cut would make differ."""
    found = {}
    for path, module in model.named_modules():
        for name in [n for n, _ in module.named_parameters()] if isinstance(module, nn.MultiheadAttention) else ():
            found[first[f"{path}.{name}" if path else name]] = (
                f"nn.MultiheadAttention in {path or 'the model'} demands that inputs and heads have one size"
            )
    return found


def first_names(model: nn.Module) -> dict[str, str]:
    """The first name of each tensor, by all its names: tied tensors are one."""
    seen: dict[Any, str] = {}
    return {name: seen.setdefault(id(tensor), name) for name, tensor in tensors(model)}


def walked(captured: Captured, shapes: Mapping[str, Any], rules: Mapping[str, Rule], walk: Walk) -> dict[str, Act]:
    """Walk through a captured graph: the labels of each parameter and buffer."""
    known = {n: _parameter(walk, n, shape) for n, (shape, live) in shapes.items() if live}
    graph = captured.program.graph
    holes = [node for node in graph.nodes if node.op == "placeholder"]
    values = {}
    for node, owner in zip(holes, captured.owners):
        value = node.meta.get("val")
        values[node] = known.get(owner or "", _given(value, captured.constants.get(node.name)))
    for act in acts(walk_graph(walk, graph, values, rules)):
        for array in act.dims:
            walk.labels.fix(array, "the model returns it")
    used = {owner for node, owner in zip(holes, captured.owners) if node.users}
    for name, act in known.items():
        unused = None if name in used else "the model does not use it with these inputs"
        why = captured.held.get(name, unused)
        for array in act.dims if why else ():
            walk.labels.fix(array, str(why))
    settle(walk)
    return known


def _parameter(walk: Walk, name: str, shape: tuple[int, ...]) -> Act:
    """A parameter or buffer: the same at all positions if only units go along it."""
    even: Way | None = frozenset() if sum(k > 1 for k in shape) < 2 else None
    return Act(tuple(walk.labels.fresh(k) for k in shape), True, (frozenset({name}),), steady=even)


def _given(value: Any, constant: Any) -> Any:
    """An input, or a constant of the code."""
    if not isinstance(value, Tensor):
        return value
    few = isinstance(constant, Tensor) and not constant.is_floating_point() and constant.dim() == 1
    return Act(fixed(value.shape), values=tuple(constant.tolist()) if few else None)
