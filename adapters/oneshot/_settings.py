"""What a result depends on beside weights, batches and rule: settings of the model, and what computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..files._history import _value
from ._asked import Asked

# What a model is called and where it lies; `training` is off in the walk.
_ASIDE = ("architectures", "name_or_path", "training")


def computed_by(call: Asked) -> dict[str, Any]:
    """The kinds of devices, and autocast there. One GPU or CPU may go on for another, and rounds as it does."""
    devices = [call.device] if call.device else [site.param.device for site in call.sites.values()]
    kinds = sorted({"cpu" if device.type == "meta" else device.type for device in devices})
    casts = {kind: str(torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind)}
    return {"torch": torch.__version__, "device": kinds, "autocast": casts}


def config_of(host: Any) -> dict[str, Any]:
    """The config of a model or module of transformers, key by key; empty for others."""
    config: Any = getattr(host, "config", None)
    if not hasattr(config, "to_dict"):
        return {}
    keys = {**config.to_dict(), "attn_implementation": getattr(config, "_attn_implementation", None)}
    return {key: _value(value) for key, value in keys.items() if _counts(key)}


def modules_of(model: nn.Module) -> Iterator[Any]:
    """Of each module its class and what it holds, and of all the dtypes and the buffers that are not saved."""
    for name, module in model.named_modules():
        held = {key: value for key, value in vars(module).items() if _counts(key) and _is_plain(value)}
        yield [name, type(module).__qualname__, _value(held), config_of(module)]
    saved = model.state_dict(keep_vars=True)
    yield [[name, str(getattr(tensor, "dtype", None))] for name, tensor in saved.items()]
    yield {name: buffer for name, buffer in model.named_buffers() if name not in saved}


def _counts(key: str) -> bool:
    return not key.startswith("_") and key not in _ASIDE


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple))
