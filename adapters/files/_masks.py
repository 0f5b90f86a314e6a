"""Masks in a file: a bit a weight, and a header that says how many are kept, and how they came about."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import masklib
from masklib import _read

from .._module.values import check_values
from ._atomic import whole_file
from ._bits import Bytes, ones, pack, packed_shape, padding_is_zero, rows_and_columns, unpack
from ._header import Header, opened, read_exactly, read_header, unchanged
from ._history import Told, history_told, is_told
from ._json import parsed
from ._names import a_path, broken, shown, wrong_name
from ._targets import file_target
from ._tensors import tensor_of
from ._writer import lay_out, writing

LAYOUT = "masks 1"  # of the metadata and the bits; another number is another layout
_TEXTS = ("layout", "masklib", "masks", "sparsity", "history")


class MaskFile(NamedTuple):
    """What a mask file holds."""

    masks: dict[str, Tensor]  # bool, on the CPU
    history: tuple[Told, ...]  # {"method": name, "with": {parameter: value}} of each step
    version: str  # of the masklib that wrote it


def save_masks(path: Any, masks: Mapping[str, Tensor], history: Any = None) -> None:
    """Save masks and how they came about as one safetensors file, a bit a weight.

    The file appears whole or not at all; an old one stays as it is until then. Each mask is a tensor of bytes, packed
    as docs/reference/files.md says; names, shapes, counts and sparsities, the history and masklib's version are in the
    metadata.

    Args:
        path: of the file, new or to be replaced.
        masks: bool by name, of any shape, on any device.
        history: the steps that made them, or what `load_masks` gave for them; only names and numbers are kept.

    Raises:
        TypeError: if `masks` is not a mapping of whole bool tensors, or `history` no sequence of steps.
        ValueError: if a name cannot be in a file, a mask has no values, or the path is no place for a file.
        OSError: if the system refuses to write; an old file is as it was then.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/masks.safetensors"
    >>> step = partial(masklib.l1_unstructured, amount=0.5)
    >>> save_masks(path, step({"w": torch.tensor([1.0, 3.0, 2.0])}), [step])
    >>> load_masks(path)
    MaskFile(masks={'w': tensor([False,  True,  True])},
             history=({'method': 'l1_unstructured', 'with': {'amount': 0.5}},), version='...')
    """
    target = file_target(path)
    entries = _checked(masks)
    steps = history_told(history)
    packed = {name: pack(mask) for name, mask in entries.items()}
    facts = {name: _facts(tuple(entries[name].shape), data) for name, data in packed.items()}
    header = lay_out(target, _specs(facts), _metadata(facts, steps))
    with whole_file(target) as sink, writing(sink, header) as writer:
        for name in header.entries:
            writer.write(name, packed[name].reshape(-1))


def load_masks(path: Any) -> MaskFile:
    """Load masks that `save_masks` saved, and check them.

        load_masks(path).masks = masks  after  save_masks(path, masks)

    Args:
        path: of the file.

    Returns:
        The masks, in the order in which they were saved; their history; the version of masklib that wrote them.

    Raises:
        ValueError: if anything does not add up: the header, a count, a checksum, a bit that belongs to no weight.
        OSError: if the system cannot read it.
    """
    where = a_path(path)
    header = read_header(where)
    facts, steps = read_metadata(header)
    masks = {}
    with opened(where) as file:
        unchanged(header, file)
        for name, entry in header.entries.items():
            data = np.empty(entry.shape, np.uint8)
            file.seek(entry.offset)
            read_exactly(where, file, data.reshape(-1))
            masks[name] = _unpacked(where, name, data, facts[name])
    return MaskFile({name: masks[name] for name in facts}, steps, header.metadata["masklib"])


def mask_target(value: Any, argument: str) -> Path:
    """Refuse to write masks over anything but masks; nothing is written yet."""
    path = file_target(value, argument)
    if path.exists() and path.stat().st_size:
        try:
            read_metadata(read_header(path))
        except ValueError:
            raise ValueError(
                f"`{argument}` must be new or a file of masks, got {str(path)!r}, which is another file. "
                "Pass another name."
            ) from None
    return path


def join_masks(path: Any, parts: Sequence[Path], history: Any = None) -> None:
    """Save the masks of several files of `save_masks` as one; the bits of one mask at a time are held."""
    target, headers = file_target(path), [read_header(part) for part in parts]
    facts = {name: fact for header in headers for name, fact in read_metadata(header)[0].items()}
    homes = {name: header for header in headers for name in header.entries}
    whole = lay_out(target, _specs(facts), _metadata(facts, history_told(history)))
    with whole_file(target) as sink, writing(sink, whole) as writer:
        for name in whole.entries:
            writer.write(name, tensor_of(homes[name], homes[name].entries[name]).numpy())


# ---- what is written -------------------------------------------------------------------------------------------------


def _checked(masks: Any) -> dict[str, Tensor]:
    """Refuse what is not a mapping of masks that have values."""
    entries = dict(_read.mapping(masks, "masks"))
    for name, mask in entries.items():
        where = _read.place(name, "masks")
        if cause := "it is that of the metadata" if name == "__metadata__" else wrong_name(name):
            raise ValueError(f"`masks` must have names that can be in a file, got {shown(name)}: {cause}. Rename it.")
        if _read.is_sharded(mask):
            raise TypeError(
                f"{where} must be a whole tensor, got a DTensor. Save it with torch.distributed.checkpoint, "
                "which keeps it sharded, or pass .full_tensor(), on every rank."
            )
        check_values(mask, where)
    _read.masks(entries, entries, "masks", "masks")
    return entries


def _facts(shape: tuple[int, ...], data: Bytes) -> dict[str, Any]:
    """What the header says of a mask."""
    kept, size = ones(data), math.prod(shape)
    return {"shape": list(shape), "kept": kept, "sparsity": _sparsity(kept, size), "crc32": zlib.crc32(data.data)}


def _sparsity(kept: int, size: int) -> float:
    return (size - kept) / max(size, 1)


def _specs(facts: Mapping[str, Any]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (torch.uint8, packed_shape(tuple(fact["shape"]))) for name, fact in facts.items()}


def _metadata(facts: Mapping[str, Any], history: tuple[Told, ...]) -> dict[str, str]:
    kept, size = sum(f["kept"] for f in facts.values()), sum(math.prod(f["shape"]) for f in facts.values())
    texts = {
        "layout": LAYOUT,
        "masklib": masklib.__version__,
        "masks": json.dumps(facts),
        "sparsity": json.dumps(_sparsity(kept, size)),
        "history": json.dumps(history),
    }
    return {**texts, "crc32": _checksum(texts)}


def _checksum(metadata: Mapping[str, str]) -> str:
    """Of all that the metadata say: a name or a number that was changed by a bit is not taken for another one."""
    return str(zlib.crc32(json.dumps([metadata[key] for key in _TEXTS]).encode()))


# ---- what is read ----------------------------------------------------------------------------------------------------


def read_metadata(header: Header) -> tuple[dict[str, Any], tuple[Told, ...]]:
    """What the header says of the masks, and the history."""
    path, metadata = header.path, header.metadata
    if metadata.get("layout") != LAYOUT or set(metadata) != {*_TEXTS, "crc32"}:
        raise ValueError(
            f"`path` must be a file of masks of this version (layout {LAYOUT!r}), got {str(path)!r}, whose metadata "
            f"are {shown(metadata)}. Pass what save_masks wrote."
        )
    if metadata["crc32"] != _checksum(metadata):
        raise broken(path, "its metadata have been changed (the checksum disagrees)")
    facts, steps = _object(path, metadata, "masks"), _object(path, metadata, "history")
    if not isinstance(facts, dict) or not isinstance(steps, list) or not all(map(is_told, steps)):
        raise broken(path, "the masks must be an object, and the history a list of steps")
    for name, fact in facts.items():
        _check_facts(path, name, fact)
    if {name: (e.dtype, e.shape) for name, e in header.entries.items()} != _specs(facts):
        raise broken(path, "its tensors are not those that the metadata name")
    if metadata != {**_metadata(facts, tuple(steps)), "masklib": metadata["masklib"], "crc32": metadata["crc32"]}:
        raise broken(path, "what its metadata say does not add up")
    return facts, tuple(steps)


def _object(path: Path, metadata: Mapping[str, str], key: str) -> Any:
    try:
        return parsed(metadata[key].encode(errors="surrogatepass"), f"`{key}` of the metadata")
    except ValueError as error:
        raise broken(path, str(error)) from None


def _check_facts(path: Path, name: str, fact: Any) -> None:
    """Refuse numbers that cannot be those of a mask."""
    if not isinstance(fact, dict) or set(fact) != {"shape", "kept", "sparsity", "crc32"}:
        raise broken(path, f"what is said of {shown(name)} must be its shape, kept, sparsity and crc32")
    shape = fact["shape"]
    numbers = [*shape, fact["kept"], fact["crc32"]] if isinstance(shape, list) else [None]
    if not all(type(number) is int and 0 <= number < 2**60 for number in numbers):
        raise broken(path, f"the numbers of {shown(name)} must be whole and from 0 on, got {shown(fact)}")
    if len(shape) > 64 or rows_and_columns(tuple(shape))[0] * max(1, rows_and_columns(tuple(shape))[1]) >= 2**60:
        raise broken(path, f"no mask can have the shape {shown(shape)} of {shown(name)}")
    if fact["sparsity"] != _sparsity(fact["kept"], math.prod(shape)):
        raise broken(path, f"the sparsity of {shown(name)} is not that of {fact['kept']} of {math.prod(shape)} kept")


def _unpacked(path: Path, name: str, data: Bytes, fact: Mapping[str, Any]) -> Tensor:
    """A mask, once its bits have been checked."""
    shape = tuple(fact["shape"])
    if not padding_is_zero(data, shape):
        raise broken(path, f"{shown(name)} has bits that belong to no weight")
    if (kept := ones(data)) != fact["kept"]:
        raise broken(path, f"{shown(name)} keeps {kept} weights, and its header says {fact['kept']}")
    if zlib.crc32(data.data) != fact["crc32"]:
        raise broken(path, f"the bits of {shown(name)} have been changed (the checksum disagrees)")
    return unpack(data, shape)
