"""Groups: which elements live and die together (items), and which items compete (pools).

Every value is plain data: equal, hashable, picklable, and printing as the call that makes it. All but `labels` and
`coupled` are a folding of the tensor into a matrix: its rows are the pools (`rows`, `windows`) or the items
(`elements`, `channels`, `heads`, `blocks`); `coupled` lays such matrices side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _check
from masklib._names import Tensors, named


def _call(self: Any) -> str:
    """Print a value as the call that makes it."""
    return _printed(self, [f"{n}={getattr(self, n)!r}" for n in self._fields if n not in self._field_defaults])


def _printed(value: Any, given: Sequence[str]) -> str:
    """A call of what is given, with the options that are not the default."""
    options = (f"{n}={getattr(value, n)!r}" for n, v in value._field_defaults.items() if getattr(value, n) != v)
    return f"{type(value).__name__.lower()}({', '.join([*given, *options])})"


def _rows(tensor: Tensor, dim: int, where: str) -> Tensor:
    """One row an index along `dim` that has elements, the other dims flattened in order."""
    dim = _check.dimension(dim, tensor, where)
    rows = tensor.shape[dim] if tensor.numel() else 0
    return tensor.movedim(dim, 0).reshape(rows, math.prod(_without(tensor.shape, dim)))


def _restored(matrix: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Undo `_rows`."""
    dim = dim % len(shape)
    return matrix.reshape(shape[dim], *_without(shape, dim)).movedim(0, dim)


def _without(shape: torch.Size, dim: int) -> torch.Size:
    return shape[:dim] + shape[dim + 1 :]


class Elements(NamedTuple):
    """Single elements, one pool."""

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (items, 1)."""
        return tensor.reshape(tensor.numel(), 1)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        return matrix.reshape(shape)


class Rows(NamedTuple):
    """Single elements, each index along `dim` a pool."""

    dim: int = 0

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (pools, elements)."""
        return _rows(tensor, self.dim, where)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        return _restored(matrix, shape, self.dim)


class Windows(NamedTuple):
    """Single elements, each run of `of` along `dim` a pool."""

    of: int
    dim: int = -1

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (pools, of)."""
        dim = _check.dimension(self.dim, tensor, where)
        _check.divides(self.of, tensor.shape[dim], "`of`", self.dim, where)
        return tensor.movedim(dim, -1).reshape(tensor.numel() // self.of, self.of)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        dim = self.dim % len(shape)
        return matrix.reshape(*_without(shape, dim), shape[dim]).movedim(-1, dim)


class Channels(NamedTuple):
    """Each index along `dim` an item, one pool."""

    dim: int
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (items, elements)."""
        return _rows(tensor, self.dim, where)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        return _restored(matrix, shape, self.dim)


