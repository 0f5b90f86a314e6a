"""Layers put in the place of others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Replace layers by name, in place, under all the names that each has; the model itself may be one."""
    new = {id(model.get_submodule(name)): layer for name, layer in layers.items()}
    for module in list(model.modules()):
        module._modules.update({name: new[id(m)] for name, m in module._modules.items() if id(m) in new})
    return new.get(id(model), model)
