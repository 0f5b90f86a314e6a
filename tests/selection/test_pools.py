"""Exact selection on hostile input, with the engine's sizes turned down so that every border is near."""

from __future__ import annotations

import os
import select
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import masklib as ml
from masklib.selection import _device, _loop, _memory, _pieces, _rank, _short, _small, _sorted
from masklib.selection._device import Device
from masklib.testing import _oracle as oracle
from masklib.testing import scored, scores
from masklib.testing._strategies import FLOATS


@pytest.fixture(params=[(8, 1, 4, 2), (64, 16, 1, 3), (1000, 100, 4, 5)], ids=lambda p: f"chunk={p[0]}")
def small(request, monkeypatch):
    """Chunks, direct sizes, brackets and blocks so small that few elements cross many borders."""
    chunk, direct, sigmas, step = request.param
    for module in (_pieces, _memory, _short):
        monkeypatch.setattr(module, "CHUNK", chunk)
    monkeypatch.setattr(_short, "_BLOCK", chunk)
    monkeypatch.setattr(_short, "_SORTED", 4 * step)
    monkeypatch.setattr(_short, "_STEP", step)
    monkeypatch.setattr(_device, "_SAMPLE", 4 * direct)
    monkeypatch.setattr(_device, "_FEW", direct)
    monkeypatch.setattr(_sorted, "_ROWS", chunk)
    monkeypatch.setattr(_loop, "DIRECT", direct)
    monkeypatch.setattr(_small, "MOST", direct)
    monkeypatch.setattr(_loop, "_SIGMAS", sigmas)
    monkeypatch.setattr(_loop, "_SLACK", 1)


def on_device(s, m, share, magnitude=False):
    """What runs on other devices, where long pools are cut and shorter ones sorted."""
    source = Device(s, m, magnitude)
    die = share if isinstance(share, int) else round(share * source.live)
    masks = source.masks(_loop.cut_lowest(source, die))
    assert all(torch.equal(a, b) for a, b in zip(masks, _sorted.kill_lowest(s, m, lambda *_: die, magnitude)))
    assert len({mask.untyped_storage().data_ptr() for mask in masks if mask.numel()}) == sum(
        mask.numel() > 0 for mask in masks
    )
    return masks


def by_sort(s, m, share):
    """The same by one stable sort."""
    return rows_by_sort(s.reshape(1, -1), None if m is None else m.reshape(1, -1), share).view(s.shape)


def rows_by_sort(s, m, share):
    """Each row by one stable sort."""
    alive = torch.ones(s.shape, dtype=torch.bool) if m is None else m
    order = s.argsort(dim=1, stable=True)
    live = alive.gather(1, order)
    doomed = live & (live.cumsum(1) <= (share * alive.sum(1)).round()[:, None])
    return alive & ~torch.zeros_like(alive).scatter_(1, order, doomed)


def rows_on_device(s, m, number, counting):
    """What ranks rows on other devices."""
    return _rank._rows_on_device(s, m, None, number, counting, "", False)


LONG = st.sampled_from([(7,), (63,), (64,), (65,), (129,), (300,), (10, 13), (3, 4, 11), (2, 3, 4, 5), (1, 200)])


