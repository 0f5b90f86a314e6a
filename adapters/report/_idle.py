"""Units that are dead or idle, of which channels of single layers say only a part."""

from __future__ import annotations

from typing import Any

import torch

from ..structural import count, idle
from ._sources import Source


def idle_units(source: Source, structure: Any) -> list[str]:
    """What would be left without the units that nothing reads, or that say nothing, in a sentence."""
    if source.model is None:
        raise TypeError("`structure` goes with a module, of which it says the units. Leave it out, or pass the module.")
    known = dict(source.model.named_parameters(remove_duplicate=False))
    elsewhere = [name for name in source.tensors if name not in known]
    if elsewhere:
        raise ValueError(
            f"`structure` goes with plain parameters, but {elsewhere[0]!r} is computed in this module. "
            "Pass a module that was baked, or a plain one with masks=."
        )
    masks = {n: t if t.dtype == torch.bool else t.detach() != 0 for n, t in source.tensors.items()}
    found = idle(source.model, masks, structure)
    before, after = count(structure).parameters, count(structure, found.masks).parameters
    return [f"{found.units:,} units are idle, dead ones aside: shrink(model, idle(model, masks, structure).masks, "
            f"structure) would leave {after:,} of {before:,} parameters."] if after < before else []  # fmt: skip
