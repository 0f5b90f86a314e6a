"""The laws of mask algebra: masks are a Boolean lattice, `&` intersection and `|` union, under `<=`.

`a`, `b` and `c` are masks of one form: tensors of one shape, or mappings of the same names. `~a` is `complement(a)`,
`a - b` is `difference(a, b)`, and `b - a` the complement of a within b.
"""

from __future__ import annotations

from typing import Any

from masklib import complement, count, difference, intersection, overlap, sparsity, union
from masklib.testing._oracle import named
from masklib.testing.laws import below, plain, same, storages


def commutes(a: Any, b: Any) -> None:
    """a & b = b & a, a | b = b | a."""
    assert same(intersection(a, b), intersection(b, a))
    assert same(union(a, b), union(b, a))


def associates(a: Any, b: Any, c: Any) -> None:
    """a & (b & c) = (a & b) & c, a | (b | c) = (a | b) | c."""
    assert same(intersection(a, intersection(b, c)), intersection(intersection(a, b), c))
    assert same(union(a, union(b, c)), union(union(a, b), c))


def absorbs(a: Any, b: Any) -> None:
    """a & (a | b) = a = a | (a & b)."""
    assert same(intersection(a, union(a, b)), a)
    assert same(union(a, intersection(a, b)), a)


def distributes(a: Any, b: Any, c: Any) -> None:
    """a & (b | c) = (a & b) | (a & c), a | (b & c) = (a | b) & (a | c)."""
    assert same(intersection(a, union(b, c)), union(intersection(a, b), intersection(a, c)))
    assert same(union(a, intersection(b, c)), intersection(union(a, b), union(a, c)))


def repeats_nothing(a: Any) -> None:
    """a & a = a = a | a, ~~a = a."""
    assert same(intersection(a, a), a)
    assert same(union(a, a), a)
    assert same(complement(complement(a)), a)


def swaps_under_complement(a: Any, b: Any) -> None:
    """De Morgan: ~(a & b) = ~a | ~b, ~(a | b) = ~a & ~b."""
    assert same(complement(intersection(a, b)), union(complement(a), complement(b)))
    assert same(complement(union(a, b)), intersection(complement(a), complement(b)))


def has_bounds(a: Any, b: Any) -> None:
    """(a & ~a) | b = b = (a | ~a) & b."""
    assert same(union(intersection(a, complement(a)), b), b)
    assert same(intersection(union(a, complement(a)), b), b)


def parts(a: Any, b: Any) -> None:
    """a - b = a & ~b, (a - b) | (a & b) = a, and (a - b) & b is empty."""
    rest = difference(a, b)
    assert same(rest, intersection(a, complement(b)))
    assert same(union(rest, intersection(a, b)), a)
    assert not any(bool(mask.any()) for mask in named(intersection(rest, b)).values())


def complements_within(a: Any, b: Any, c: Any) -> None:
    """Within b: ~a = b - a and ~~(a & b) = a & b; within c: ~(a & b) = ~a | ~b."""
    assert same(complement(a, within=b), difference(b, a))
    inner = intersection(a, b)
    assert same(complement(complement(inner, within=b), within=b), inner)
    assert same(complement(inner, within=c), union(complement(a, within=c), complement(b, within=c)))


def orders(a: Any, b: Any) -> None:
    """a & b <= a <= a | b; a <= b if and only if a & b = a if and only if a | b = b."""
    assert below(intersection(a, b), a)
    assert below(a, union(a, b))
    assert below(a, b) == same(intersection(a, b), a) == same(union(a, b), b)


def counts(a: Any, b: Any) -> None:
    """|a| + |b| = |a | b| + |a & b|, |a| + |~a| is the size, |a - b| = |a| - |a & b|."""
    size = sum(mask.numel() for mask in named(a).values())
    assert count(a) + count(b) == count(union(a, b)) + count(intersection(a, b))
    assert count(a) + count(complement(a)) == size
    assert count(difference(a, b)) == count(a) - count(intersection(a, b))


def measures(a: Any, b: Any) -> None:
    """sparsity(a) = |~a| / size, overlap(a, b) = |a & b| / |a | b|; of nothing 0 and 1."""
    size = sum(mask.numel() for mask in named(a).values())
    either = int(count(union(a, b)))
    assert float(sparsity(a)) == (int(count(complement(a))) / size if size else 0.0)
    assert float(overlap(a, b)) == (int(count(intersection(a, b))) / either if either else 1.0)


def leaves_masks_alone(a: Any, b: Any) -> None:
    """Results have the names of a in their order and share no memory with a or b, which stay as they were."""
    before = plain(a), plain(b)
    for got in (intersection(a, b), union(a, b), difference(a, b), complement(a), complement(a, within=b)):
        assert list(named(got)) == list(named(a))
        assert not storages(got) & storages(a, b)
    assert same(a, before[0])
    assert same(b, before[1])


ALGEBRA = (
    commutes,
    associates,
    absorbs,
    distributes,
    repeats_nothing,
    swaps_under_complement,
    has_bounds,
    parts,
    complements_within,
    orders,
    counts,
    measures,
    leaves_masks_alone,
)
