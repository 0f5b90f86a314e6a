"""All or nothing: what a call changed in modules is put back if it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .computed import MARK
from .held import HELD

_REPLACED = ("_parameters", "_buffers", "_forward_pre_hooks", MARK, HELD, "_flat_weights", "_update_flat_weights")
_NOTHING: Any = object()


@contextmanager
def unchanged_on_error(
    modules: list[nn.Module], values: Tensor | None = None, *, draws: bool = True, generator: Any = None
) -> Iterator[None]:
    """Put the modules' tables and hooks, and the random state, back if anything fails.

    Args:
        modules: the modules that may change; scripted ones never do.
        values: a parameter whose values are put back too.
        draws: whether anything may be drawn meanwhile.
        generator: one that is drawn from besides torch's own.
    """
    before = None if values is None else values.detach().clone()
    saved = [_saved(m) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    random = _random_states(modules, generator) if draws else []
    try:
        yield
    except BaseException:
        for generator, state in random:
            generator.set_state(state)
        for entry in saved:
            _put_back(*entry)
        if values is not None and before is not None:
            values.detach().copy_(before)
        raise


def _saved(module: nn.Module) -> tuple[Any, ...]:
    """All of these are replaced when they change, but for the hooks, whose table users' handles hold on to."""
    state = module.__dict__
    tables = {name: state.get(name, _NOTHING) for name in _REPLACED}
    hooks = [hook.snapshot() for hook in state.get(MARK, {}).values()]
    return module, type(module), tables, list(state["_forward_pre_hooks"].items()), hooks


def _put_back(module: Any, kind: type, tables: dict[str, Any], pre_hooks: list[Any], hooks: list[Any]) -> None:
    module.__class__ = kind
    for name, table in tables.items():
        if table is _NOTHING:
            module.__dict__.pop(name, None)
        else:
            module.__dict__[name] = table
    module._forward_pre_hooks.clear()
    module._forward_pre_hooks.update(pre_hooks)
    for put_back in hooks:
        put_back()


def _random_states(modules: list[nn.Module], generator: Any) -> list[tuple[Any, Tensor]]:
    """The generators that a method may draw from, and their states."""
    devices = {p.device for m in modules for p in m._parameters.values() if p is not None and p.is_cuda}
    generators = [torch.default_generator, *(torch.cuda.default_generators[d.index or 0] for d in devices)]
    generators += [] if generator is None else [generator]
    return [(each, each.get_state()) for each in generators]
