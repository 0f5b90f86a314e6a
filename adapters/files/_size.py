"""How many bytes a sparse model takes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

import masklib
from masklib import _read

from ..report._layer import mask_bits


def sparse_size(masks: Mapping[str, Tensor], *, others: int = 0, itemsize: int = 4) -> int:
    """Count the bytes of a model that is stored as its nonzeros and a bit a weight, as papers do.

        itemsize (sum of kept + others) + (sum of the sizes of the layers that are not dense) / 8

    Args:
        masks: bool by name, True = kept.
        others: how many parameters have no mask: biases, norms.
        itemsize: bytes of a weight: 4 in float32, 2 in float16 and bfloat16.

    Returns:
        The bytes, the bits rounded up. The file of `save_masks` is the bits alone, those of dense layers too.

    Raises:
        TypeError: if `masks` is not a mapping of bool tensors, or a number is not an int.
        ValueError: if a number is negative.

    >>> sparse_size({"w": torch.tensor([True, False, False, False, False, False, False, False])}, others=1)
    9

    Reference: Evci et al., "Rigging the lottery", 2020, table 1.
    """
    _read.mapping(masks, "masks")
    kept = masklib.count(masks, per_name=True)
    for argument, number, example in (("others", others, "others=0"), ("itemsize", itemsize, "itemsize=4")):
        if _read.integer(number, argument, example) < 0:
            raise ValueError(f"`{argument}` must be a number from 0 on, got {number}. For example {example}.")
    bits = sum(mask_bits(int(kept[name]), mask.numel()) for name, mask in masks.items())
    return itemsize * (sum(int(number) for number in kept.values()) + others) + -(-bits // 8)
