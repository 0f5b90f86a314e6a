"""Schedules: published values, ends, order, steps as ints and as tensors, one graph for all steps."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib import schedules

SHARES = st.sampled_from([0.0, 0.3, 0.9, 1.0]) | st.floats(0, 1)
STEPS = st.integers(-10, 300)
RAMPS = {
    "linear": schedules.linear,
    "cubic": schedules.cubic,
    "cosine": schedules.cosine,
    "geometric": schedules.geometric,
    "polynomial": lambda final, **options: schedules.polynomial(final, power=0.5, **options),
}
ALL = {
    **{name: ramp(0.9, stop=100, start=7, initial=0.1, every=8) for name, ramp in RAMPS.items()},
    "one_shot": schedules.one_shot(0.8, at=50),
    "exponential": schedules.exponential(0.2, every=10, start=5, stop=80),
    "endless": schedules.exponential(0.2, every=10),
    "join": schedules.join([schedules.linear(0.5, stop=20), schedules.cubic(0.9, initial=0.5, stop=50)], [30]),
}
over_ramps = pytest.mark.parametrize("ramp", RAMPS.values(), ids=RAMPS)
over_all = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)


def test_published_values():
    """Zhu and Gupta 2017; Evci et al. 2020; Frankle and Carbin 2019 (LeNet-300-100, 0.2, output 0.1)."""
    cubic = schedules.cubic(0.9, stop=100)
    assert [round(cubic(t), 4) for t in (0, 10, 50, 90, 100)] == [0, 0.2439, 0.7875, 0.8991, 0.9]
    decay = schedules.cosine(0.0, initial=0.3, stop=1000)
    assert [round(decay(t), 6) for t in (0, 100, 500, 900, 1000)] == [0.3, 0.292658, 0.15, 0.007342, 0]
    hidden, output = schedules.exponential(0.2), schedules.exponential(0.1)
    left = [(1 - hidden(r)) * 265_200 + (1 - output(r)) * 1_000 for r in (3, 7, 12, 15, 18)]
    assert [round(100 * x / 266_200, 2) for x in left] == [51.28, 21.07, 6.95, 3.58, 1.85]


def test_equal_factors_of_what_is_left_end_exactly():
    """SynFlow's hundred rounds to 90 %; two of five, not one, would be left by 1 - (1 - 0.1 ** (1 / 100)) ** 100."""
    target = schedules.geometric(0.9, stop=100)
    left = [1 - target(step) for step in range(101)]
    assert [b / a for a, b in pairwise(left)] == pytest.approx([0.1 ** (1 / 100)] * 100)
    assert target(100) == 0.9
    assert int(ml.count(ml.compute_mask(torch.arange(5.0), sparsity=target(100)))) == 1


@over_ramps
@given(SHARES, SHARES, st.integers(-5, 5), st.integers(1, 200), st.integers(1, 30))
def test_ends_are_exact_and_what_is_between_is_between(ramp, initial, final, start, length, every):
    schedule = ramp(final, initial=initial, start=start, stop=start + length, every=every)
    assert [schedule(t) for t in (start - 3, start)] == [initial] * 2
    assert [schedule(t) for t in (start + length, start + length + 9)] == [final] * 2
    values = [schedule(t) for t in range(start, start + length + 1)]
    assert all(min(initial, final) - 1e-15 <= v <= max(initial, final) + 1e-15 for v in values)
    sign = math.copysign(1, final - initial)
    assert all(sign * (b - a) >= -1e-15 for a, b in pairwise(values))