def amounts(s, m):
    alive = s.numel() if m is None else int(m.sum())
    return sorted({0, min(1, alive), alive // 2, max(alive - 1, 0), alive})


@given(st.data())
@settings(max_examples=150)
def test_one_pool_equals_the_oracle(small, data):
    s, m = data.draw(LONG.flatmap(lambda shape: scored(False, shape)))
    for k in amounts(s, m):
        for magnitude, f in ((False, ml.compute_mask), (True, ml.l1_unstructured)):
            expected = oracle.compute_mask(s, m, ml.elements(), magnitude=magnitude, amount=k)
            assert torch.equal(f(s, m, amount=k), expected)
            assert torch.equal(on_device([s], [m], k, magnitude)[0], expected)


@given(st.data())
def test_a_mapping_of_mixed_dtypes_equals_the_oracle(small, data):
    s, m = data.draw(LONG.flatmap(lambda shape: scored(True, shape, dtypes=FLOATS)))
    got = ml.compute_mask(s, m, amount=0.37)
    expected = oracle.compute_mask(s, m, ml.elements(), amount=0.37)
    assert all(torch.equal(got[n], expected[n]) for n in s)


@given(st.data())
def test_rows_equal_the_oracle_by_either_kernel(small, data):
    rows, items = data.draw(st.sampled_from([(5, 3), (40, 12), (30, 13), (3, 40), (9, 70), (2, 200)]))
    s, m = data.draw(scored(False, (rows, items)))
    for number in ({"amount": 0.4}, {"sparsity": 0.7}, {"keep": 2}, {"amount": 1.0}, {"amount": 0.0}):
        expected = oracle.compute_mask(s, m, ml.rows(), **number)
        assert torch.equal(ml.compute_mask(s, m, groups=ml.rows(), **number), expected)
        counting, value = next(iter(number.items()))
        exact = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
        assert torch.equal(rows_on_device(s, m, exact, counting), expected)


@given(scores(shape=(300,), dtypes=(torch.float32, torch.bfloat16)), st.floats(0, 1), st.booleans())
def test_a_bracket_that_misses_is_widened(s, share, high):
    """A sample that lies about the data costs passes, never exactness."""

    def lying(source, stride):
        return torch.full((50,), 1e9 if high else -1e9).numpy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_loop, "DIRECT", 0)
        patch.setattr(_small, "MOST", 0)
        patch.setattr(_memory.Memory, "sample", lying)
        got = ml.compute_mask(s, amount=share)
    assert torch.equal(got, oracle.compute_mask(s, None, ml.elements(), amount=share))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_make_no_difference(threads):
    before = torch.get_num_threads()
    s = torch.randn(2**21 + 17, generator=torch.Generator().manual_seed(0)).mul(50).round()
    m = torch.rand(s.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    expected = by_sort(s.abs(), m, 0.3)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(ml.l1_unstructured(s, m, amount=0.3), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["normal", "equal", "sorted", "one segment highest", "tied", "half infinite"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int16])
def test_long_rows_of_every_kind(kind, dtype):
    """Several segments, the last one incomplete, and rows that lose different numbers."""
    base = torch.randn(6, 2500, generator=torch.Generator().manual_seed(0)).mul(100)
    s = {
        "normal": base,
        "equal": torch.ones(6, 2500),
        "sorted": base.sort(1).values,
        "one segment highest": base.sort(1, descending=True).values,
        "tied": base.div(50).round(),
        "half infinite": base.where(base > 0, -3e4 if dtype == torch.int16 else -torch.inf),
    }[kind].to(dtype)
    alive = torch.rand(s.shape, generator=torch.Generator().manual_seed(1)) < torch.tensor([[1, 0.9, 0.5, 0.1, 0, 1]]).T
    for mask in (None, alive):
        for share in (0.0, 0.01, 0.5, 0.997, 1.0):
            expected = rows_by_sort(s, mask, share)
            assert torch.equal(ml.compute_mask(s, mask, amount=share, groups=ml.rows()), expected)
            assert torch.equal(rows_on_device(s, mask, torch.tensor(share).double(), "amount"), expected)
    with pytest.raises(ValueError, match=r"^1 NaN"):
        ml.compute_mask(s.double().index_fill(1, torch.tensor([7]), torch.nan)[:1], amount=0.5, groups=ml.rows())


def test_a_forked_process_starts_its_own_threads():
    """Workers of data loaders are forked from a process whose threads wait for work."""
    s, before = torch.randn(2**21), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = ml.l1_unstructured(s, amount=0.5)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            got = ml.l1_unstructured(s, amount=0.5).numpy()
            os.write(write, b"same" if np.array_equal(got, expected.numpy()) else b"no")
            os._exit(0)
        answered = select.select([read], [], [], 60)[0]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert answered, "the child hangs"
        assert os.read(read, 4) == b"same"
    finally:
        torch.set_num_threads(before)


def test_threads_of_the_user_do_not_disturb_one_another():
    tensors = [torch.randn(2**20, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    expected = [ml.l1_unstructured(s, amount=0.5) for s in tensors]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda s: ml.l1_unstructured(s, amount=0.5), tensors * 4))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(got, expected * 4))


@pytest.mark.parametrize("values", ["equal", "sorted", "reversed", "half zero", "periodic"])
def test_large_inputs_of_every_kind(values):
    n = 2**20 + 3
    base = torch.randn(n, generator=torch.Generator().manual_seed(0))
    s = {
        "equal": torch.ones(n),
        "sorted": base.sort().values,
        "reversed": base.sort(descending=True).values,
        "half zero": base.clamp(min=0),
        "periodic": torch.arange(n) % 256 * 1.0,
    }[values]
    for share in (0.01, 0.5, 0.99):
        expected = by_sort(s, None, share)
        assert torch.equal(ml.compute_mask(s, amount=share), expected)
        assert torch.equal(on_device([s], [None], share)[0], expected)


def test_counts_beyond_float32_integers():
    """2**24 + 3 elements, all but one die: the count has no float32."""
    n = 2**24 + 3
    mask = ml.compute_mask(torch.zeros(1, dtype=torch.int8).expand(n), amount=n - 1)
    assert mask.sum() == 1
    assert mask[-1]


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_integers_rank_by_value(dtype):
    s = torch.tensor([3, 1, 2**15, 2], dtype=torch.int64).to(dtype)
    assert ml.compute_mask(s, amount=2).tolist() == [True, False, True, False]
    assert ml.compute_mask(s.view(2, 2), amount=1, groups=ml.rows()).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_magnitudes_of_minimum_integers_do_not_wrap(dtype):
    least = torch.iinfo(dtype).min
    s = torch.tensor([least, least + 1, 0, -1], dtype=dtype)
    assert ml.l1_unstructured(s, keep=1).tolist() == [True, False, False, False]
    assert oracle.flat(ml.scores.magnitude(s)) == [-least, -least - 1, 0, 1]


@pytest.mark.parametrize("n", [5, 40, 70000])
@pytest.mark.parametrize("tied", [False, True])
def test_nan_is_found_in_live_entries_only(n, tied):
    s = torch.zeros(n) if tied else torch.randn(n)
    s[[0, n - 2]] = float("nan")
    alive = torch.ones(n, dtype=torch.bool)
    for amount in (0, 0.5, 1.0):
        with pytest.raises(ValueError, match=r"^2 NaN in scores"):
            ml.compute_mask(s, amount=amount)
        with pytest.raises(ValueError, match=r"^1 NaN in scores of 'w'"):
            ml.l1_unstructured({"w": s}, {"w": alive.index_fill(0, torch.tensor([0]), False)}, amount=amount)
        dead = alive.index_fill(0, torch.tensor([0, n - 2]), False)
        assert ml.count(ml.compute_mask(s, dead, amount=amount)) == n - 2 - round(amount * (n - 2))


@given(st.data())
def test_other_devices_take_mappings_of_mixed_dtypes(small, data):
    """The path for other devices, run here on the CPU."""
    s, m = data.draw(LONG.flatmap(lambda shape: scored(True, shape, dtypes=FLOATS)))
    names = sorted(s)
    if names:
        got = on_device([s[n] for n in names], [None if m is None else m[n] for n in names], 0.37, True)
        expected = ml.l1_unstructured(s, m, amount=0.37)
        assert all(torch.equal(mask, expected[n]) for n, mask in zip(names, got))


def test_other_devices_find_nan_and_widen_too(small):
    s = torch.arange(300.0)
    s[7] = torch.nan
    with pytest.raises(_loop.HasNaN):
        on_device([s], [None], 0.5)
    alive = ~s.isnan()
    assert torch.equal(on_device([s], [alive], 0.5)[0], ml.compute_mask(s, alive, amount=0.5))
    periodic = torch.arange(300.0) % 7  # in step with the sample
    assert torch.equal(on_device([periodic], [None], 0.5)[0], ml.compute_mask(periodic, amount=0.5))


def test_sums_of_unsigned_64_bit_items():
    s = torch.tensor([[1, 2], [2, 2], [1, 1]], dtype=torch.int64).to(torch.uint64)
    for groups in (ml.labels(torch.tensor([[0, 0], [1, 1], [2, 2]])), ml.channels(0)):
        assert ml.compute_mask(s, keep=1, groups=groups).tolist() == [[False] * 2, [True] * 2, [False] * 2]


@pytest.mark.parametrize("by_magnitude", [False, True])
def test_integers_of_64_bits_beside_narrower_ones(by_magnitude):
    """Unsigned ones of all widths, or the magnitudes of signed ones, in one order."""
    dtypes = [torch.uint64, torch.uint32, torch.uint8] if not by_magnitude else [torch.int64, torch.int32, torch.int8]
    ends = [torch.iinfo(d).min if by_magnitude else torch.iinfo(d).max for d in dtypes]
    s = {n: torch.tensor([end, 1, 7], dtype=d) for n, end, d in zip("abc", ends, dtypes)}
    for amount in range(10):
        expected = oracle.compute_mask(s, None, ml.elements(), magnitude=by_magnitude, amount=amount)
        got = (ml.l1_unstructured if by_magnitude else ml.compute_mask)(s, amount=amount)
        elsewhere = dict(zip(s, on_device(list(s.values()), [None] * 3, amount, by_magnitude)))
        for name, mask in expected.items():
            assert torch.equal(got[name], mask)
            assert torch.equal(elsewhere[name], mask)
    if by_magnitude:
        assert ml.compute_mask(ml.scores.magnitude(s), amount=8)["a"].tolist() == [True, False, False]


def test_views_larger_than_a_chunk():
    s = torch.arange(2**20, dtype=torch.float32).view(1024, 1024)
    assert s.numel() > _pieces.CHUNK
    assert torch.equal(ml.l1_unstructured(s.T, amount=0.3), ml.l1_unstructured(s.T.contiguous(), amount=0.3))
