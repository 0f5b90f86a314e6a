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


@given(st.integers(1, 9), st.integers(-5, 5), st.integers(1, 40), st.integers(-10, 60))
def test_a_window_is_a_range(every, start, length, step):
    due = schedules.window(every=every, start=start, stop=start + length)
    assert due(step) == (step in range(start, start + length, every))
    assert bool(due(torch.tensor(step))) == due(step)
    assert schedules.window(every=every, start=start)(step) == (step >= start and (step - start) % every == 0)


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
        (TypeError, "a step must be an int or a 0-d integer tensor, got 1.5", lambda: ALL["cubic"](1.5)),
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
