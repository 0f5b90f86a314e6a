"""Where shards lie, and what crosses between ranks."""

from __future__ import annotations

import pickle

import pytest

from sharded import crew, layouts
from sharded.crew import outcomes, run

SHAPES = [(1,), (5,), (7, 3), (8, 4), (1, 5), (3, 2, 2), (0, 4)]


@pytest.mark.parametrize(("mesh", "placements"), layouts.CASES)
def test_a_layout_says_where_each_entry_lies(mesh, placements):
    for shape in SHAPES:
        results = run(layouts.lies, shape, placements, mesh=mesh)
        owned = []
        for data, index, whole, flat, owns in results:
            assert data == index
            assert whole == flat
            owned += flat * owns
        size = 1
        for side in shape:
            size *= side
        assert sorted(owned) == list(range(size))  # each entry is counted once


def test_unfinished_sums_are_refused():
    for result in outcomes(layouts.partial):
        assert result.kind is TypeError
        assert "sums still to be added up" in result.message


def test_a_shard_that_lies_in_another_way_is_refused():
    assert all(result.kind is ValueError for result in outcomes(layouts.misfit))


@pytest.mark.parametrize("mesh", [(2,), (3,), (2, 2)])
def test_an_error_of_one_rank_is_raised_on_all(mesh):
    for rank in (0, 1):
        results = outcomes(layouts.fails_on, rank, mesh=mesh)
        assert {(r.kind, r.message) for r in results} == {(TypeError, "`x` must be good.")}


@pytest.mark.parametrize("mesh", [(1,), (3,), (4,), (2, 2), (4, 1)])
def test_everything_arrives(mesh):
    size = len(run(layouts.gathers, [0] * 4, mesh=mesh))
    for sizes in ([3, 2, 3, 3], [9, 0, 0, 1], [0, 0, 0, 0], [0, 5, 0, 0]):
        expected = [[rank] * sizes[rank] for rank in range(size)]
        assert run(layouts.gathers, sizes, mesh=mesh) == [expected] * size
    for b, parts in enumerate(run(layouts.exchanges, mesh=mesh)):
        assert parts == [[10 * a + b] * (a * b) for a in range(size)]


def test_calls_that_differ_are_refused_on_all_ranks():
    results = outcomes(layouts.differs, 1, mesh=(3,))
    assert len({r.message for r in results}) == 1
    assert results[0].kind is ValueError


def test_ranks_that_hang_are_ended():
    own = crew.Crew(1)
    with pytest.raises(crew.RankError, match="hang"):
        own.ask(pickle.dumps((layouts.hangs, (), (1,))), (1,), 1)
    assert not own.processes[0].is_alive()


def test_a_failure_of_pytest_is_told():
    for result in outcomes(layouts.fails_as_a_test):
        assert result.kind is crew.RankError
        assert result.message == "as a test does"
