"""The loop over sources that only just keep the protocol: any sample, any runs, any order of the few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masklib.selection import _loop
from masklib.selection._cut import END, Cut, survivors
from masklib.selection._device import Device
from masklib.selection._memory import Memory


class Slow:
    """The protocol, as it is written, on a list; it says how often it was split."""

    def __init__(self, values, alive=None, run=1, sample=None, nested=0.0):
        self.nested = nested  # the share of the live up to which the few are a pool of their own
        self.values = np.asarray(values)
        self.alive = np.ones(len(values), bool) if alive is None else np.asarray(alive)
        self.run, self.given = run, sample
        self.live = int(self.alive.sum())
        self.splits = []

    def sample(self, stride):
        if self.given is not None:
            return np.asarray(self.given, self.values.dtype)
        live = self.values[self.alive]
        starts = range(0, live.size, stride * self.run)
        return np.concatenate([live[s : s + self.run] for s in starts] or [live[:0]])

    def split(self, low, high):
        self.splits.append((low, high))
        v = self.values
        if low is not None and low == high:
            self.held = v == low
            sides = v < low, self.held, v > low
        else:
            below = np.zeros(v.size, bool) if low is None else v <= low
            above = np.zeros(v.size, bool) if high is None else v >= high
            self.held = ~below & ~above
            sides = below, self.held, above
        return tuple(int((side & self.alive).sum()) for side in sides)

    def few(self):
        return self.values[self.held & self.alive][::-1].copy()

    def within(self):
        """A pool of the few, as a source may give that has them in many places."""
        index = np.flatnonzero(self.held & self.alive)
        if not 0 < index.size < self.live * self.nested:
            return None
        return Within(self.values[index], nested=self.nested, index=index)

    def tie(self, value, nth):
        assert (self.held & (self.values == value)).any(), "a value that the last split did not hold"
        return int(np.flatnonzero((self.values == value) & self.alive)[nth])


class Within(Slow):
    """The few of another source, with its indices."""

    def __init__(self, values, nested, index):
        super().__init__(values, nested=nested)
        self.index = index

    def tie(self, value, nth):
        return int(self.index[super().tie(value, nth)])


def lowest_by_sort(values, alive, k):
    order = sorted((i for i in range(len(values)) if alive[i]), key=lambda i: (values[i], i))
    dead = set(order[:k])
    return [bool(alive[i]) and i not in dead for i in range(len(values))]


def right(source, k):
    mask = survivors(source.values, 0, _loop.cut_lowest(source, k), source.alive)
    assert mask.tolist() == lowest_by_sort(source.values, source.alive, k)


@pytest.fixture
def always(monkeypatch):
    """The loop even for a few elements, and narrow brackets."""
    monkeypatch.setattr(_loop, "DIRECT", 0)
    monkeypatch.setattr(_loop, "_SLACK", 1)
    monkeypatch.setattr(_loop, "_SIGMAS", 1)


SOME = st.lists(st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0, np.inf]), min_size=1, max_size=60)


@given(st.data())
def test_the_cut_is_exact_whatever_the_sample_says(always, data):
    values = data.draw(SOME | st.lists(st.floats(allow_nan=False, width=16), min_size=1, max_size=60))
    alive = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    sample = data.draw(st.none() | st.lists(st.sampled_from(values), max_size=10) | st.just([7e9] * 50))
    run = data.draw(st.sampled_from([1, 2, 5, 64]))
    for k in sorted({0, 1, sum(alive) // 2, sum(alive)}):
        if k <= sum(alive):
            right(Slow(values, alive, run, sample), k)


@given(SOME, st.data())
def test_small_pools_are_collected_in_one_split(values, data):
    source = Slow(values)
    right(source, data.draw(st.integers(0, len(values))))
    assert source.splits == [(None, None)]


@given(st.data())
def test_nan_is_found_for_every_number(always, data):
    values = data.draw(SOME)
    at = data.draw(st.integers(0, len(values) - 1))
    values[at] = np.nan
    sample = data.draw(st.sampled_from([None, [x for x in values if x == x], [0.0] * 40]))
    for k in sorted({0, len(values) // 2, len(values)}):
        with pytest.raises(_loop.HasNaN):
            _loop.cut_lowest(Slow(values, sample=sample), k)
        dead = [i != at for i in range(len(values))]
        if k < len(values):
            right(Slow(values, dead, sample=None if sample is None else [0.0] * 40), k)


def test_ties_shut_the_bracket_and_are_asked_for_once():
    source = Slow(np.zeros(2**16))
    assert _loop.cut_lowest(source, 1000) == Cut(0.0, 1000)
    assert source.splits == [(0.0, 0.0)]
    assert _loop.cut_lowest(Slow(np.zeros(2**16)), 2**16) == Cut(0.0, END)


def test_an_honest_sample_needs_one_split():
    generator = np.random.default_rng(0)
    splits = []
    for _ in range(20):
        source = Slow(generator.standard_normal(2**16))
        right(source, 2**14)
        splits.append(len(source.splits))
        few = source.held.sum()
        assert few < 2**16 / 6
    assert sum(splits) <= 22


@pytest.mark.parametrize("scale", ["layers", "slow"])
def test_runs_of_neighbours_that_are_alike_widen_the_bracket(scale):
    """Without their own variance, runs of 64 alike need three splits; differences leave out what changes slowly."""
    generator, splits = np.random.default_rng(0), []
    for _ in range(10):
        rows = generator.standard_normal((1024, 128)) * (
            np.repeat([1, 10], 512)[:, None] if scale == "layers" else np.exp(generator.standard_normal((1024, 1)))
        )
        source = Slow(rows.reshape(-1), run=64)
        right(source, 2**16)
        splits.append(len(source.splits))
        assert source.held.sum() < 2**17 / 2
    assert sum(splits) <= 13


# ---- the sources keep the protocol ----------------------------------------------------------------------------------


@given(st.data())
def test_sources_answer_as_the_protocol_says(data):
    """Counts, the few, ties and the masks of any cut, asked in the order of the loop and at any time."""
    values = np.array(data.draw(SOME), np.float32)
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=values.size, max_size=values.size)), bool)
    at = data.draw(st.integers(0, values.size))
    parts, flags = torch.tensor(values).split([at, values.size - at]), torch.tensor(alive).split([at, values.size - at])
    bounds = sorted(np.float32(data.draw(st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf]))) for _ in range(2))
    low, high = (data.draw(st.sampled_from([None, b])) for b in bounds)
    cut = Cut(np.float32(data.draw(st.sampled_from([-1.0, 0.0, 2.0]))), data.draw(st.sampled_from([0, 3, 9, END])))
    slow = Slow(values, alive)
    expected = slow.split(low, high)
    for kind in (Memory, Device):
        source = kind(list(parts), list(flags), False)
        assert source.live == slow.live
        assert source.split(low, high) == expected
        if low is None or low != high:
            assert sorted(source.few().tolist()) == sorted(slow.few().tolist())
        for value in sorted(set(values[slow.held & alive].tolist())):
            for nth in range(int(((values == value) & alive).sum())):
                assert source.tie(np.float32(value), nth) == slow.tie(value, nth)
        for each in (cut, data.draw(st.sampled_from([Cut(None, 0), cut]))):
            got = torch.cat(source.masks(each)).tolist()
            assert got == survivors(values, 0, each, alive).tolist()
