"""Every groups value equals its `labels` form and the plain-Python oracle."""

from __future__ import annotations

import pickle

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, grouped, numbers, scored

import masklib as ml

VALUES = [
    ml.elements(),
    ml.rows(),
    ml.rows(-1),
    ml.channels(0),
    ml.channels(1, p=2, mean=True),
    ml.blocks((2, 3)),
    ml.blocks((4,), p=float("inf")),
    ml.windows(4),
    ml.windows(4, dim=1),
]


def ids(labels):
    """Integer labels in the order of the given ones."""
    known = {label: i for i, label in enumerate(sorted(set(labels)))}
    return [known[label] for label in labels]


def as_labels(groups, shape):
    items, pools = oracle.labels_of(groups, "", shape)
    return ml.labels(*(torch.tensor(ids(part), dtype=torch.int64).view(shape) for part in (items, pools)))


@given(grouped(("elements", "rows", "windows")), numbers())
def test_single_elements_equal_the_oracle_and_their_labels(case, number):
    groups, s, m = case
    expected = oracle.compute_mask(s, m, groups, **number)
    assert torch.equal(ml.compute_mask(s, m, groups=groups, **number), expected)
    assert torch.equal(ml.compute_mask(s, m, groups=as_labels(groups, tuple(s.shape)), **number), expected)


@given(grouped(("channels", "blocks"), dtypes=(torch.float32,), infinite=False), numbers())
def test_items_equal_the_oracle(case, number):
    groups, s, m = case
    assert torch.equal(
        ml.compute_mask(separate(s), m, groups=groups, **number),
        oracle.compute_mask(separate(s), m, groups, **number),
    )


def separate(s):
    """Small integers, whose sums and squares are exact in float64, so that ties are ties in any order of adding."""
    return torch.nan_to_num(s, 0).mul(2).round().clamp(-8, 8)


@given(grouped(("channels", "blocks"), dtypes=(torch.float32,), infinite=False), numbers())
def test_sums_of_items_equal_their_labels(case, number):
    groups, s, m = case
    groups = groups._replace(p=None, mean=False)
    labelled = ml.compute_mask(separate(s), m, groups=as_labels(groups, tuple(s.shape)), **number)
    assert torch.equal(ml.compute_mask(separate(s), m, groups=groups, **number), labelled)


@given(scored(mapping=True, shape=(2, 4), dtypes=FLOATS, infinite=False), numbers())
def test_channels_of_a_mapping_compete_in_one_pool(case, number):
    s, m = case
    s = {n: separate(t) for n, t in s.items()}
    groups = ml.channels(0, p=1)
    if s:
        got, expected = ml.compute_mask(s, m, groups=groups, **number), oracle.compute_mask(s, m, groups, **number)
        assert all(torch.equal(got[n], expected[n]) for n in s)


@given(scored(mapping=True, shape=(2, 4)), numbers())
def test_pools_of_rows_and_windows_never_span_tensors(case, number):
    s, m = case
    for groups in (ml.rows(), ml.windows(2)):
        got = ml.compute_mask(s, m, groups=groups, **number)
        for n in s:
            alone = ml.compute_mask(s[n], None if m is None else m[n], groups=groups, **number)
            assert torch.equal(got[n], alone)


def test_one_item_may_span_tensors():
    s = {"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([1.0, 1.0])}
    items = {"a": torch.tensor([0, 1]), "b": torch.tensor([0, 2])}
    got = ml.compute_mask(s, amount=2, groups=ml.labels(items))
    assert got["a"].tolist() == [False, True]
    assert got["b"].tolist() == [False, False]


def test_labels_rank_single_integers_exactly():
    s = torch.tensor([2**62 + 1, 2**62, 2**62 + 2])
    assert ml.compute_mask(s, keep=1, groups=ml.labels(torch.arange(3))).tolist() == [False, False, True]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_groups_are_plain_data(value):
    again = eval(repr(value), vars(ml) | {"inf": float("inf")})
    assert again == value
    assert hash(again) == hash(value)
    assert repr(again) == repr(value)
    assert pickle.loads(pickle.dumps(value)) == value
    assert isinstance(value, tuple)


def test_labels_are_plain_data():
    a, b = (ml.labels(torch.tensor([0, 0, 1])) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != ml.labels(torch.tensor([0, 1, 1]))
    assert pickle.loads(pickle.dumps(a)) == a
    assert repr(a) == "labels(items=tensor([0, 0, 1]), pools=None)"


@given(st.integers(0, 2**16))
def test_wanda_prunes_within_rows(seed):
    """Golden values of the paper's rule: 50 % of each row, ties by the lower index."""
    metric = torch.tensor([[0.5, 0.816497, 0.176777, 2], [1, 0.612372, 0.353553, 0.1]])
    mask = ml.compute_mask(metric, amount=0.5, groups=ml.rows())
    assert [row.logical_not().nonzero().flatten().tolist() for row in mask] == [[0, 2], [2, 3]]
