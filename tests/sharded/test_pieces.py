"""What the parts of items come to, and rows on their way between ranks: laws of one process."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masklib._shards._merge import merged
from masklib._shards._pools import _packed, _unpacked
from masklib.selection._items import reduced

ORDERS = [None, 0, 1, 2, 3, 0.5, 0.01, -0.01, -1, -2.5, math.inf, -math.inf]
SHAPE = 4, 5  # items, elements
SIZE = math.prod(SHAPE)


def each(values):
    """As many values as the items have elements."""
    return st.lists(st.sampled_from(values), min_size=SIZE, max_size=SIZE)


def part(scores, alive, here, p):
    """What a rank sends of the elements that it has: keys, live counts, and the scores of its parts."""
    rows = here.any(1).nonzero()[:, 0]
    partial, live = reduced([scores[rows]], [(alive & here)[rows]], p, False)
    return 10 * rows.numpy() + 3, live.numpy(), partial.numpy()


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("p", ORDERS)
@given(each([0.0, 1.0, 2.0, 3.5, 1e-3, 7e30, math.inf]), each([True, True, False]), each([0, 1, 2]))
def test_parts_of_items_score_as_the_whole(p, mean, scores, alive, ranks):
    if p == 0 and mean:
        return
    whole, living, owner = (torch.tensor(t).view(SHAPE) for t in (scores, alive, ranks))
    sent = [part(whole.double(), living, owner == rank, p) for rank in (2, 0, 1)]
    keys, live, found = merged(*map(np.concatenate, zip(*sent)), p, mean)
    expected, counts = reduced([whole.double()], [living], p, mean)
    assert keys.tolist() == [3, 13, 23, 33]
    assert live.tolist() == counts.tolist()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-12, atol=0, equal_nan=True)


def test_nothing_comes_to_nothing():
    none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    assert [column.size for column in merged(*none, 2.0, True)] == [0, 0, 0]


@given(st.sets(st.integers(0, 30)))
def test_runs_of_rows_are_the_rows(rows):
    rising = np.array(sorted(rows), np.int64)
    runs = _packed(rising)
    assert runs.size == 2 * sum(row - 1 not in rows for row in rows)  # a first and a length for each run
    assert _unpacked(runs).tolist() == rising.tolist()
