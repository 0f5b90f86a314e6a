"""Histories as a person reads them: what each step was called, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

import masklib

from ._names import shown

Told = dict[str, Any]  # {"method": its name, "with": its parameters}
_LAYERWISE = masklib.layerwise(masklib.identity).func  # type: ignore[attr-defined]  # what its value is a partial of


def history_told(history: Any) -> tuple[Told, ...]:
    """Say a history as data, each step as `{"method": name, "with": {parameter: number}}`.

    Args:
        history: steps `(scores, default_mask) -> mask`, or steps that were said before; None for none.

    Raises:
        TypeError: if it is no sequence of these.
        ValueError: if a step holds itself.

    >>> history_told([partial(masklib.layerwise(masklib.l1_unstructured), amount=0.2)])
    ({'method': 'layerwise(l1_unstructured)', 'with': {'amount': 0.2}},)
    """
    if history is None:
        return ()
    if not isinstance(history, Sequence) or isinstance(history, (str, bytes)):
        raise TypeError(
            f"`history` must be a sequence of steps, got {shown(history)}. "
            "For example [partial(l1_unstructured, amount=0.2)]."
        )
    try:
        return tuple(_step(index, step) for index, step in enumerate(history))
    except RecursionError:
        raise ValueError("`history` must have an end, got a step that holds itself. Pass its numbers alone.") from None


def is_told(value: Any) -> bool:
    """Whether a step has been said."""
    if not isinstance(value, Mapping) or set(value) != {"method", "with"}:
        return False
    return isinstance(value["method"], str) and isinstance(value["with"], Mapping)


def _step(index: int, step: Any) -> Told:
    if is_told(step):
        return {"method": step["method"], "with": _value(step["with"])}
    if not callable(step):
        raise TypeError(
            f"`history[{index}]` must be a step, or what load_masks gives for one, got {shown(step)}. "
            "For example partial(l1_unstructured, amount=0.2)."
        )
    given = step.keywords if isinstance(step, partial) else {}
    return {"method": _method(step), "with": _value(given)}


def _method(step: Any) -> str:
    """The name of a method, those that it is made of inside."""
    if not isinstance(step, partial):
        return _name(step)
    parts = step.args[0] if step.func is masklib.fold and step.args else step.args
    inside = ", ".join(_text(part) for part in parts) if isinstance(parts, (list, tuple)) else shown(parts)
    name = {masklib.fold: "chain", _LAYERWISE: "layerwise"}.get(step.func, _name(step.func))
    return f"{name}({inside})" if step.args else name


def _text(part: Any) -> str:
    """A method inside another one, with its numbers; any other value as it is written."""
    if not callable(part):
        return str(_value(part))
    given = part.keywords if isinstance(part, partial) else {}
    numbers = ", ".join(f"{name}={_value(value)}" for name, value in given.items())
    return f"{_method(part)}({numbers})" if numbers else _method(part)


def _name(method: Any) -> str:
    """masklib's own by their names, others with their modules."""
    name = getattr(method, "__qualname__", type(method).__qualname__)
    return name if getattr(masklib, name, None) is method else f"{getattr(method, '__module__', '?')}.{name}"


def _value(value: Any) -> Any:
    """What JSON can hold: numbers as they are, tensors by what they are, everything else as it is written."""
    if isinstance(value, Tensor):
        return _value(value.item()) if value.dim() == 0 and not value.is_meta else _tensor(value)
    if isinstance(value, np.generic):
        return _value(value.item())
    if isinstance(value, Mapping):
        return {str(name): _value(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return [_value(one) for one in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _method(value) if callable(value) else _written(value)


def _tensor(value: Tensor) -> str:
    return f"tensor of {str(value.dtype).removeprefix('torch.')}, shape {list(value.shape)}"


def _written(value: Any) -> str:
    """As it prints, unless that is an address, which says nothing later."""
    text = shown(value)
    return type(value).__qualname__ if " at 0x" in text else text
