"""A folder of work: the blocks that are finished, and the hidden states."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CellType, CodeType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import masklib

from ..files._alone import alone
from ..files._atomic import whole_file
from ..files._checkpoint import open_checkpoint
from ..files._header import opened, read_exactly
from ..files._history import _value, history_told
from ..files._masks import load_masks, save_masks
from ..files._names import a_path, shown, told
from ..files._targets import folder_target
from ..files._writer import bytes_of, save_tensors
from ._asked import Asked
from ._places import Place
from ._report import Layer, Pruned
from ._settings import computed_by, config_of, modules_of

_CALL = "call.json"
_ABSENT = "absent"


@contextmanager
def working(work: Any, call: Asked, place: Place) -> Iterator[tuple[Blocks, OnDisk]]:
    """Use a folder of work, new or of the same call, and remove it at the end, or if no block was finished."""
    folder = _opened(work, _call(call, place))
    with alone(folder / "lock", "work"):
        blocks = Blocks(folder, place)
        with _states(folder, blocks) as states:
            yield blocks, OnDisk(states)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _states(folder: Path, blocks: Blocks) -> Iterator[Path]:
    """A folder of states, which are computed anew by each call, and may be larger than the model."""
    states = folder / "states"
    with told(folder, "written", "work"):
        shutil.rmtree(states, ignore_errors=True)
        states.mkdir()
    try:
        yield states
    except BaseException:
        shutil.rmtree(states if blocks.weights(0).exists() else folder, ignore_errors=True)
        raise


class Blocks:
    """Blocks that are finished, in files of a folder: one of weights and one of masks each.

    Args:
        folder: which is there.
        place: which knows how weights are stored.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder, self._place = folder, place

    def read(self, index: int) -> tuple[dict[str, Tensor], Pruned] | None:
        """The new weights of a block, and what became of them; None if it is not finished."""
        path = self.weights(index)
        if not path.exists():
            return None
        found = open_checkpoint(path)
        facts = json.loads(found.metadata[path]["done"])
        layers = {n: Layer(b, k, s, tuple(i), e) for n, (b, k, s, i, e) in facts["layers"].items()}
        masks, weights = load_masks(self.masks(index)).masks, self._place.unpacked(found)
        return {name: weights[name] for name in masks}, Pruned(masks, layers, facts["left_out"])

    def write(self, index: int, weights: Mapping[str, Tensor], done: Pruned) -> None:
        """Keep a block: it is finished when its weights are there."""
        save_masks(self.masks(index), done.masks)
        facts = json.dumps({"layers": done.layers, "left_out": done.left_out})
        save_tensors(self.weights(index), self._place.packed(weights), {"done": facts})

    def weights(self, index: int) -> Path:
        """The file of weights."""
        return self._folder / f"{index:05d}.safetensors"

    def masks(self, index: int) -> Path:
        """The file of masks."""
        return self._folder / f"{index:05d}.masks.safetensors"


class OnDisk:
    """States in files of a folder, one a batch: in memory is the one that is asked for.

    Args:
        folder: which is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._like: list[tuple[torch.dtype, torch.Size, torch.device]] = []

    def append(self, state: Tensor) -> None:
        """Add the state of another batch."""
        self._like.append((state.dtype, state.shape, state.device))
        self[len(self) - 1] = state

    def __len__(self) -> int:
        return len(self._like)

    def __getitem__(self, index: int) -> Tensor:
        dtype, shape, device = self._like[index]
        state = torch.empty(shape, dtype=dtype, device="cpu")
        with opened(self._path(index)) as file:
            read_exactly(self._path(index), file, state.view(-1).view(torch.uint8).numpy())
        return state.to(device)

    def __setitem__(self, index: int, state: Tensor) -> None:
        self._like[index] = state.dtype, state.shape, state.device
        with told(self._path(index), "written", "work"):
            bytes_of(state).tofile(self._path(index))

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}"


# ---- whose work it is -----------------------------------------------------------------------------------------------


def _call(call: Asked, place: Place) -> dict[str, Any]:
    """What tells a call from others: all that its result depends on."""
    prepare = getattr(call.rule, "prepare", None)
    functions = [call.rule.add, call.rule.solve, *([] if prepare is None else [prepare])]
    return {
        "masklib": masklib.__version__,
        **computed_by(call),
        "model": place.told(),
        **{f"config.{key}": value for key, value in config_of(call.model).items()},
        "modules": _sum(list(modules_of(call.model))),
        "rule": [*history_told(functions), _hash([_inside(function, ()) for function in functions])],
        "numbers": _value(call.numbers),
        "default_masks": _sum(call.masks),
        "batches": _sum(call.batches),
        "blocks": list(call.blocks),
        "names": list(call.sites),
    }


def _sum(values: Any) -> str:
    """A sum over all bits."""
    result = hashlib.sha256()
    leaves, structure = pytree.tree_flatten(values)
    result.update(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            result.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            result.update(bytes_of(leaf).data)
        else:
            result.update(repr(leaf).encode())
    return result.hexdigest()


def _inside(value: Any, within: tuple[Any, ...]) -> Any:
    """What tells a function from another of its name: its code, and the numbers and functions that it holds."""
    if any(value is other for other in within):
        return "itself"
    if isinstance(value, partial):
        parts = value.func, *value.args, *(one for item in sorted(value.keywords.items()) for one in item)
        return [_inside(part, (*within, value)) for part in parts]
    if isinstance(value, Tensor):
        return _sum([value])
    code = getattr(value, "__code__", None)
    if code is None:
        return _value(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
    closure = (cell.cell_contents for cell in value.__closure__ or () if cell != CellType())
    held = *closure, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()
    return [_code(code), *(_inside(one, (*within, value)) for one in held)]


def _code(code: CodeType) -> Any:
    consts = [_code(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
              for c in code.co_consts]  # fmt: skip
    return code.co_code.hex(), consts, code.co_names


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _opened(work: Any, call: dict[str, Any]) -> Path:
    """The folder, new or with the blocks of this very call."""
    folder = a_path(work, "work")
    if (folder / _CALL).exists():
        _refuse_another(folder, _begun(folder), json.loads(json.dumps(call)))
        return folder
    folder_target(folder, "work")
    with told(folder, "written", "work"):
        folder.mkdir(exist_ok=True)
    with whole_file(folder / _CALL, "work") as sink:
        sink.write(json.dumps(call, indent=2).encode())
    return folder


def _begun(folder: Path) -> Any:
    """The call that began a folder."""
    try:
        with told(folder / _CALL, "read", "work"):
            return json.loads((folder / _CALL).read_text(encoding="utf-8"))
    except ValueError:  # of JSON, or of UTF-8
        raise ValueError(f"`work` {str(folder)!r} is damaged: {_CALL!r} is no JSON. Remove that folder.") from None


def _refuse_another(folder: Path, before: Any, now: dict[str, Any]) -> None:
    before = before if isinstance(before, dict) else {}
    others = [key for key in {**now, **before} if now.get(key, _ABSENT) != before.get(key, _ABSENT)]
    if others:
        was = {key: before.get(key, _ABSENT) for key in others}
        raise ValueError(
            f"`work` {str(folder)!r} was begun by a call with another value of {', '.join(others)}: {shown(was)}. "
            "Make the same call again, or remove that folder to begin anew."
        )
