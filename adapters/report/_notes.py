"""What a person should know of a pruned model, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ._layer import Layer

_SHOWN = 3  # names in a sentence, beside their number


def cut_through(layers: Mapping[str, Layer]) -> list[str]:
    """Layers of which nothing lives, so that whatever stands behind them sees nothing of the input."""
    cut = [name for name, layer in layers.items() if layer.size and not layer.kept and len(layer.shape) > 1]
    return [f"{_names(cut)}: no entry lives, so that nothing of the input passes. Keep some, by `least=1`, or by a "
            "sparsity for each layer."] if cut else []  # fmt: skip


def not_honoured(values: Mapping[str, Tensor], masks: Mapping[str, Tensor], remedy: str) -> list[str]:
    """Entries that a mask kills and that are not zero in what the model computes with."""
    wrong = _alive_behind(values, masks)
    return [f"{_names(list(wrong))}: {sum(wrong.values()):,} entries are masked and not zero, so that the mask no "
            f"longer holds. {remedy}"] if wrong else []  # fmt: skip


def lost(values: Mapping[str, Tensor], masks: Mapping[str, Tensor], remedy: str) -> list[str]:
    """Values that stand behind masks, which go when the pruning is made permanent."""
    held = _alive_behind(values, masks)
    return [f"{_names(list(held))}: {sum(held.values()):,} dead entries still have a value behind the mask. {remedy}"
            ] if held else []  # fmt: skip


def _alive_behind(values: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """By name, how many masked entries are not zero; nothing for none."""
    counts = {name: int(((values[name].detach() != 0) & ~mask).count_nonzero()) for name, mask in masks.items()}
    return {name: count for name, count in counts.items() if count}


def _names(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