@over_ramps
def test_they_are_constant_between_updates(ramp):
    schedule = ramp(0.8, stop=100, start=10, every=20)
    every_step = ramp(0.8, stop=100, start=10)
    for t in range(10, 100):
        assert schedule(t) == every_step(10 + (t - 10) // 20 * 20)


@over_all
@given(STEPS)
def test_tensor_steps_give_the_same(schedule, step):
    for dtype in (torch.int64, torch.int32, torch.int16):
        got = schedule(torch.tensor(step, dtype=dtype))
        assert got.dtype == torch.float64
        assert got.item() == pytest.approx(schedule(step), abs=1e-15)


@over_all
def test_they_are_plain_data(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(schedule) == hash(pickle.loads(pickle.dumps(schedule)))


@over_all
def test_one_graph_serves_all_steps(schedule):
    torch._dynamo.reset()
    weights, graphs = torch.randn(40), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda w, t: ml.l1_unstructured(w, sparsity=schedule(t)), fullgraph=True, backend=count, dynamic=False
    )
    for t in (0, 30, 60, 200):
        assert torch.equal(compiled(weights, torch.tensor(t)), ml.l1_unstructured(weights, sparsity=schedule(t)))
    assert len(graphs) == 1


def test_vmap_over_steps():
    steps = torch.arange(0, 120, 7)
    got = torch.vmap(ALL["cubic"])(steps)
    torch.testing.assert_close(got, torch.tensor([ALL["cubic"](int(t)) for t in steps], dtype=torch.float64))


# ---- updates --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(-5, 5), st.integers(1, 40), st.integers(-10, 60))
def test_updates_are_a_range_and_its_end(every, start, length, step):
    stop = start + length
    expected = step in {*range(start, stop, every), stop}
    made = [ramp(0.5, start=start, stop=stop, every=every) for ramp in RAMPS.values()]
    for schedule in (*made, schedules.exponential(0.2, start=start, stop=stop, every=every)):
        assert schedule.due(step) is expected
        assert bool(schedule.due(torch.tensor(step))) is expected
    endless = schedules.exponential(0.2, start=start, every=every)
    assert endless.due(step) is (step >= start and (step - start) % every == 0)
    assert schedules.one_shot(0.5, at=start).due(step) is (step == start)


@over_all
def test_it_changes_only_where_an_update_is_due(schedule):
    for step in range(-10, 300):
        assert schedule.due(step) or schedule(step) == schedule(step - 1), step


@over_all
def test_updates_are_told_of_tensors(schedule):
    for step in range(-3, 110):
        got = schedule.due(torch.tensor(step))
        assert (got.dtype, got.dim(), got.item()) == (torch.bool, 0, schedule.due(step))


@over_ramps
@given(SHARES, SHARES, st.integers(-5, 5), st.integers(1, 200), st.integers(1, 300))
def test_the_last_update_reaches_the_end(ramp, initial, final, start, length, every):
    """Also if `every` does not divide the way, and if it is longer than the way."""
    schedule = ramp(final, initial=initial, start=start, stop=start + length, every=every)
    steps = [t for t in range(start - 9, start + length + 9) if schedule.due(t)]
    assert (steps[0], steps[-1]) == (start, schedule.stop)
    assert schedule(steps[-1]) == final


@given(st.floats(0, 1), st.integers(-5, 5), st.integers(1, 60), st.integers(1, 70))
def test_each_update_after_the_first_takes_the_same_share(share, start, length, every):
    schedule = schedules.exponential(share, start=start, stop=start + length, every=every)
    steps = [t for t in range(start - 9, start + length + 9) if schedule.due(t)]
    assert [schedule(t) for t in steps] == [1 - (1 - share) ** r for r in range(len(steps))]
    assert schedule(start + length + 100) == schedule(steps[-1])


def test_a_loop_that_asks_when_ends_at_the_end():
    target, masks = schedules.linear(0.45, start=1, stop=50, every=20), None
    updates = [step for step in range(60) if target.due(step)]
    for step in updates:
        masks = ml.compute_mask(torch.arange(100.0), masks, sparsity=target(step))
    assert updates == [1, 21, 41, 50]
    assert ml.count(masks) == 55


def test_joined_schedules_are_due_where_their_parts_are_and_between_them():
    joined = schedules.join([schedules.linear(0.4, stop=20, every=5), schedules.one_shot(0.9, at=3)], [12])
    assert [t for t in range(-5, 40) if joined.due(t)] == [0, 5, 10, 12, 15]
    plain = schedules.join([schedules.one_shot(0.0), lambda step: 0.5], [3])
    assert [t for t in range(6) if plain.due(t)] == [0, 3, 4, 5]
    assert bool(plain.due(torch.tensor(4)))


def test_updates_are_traced_and_batched():
    due = schedules.cubic(0.9, stop=50, every=20).due
    steps = torch.arange(60)
    assert torch.vmap(due)(steps).nonzero().flatten().tolist() == [0, 20, 40, 50]
    torch._dynamo.reset()
    compiled = torch.compile(due, fullgraph=True, backend="eager", dynamic=False)
    assert [t for t in range(60) if compiled(torch.tensor(t))] == [0, 20, 40, 50]


# ---- plain data -----------------------------------------------------------------------------------------------------

VALUES = [
    *ALL.values(),
    *(ramp(0.9, stop=10) for ramp in RAMPS.values()),
    schedules.cosine(0.9, stop=10, every=2),
    schedules.cosine(0.9, stop=10, start=2),
    schedules.one_shot(0.5),
    schedules.one_shot(0.5, at=1),
    schedules.exponential(0.5),
    schedules.exponential(0.5, stop=3),
    schedules.join([schedules.cosine(0.9, stop=10)], []),
    schedules.join([schedules.geometric(0.9, stop=10)], []),
]


def test_values_that_behave_differently_compare_different():
    for i, a in enumerate(VALUES):
        for j, b in enumerate(VALUES):
            assert (a == b) is (i == j)
            assert (hash(a) == hash(b)) is (i == j)
    assert schedules.one_shot(0.5, at=1) != (0.5, 1)
    assert schedules.cubic(0.9, stop=10) == schedules.polynomial(0.9, stop=10, power=3)


@pytest.mark.parametrize("schedule", VALUES, ids=repr)
def test_they_print_as_the_call_that_makes_them(schedule):
    assert eval(repr(schedule), vars(schedules)) == schedule


def test_options_that_are_the_default_are_not_printed():
    assert repr(schedules.cosine(0.9, stop=10)) == "cosine(0.9, stop=10)"
    assert repr(schedules.linear(0.9, stop=10, every=2)) == "polynomial(0.9, stop=10, power=1.0, every=2)"


def test_they_do_not_change():
    with pytest.raises(AttributeError, match="cannot assign"):
        ALL["cosine"].final = 0.5


# ---- bad calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "`final` must be a number in \\[0, 1\\], got 1.5", lambda: schedules.cubic(1.5, stop=9)),
        (TypeError, "`final` must be a number in \\[0, 1\\], got 'x'", lambda: schedules.one_shot("x")),
        (ValueError, "`initial` must be", lambda: schedules.linear(0.5, stop=9, initial=-1)),
        (
            ValueError,
            "`stop` must be after `start`, got start=5 and stop=5",
            lambda: schedules.cosine(0.5, start=5, stop=5),
        ),
        (ValueError, "`every` must be at least 1, got 0", lambda: schedules.exponential(0.2, every=0)),
        (ValueError, "`power` must be positive", lambda: schedules.polynomial(0.5, stop=2, power=0)),
        (TypeError, "`at` must be an int", lambda: schedules.one_shot(0.5, at=1.5)),
        (TypeError, "`parts` must be schedules", lambda: schedules.join([0.5], [])),
        (ValueError, "`boundaries` must be 1 increasing steps", lambda: schedules.join([ALL["cubic"]] * 2, [])),
        (TypeError, "`boundaries` must be a sequence of steps, got 10", lambda: schedules.join([ALL["cubic"]] * 2, 10)),
        (TypeError, "`boundaries` must be a sequence", lambda: schedules.join([ALL["cubic"]] * 2, "10")),
        (TypeError, "`boundaries` must be an int, got 1.5", lambda: schedules.join([ALL["cubic"]] * 2, [1.5])),
        (TypeError, "`parts` must be schedules", lambda: schedules.join(ALL["cubic"], [])),
        (TypeError, "`stop` must be an int, got None", lambda: schedules.cubic(0.5, stop=None)),
        (TypeError, "`step` must be an int", lambda: ALL["cubic"].due(1.5)),
        (TypeError, "`step` must be an int", lambda: ALL["one_shot"].due("now")),
        (TypeError, "`step` must be an int or a 0-d integer tensor, got 1.5", lambda: ALL["cubic"](1.5)),
        (TypeError, "got torch.float32 of shape \\(2,\\)", lambda: ALL["cubic"](torch.ones(2))),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("make", [schedules.linear, schedules.cubic, schedules.cosine, schedules.geometric])
def test_steps_are_named(make):
    with pytest.raises(TypeError, match="positional"):
        make(0.9, 100)
