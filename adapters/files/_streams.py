"""The tensors of a file as streams, one after another: of a checkpoint, or of a file of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ._checkpoint import Checkpoint, open_checkpoint
from ._header import read_header
from ._mask_stream import streamed_masks
from ._masks import LAYOUT, read_metadata
from ._names import a_path
from ._reading import Counter, reading

Named = Iterator[tuple[str, Tensor]]


@contextmanager
def streams(path: Any, tell: Callable[[int, int], None] | None = None) -> Iterator[tuple[Named, tuple[Any, ...]]]:
    """What a file holds by name, and the history of masks; nothing is read before it is looked at.

    Args:
        path: as of `open_checkpoint`, or of a file of `save_masks`.
        tell: is called with the bytes read so far.

    Yields:
        Pairs of a name and a stream, and the steps of the history.
    """
    checkpoint = open_checkpoint(path)
    if any(texts.get("layout") == LAYOUT for texts in checkpoint.metadata.values()):
        with streamed_masks(path) as masks:
            yield iter(masks.items()), read_metadata(read_header(a_path(path)))[1]
    else:
        yield _tensors(checkpoint, tell), ()


def _tensors(checkpoint: Checkpoint, tell: Callable[[int, int], None] | None) -> Named:
    with reading(checkpoint, Counter(tell)) as files:
        for name in checkpoint:
            entry = checkpoint.entries.get(name)
            yield name, checkpoint[name] if entry is None else files.tensor(entry)