class Heads(NamedTuple):
    """The i-th run of every part along `dim` an item, one pool."""

    count: int  # type: ignore[assignment]  # a tuple's method
    dim: int = 0
    parts: tuple[int, ...] = (1,)
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (items, elements)."""
        slices = _rows(tensor, self.dim, where)
        lengths, items = self._lengths(slices.shape[0], where), self.count if slices.shape[0] else 0
        parts = zip(slices.split(lengths), self._widths(lengths, slices.shape[1]))
        return _joined([part.reshape(items, width) for part, width in parts], 1)

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        dim = self.dim % len(shape)
        lengths, width = self._lengths(shape[dim], ""), math.prod(_without(shape, dim))
        parts = zip(matrix.split(self._widths(lengths, width), 1), lengths)
        return _restored(_joined([part.reshape(length, width) for part, length in parts], 0), shape, dim)

    def _lengths(self, size: int, where: str) -> list[int]:
        """How long each part is."""
        _check.heads_fit(self, size, where)
        return [size * part // sum(self.parts) for part in self.parts]

    def _widths(self, lengths: Sequence[int], width: int) -> list[int]:
        """How many elements an item has in each part."""
        return [length * width // self.count for length in lengths]


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


class Blocks(NamedTuple):
    """Tiles over the last dims as items, one pool."""

    shape: tuple[int, ...]
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return _call(self)

    def matrix(self, tensor: Tensor, where: str) -> Tensor:
        """Fold into (tiles, elements), tiles and their elements in row-major order."""
        if tensor.dim() < len(self.shape):
            _check.too_few_dims(self, tensor, where)
        grid = self._grid(tensor.shape, where)
        return (
            tensor.reshape(grid).permute(self._order(grid)).reshape(-1 if tensor.numel() else 0, math.prod(self.shape))
        )

    def restore(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        grid = self._grid(shape, "")
        order = self._order(grid)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return matrix.reshape([grid[d] for d in order]).permute(inverse).reshape(shape)

    def _grid(self, shape: torch.Size, where: str) -> list[int]:
        """The shape with each tiled dim split into (tiles, length)."""
        lead = len(shape) - len(self.shape)
        grid = list(shape[:lead])
        for dim, (size, length) in enumerate(zip(shape[lead:], self.shape)):
            _check.divides(length, size, f"`shape[{dim}]`", lead + dim, where)
            grid += [size // length, length]
        return grid

    def _order(self, grid: list[int]) -> list[int]:
        """The dims of the grid: leading dims, then tiles, then the elements of a tile."""
        lead = len(grid) - 2 * len(self.shape)
        return [*range(lead), *range(lead, len(grid), 2), *range(lead + 1, len(grid), 2)]


Member = Elements | Channels | Heads | Blocks  # what `coupled` takes


class Coupled(NamedTuple):
    """The i-th items of the tensors of a set an item, the items of all sets one pool."""

    sets: tuple[tuple[tuple[str, Member], ...], ...]
    p: float | None = None
    mean: bool = False

    def __repr__(self) -> str:
        return _printed(self, [repr(dict(members)) for members in self.sets])


class Labels(NamedTuple):
    """Items and pools by integer label of each element."""

    items: Tensors
    pools: Tensors | None = None

    def __repr__(self) -> str:
        return f"labels(items={self.items!r}, pools={self.pools!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and all(_equal(a, b) for a, b in zip(self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple((name, tuple(t.shape)) for name, t in named(self.items).items()))


def _equal(a: Tensors | None, b: Tensors | None) -> bool:
    if a is None or b is None:
        return a is b
    left, right = named(a), named(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


Groups = Elements | Rows | Channels | Heads | Blocks | Windows | Coupled | Labels


def elements() -> Elements:
    """Let single elements compete in one pool: unstructured pruning.

    Returns:
        The groups value: every element is an item. Over a mapping the pool spans all tensors (global pruning).

    >>> elements()
    elements()
    """
    return Elements()


def rows(dim: int = 0) -> Rows:
    """Let single elements compete within each index along `dim`.

    The comparison group of Wanda for an (out, in) weight: each output row loses the same share. Pools never span
    tensors. From a mask that is all True, `keep` and `sparsity` leave every row as many elements: the constant fan-in
    of SRigL. `vmap` over the rows of the rest does a round of dynamic sparse training that keeps it so:

        regrow_rows = torch.vmap(lambda s, m, g: regrow(s, m, grow_scores=g, amount=0.3))

    Args:
        dim: the dim whose indices are the pools.

    >>> rows(-1)
    rows(dim=-1)
    >>> compute_mask(torch.rand(3, 8), keep=2, groups=rows()).sum(1)
    tensor([2, 2, 2])

    Reference: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, section 3; Lasby
    et al., "Dynamic Sparse Training with Structured Sparsity", ICLR 2024, section 3 (SRigL).
    """
    return Rows(_check.integer(dim, "dim", "rows(0)"))


def channels(dim: int, *, p: float | None = None, mean: bool = False) -> Channels:
    """Let whole slices along `dim` compete in one pool: structured pruning.

    The score of a slice is the sum of its live scores, or (sum of abs(score)**p)**(1/p) if `p` is given; with `mean`
    it is divided by the number of live scores (by its p-th root), so that slices of different sizes compare: over a
    mapping of layers, `channels(0, p=2, mean=True)` ranks the channels of all by their root mean square.

    Args:
        dim: the dim whose indices are the items; 0 is the output channels of a Linear or Conv weight.
        p: the order of the norm, any number, inf and -inf included; None for the signed sum.
        mean: whether to divide by the live count.

    Raises:
        TypeError: if `dim`, `p` or `mean` is not an int, a number, a bool.

    >>> channels(0, p=2)
    channels(dim=0, p=2.0)
    """
    return Channels(_check.integer(dim, "dim", "channels(0)"), *_check.norm(p, mean))


def heads(
    count: int, dim: int = 0, *, parts: Iterable[int] = (1,), p: float | None = None, mean: bool = False
) -> Heads:
    """Let attention heads, or other runs of a projection, compete in one pool.

    `dim` is cut into consecutive parts in proportion to `parts`, and each part into `count` equal runs: item i is the
    i-th run of every part.

        heads(12)                          a query, key or value projection (heads * size, in)
        heads(12, dim=1)                   an output projection (out, heads * size)
        heads(12, parts=(1, 1, 1))         queries, keys and values in one projection, one behind another
        heads(8, parts=(32, 8, 8))         the same of 32 query heads and 8 key/value heads: each with its 4 queries
        heads(channels, dim=1)             a Linear behind the Flatten of (channels, height, width)

    Args:
        count: how many items there are; with grouped queries, the key/value heads.
        dim: the dim along which the runs lie.
        parts: the lengths of the parts, or whole numbers in proportion; kept in lowest terms.
        p: the order of the norm that scores an item, as in `channels`; None for the signed sum.
        mean: whether to divide by the live count.

    Raises:
        TypeError: if `count` or `dim` is not an int, or `parts` not a sequence of ints.
        ValueError: if `count` or a part is not positive; and, once applied, if a part does not split into runs.

    >>> heads(8, parts=(32, 8, 8))
    heads(count=8, parts=(4, 1, 1))
    >>> compute_mask(torch.arange(6.0), amount=1, groups=heads(2, parts=(2, 1)))
    tensor([False, False,  True,  True, False,  True])

    Reference: Michel et al., "Are Sixteen Heads Really Better than One?", 2019; Ainslie et al., "GQA: Training
    Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", 2023.
    """
    number, along = _check.lengths((count,), "count", "heads(12)")[0], _check.integer(dim, "dim", "heads(12, dim=1)")
    sizes = _check.lengths(parts, "parts", "heads(8, parts=(32, 8, 8))")
    lowest = tuple(size // math.gcd(*sizes) for size in sizes)
    return Heads(number, along, lowest, *_check.norm(p, mean))


def blocks(shape: Iterable[int], *, p: float | None = None, mean: bool = False) -> Blocks:
    """Let tiles over the last `len(shape)` dims compete in one pool.

    Args:
        shape: the lengths of a tile, which must divide the lengths of the last dims.
        p: the order of the norm that scores a tile, as in `channels`; None for the signed sum.
        mean: whether to divide by the live count.

    Raises:
        TypeError: if `shape` is not a sequence of ints.
        ValueError: if a length is not positive.

    >>> blocks((4, 4), p=1)
    blocks(shape=(4, 4), p=1.0)
    """
    return Blocks(_check.lengths(shape, "shape", "blocks((4, 4))"), *_check.norm(p, mean))


def windows(of: int, dim: int = -1) -> Windows:
    """Let the elements of each run of `of` consecutive ones along `dim` compete: N:M sparsity.

    Args:
        of: the length of a window, M of N:M; it must divide the length of the dim.
        dim: the dim along which windows run; -1 is in_features of an (out, in) weight.

    Raises:
        ValueError: if `of` is not positive.

    >>> windows(4)
    windows(of=4)
    """
    return Windows(_check.lengths((of,), "of", "windows(4)")[0], _check.integer(dim, "dim", "windows(4, dim=-1)"))


def coupled(*sets: Mapping[str, Member], p: float | None = None, mean: bool = False) -> Coupled:
    """Let items that span the tensors of a mapping compete in one pool, and tensors have items of their own kind.

        item i of a set = the i-th items of all its tensors

    A channel goes with its bias and with the inputs of the next layer; a head with its output projection. A set of
    one name is a tensor with a structure of its own. The score of an item is that of `channels`, over its live
    scores in all its tensors. Among equals the set of the lower least name dies first, then the lower index.

    Args:
        sets: mappings from name to `channels`, `heads`, `blocks` or `elements`, without `p` and `mean` of their own;
            together they have exactly the names of the scores, and the tensors of one set as many items each.
        p: the order of the norm that scores an item, as in `channels`; None for the signed sum.
        mean: whether to divide by the live count, so that items of different sizes compare.

    Raises:
        TypeError: if a set is not a mapping from names to such groups; and, once applied, if the scores are a tensor.
        ValueError: if a set is empty, a name is in two sets, or groups have their own `p` or `mean`; and, once
            applied, if names are missing or unknown, or tensors of a set differ in their number of items.

    >>> units = coupled({"fc1.weight": channels(0), "fc1.bias": channels(0), "fc2.weight": channels(1)}, p=2)
    >>> params = {"fc1.weight": torch.ones(2, 3), "fc1.bias": torch.tensor([0.0, 5.0]), "fc2.weight": torch.ones(2, 2)}
    >>> compute_mask(params, amount=1, groups=units)["fc2.weight"]
    tensor([[False,  True],
            [False,  True]])

    Reference: Fang et al., "DepGraph: Towards Any Structural Pruning", 2023.
    """
    _check.coupled_sets(sets, (Elements, Channels, Heads, Blocks))
    return Coupled(tuple(sorted(tuple(sorted(members.items())) for members in sets)), *_check.norm(p, mean))


def labels(items: Tensors, pools: Tensors | None = None) -> Labels:
    """Say by integer label which elements form an item and which items a pool: the general form.

    An item's score is the sum of its live scores; among equals the lower label dies first. Equal labels in several
    tensors of a mapping are one item.

    Args:
        items: integer labels, a tensor of the scores' shape or a mapping of them by name.
        pools: integer labels likewise, constant within each item; None for one pool.

    Raises:
        TypeError: if a label tensor is not of an integer dtype.

    >>> labels(torch.tensor([0, 0, 1]))
    labels(items=tensor([0, 0, 1]), pools=None)
    """
    return Labels(_check.labelling(items, "items"), None if pools is None else _check.labelling(pools, "pools"))
