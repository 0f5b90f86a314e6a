"""All or nothing: what a call changed in modules is put back if it fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .computed import MARK
from .held import HELD
from .sharded import is_managed, places

_REPLACED = ("_parameters", "_buffers", "_forward_pre_hooks", MARK, HELD, "_flat_weights", "_update_flat_weights")


class unchanged_on_error:  # noqa: N801, a context manager, which costs less as a class: every call makes one
    """Put the modules' tables and hooks, and the random state, back if anything fails.

    Args:
        modules: the modules that may change; scripted ones never do.
        values: a parameter whose values are put back too.
        draws: whether anything may be drawn meanwhile.
        records: whether the modules' hooks may be written to meanwhile.
        generator: one that is drawn from besides torch's own.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        values: Tensor | None = None,
        *,
        draws: bool = True,
        records: bool = True,
        generator: Any = None,
    ) -> None:
        self.values = values
        self.before = None if values is None else values.detach().clone()
        self.saved = [_saved(m, records) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
        self.random = _random_states(modules, generator) if draws else []

    def __enter__(self) -> None:
        """All has been written down already."""

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            return
        for generator, state in self.random:
            generator.set_state(state)
        for entry in self.saved:
            _put_back(*entry)
        if self.values is not None and self.before is not None:
            self.values.detach().copy_(self.before)


def _saved(module: nn.Module, records: bool) -> tuple[Any, ...]:
    """The tables are replaced when they change, but for that of the hooks, which users' handles hold on to."""
    state = module.__dict__
    tables = {name: state[name] for name in _REPLACED if name in state}
    hooks = [hook.snapshot() for hook in state[MARK].values()] if records and MARK in state else []
    hooks += [places(module)] if is_managed(module) else []
    return module, type(module), tables, state["_forward_pre_hooks"].copy(), hooks


def _put_back(module: Any, kind: type, tables: dict[str, Any], pre_hooks: dict[Any, Any], hooks: Any) -> None:
    module.__class__ = kind
    for name in _REPLACED:
        if name in tables:
            module.__dict__[name] = tables[name]
        else:
            module.__dict__.pop(name, None)
    module._forward_pre_hooks.clear()
    module._forward_pre_hooks.update(pre_hooks)
    for put_back in hooks:
        put_back()


def _random_states(modules: list[nn.Module], generator: Any) -> list[tuple[Any, Tensor]]:
    """The generators that a method may draw from, and their states."""
    generators = [torch.default_generator] if generator is None else [torch.default_generator, generator]
    if torch.cuda.is_initialized():
        devices = {p.device for m in modules for p in m._parameters.values() if p is not None and p.is_cuda}
        generators += [torch.cuda.default_generators[d.index or 0] for d in devices]
    return [(each, each.get_state()) for each in generators]
