"""Tensors that are read in runs: whatever a method makes of them, it makes of the same tensors in memory."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import masklib as ml
from masklib import _streaming
from masklib.selection import Streamed, _items, _loop, _pieces

SHAPES = {"a": (12, 8), "b": (5, 40), "c": (4, 6, 2, 2), "d": (1, 4), "e": (0, 4)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int16]


def in_runs(tensor):
    flat = tensor.contiguous().view(-1)
    return Streamed(tensor.shape, tensor.dtype, lambda start, stop, _: flat[start:stop])


def whole(masks):
    return {n: m.whole() if isinstance(m, Streamed) else m for n, m in masks.items()}


@st.composite
def weights(draw):
    """Of several shapes and dtypes, with ties, zeros and infinities at times."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "tied", "equal", "infinite"]))
    names = draw(st.lists(st.sampled_from(list(SHAPES)), min_size=1, unique=True))
    found = {}
    for name in names:
        values = torch.randn(SHAPES[name], generator=generator, dtype=torch.float64) * 10
        values = {"tied": values.round(), "equal": values * 0}.get(kind, values)
        if kind == "infinite":
            values = values.masked_fill(values > 12, torch.inf)
        found[name] = values.nan_to_num(0, 9, -9).to(draw(st.sampled_from(DTYPES))) if kind != "infinite" else values
    return found


@pytest.fixture(params=["tiny chunks", "as they are"])
def chunks(request, monkeypatch):
    if request.param == "tiny chunks":
        monkeypatch.setattr(_pieces, "CHUNK", 7)
        monkeypatch.setattr(_loop, "DIRECT", 4)
        for room in (_items, _streaming):
            monkeypatch.setattr(room, "REDUCED", 24)


magnitudes = ml.scores.magnitude
METHODS = {
    "l1": partial(ml.l1_unstructured, sparsity=0.5),
    "amount": partial(ml.l1_unstructured, amount=3),
    "nothing": partial(ml.l1_unstructured, amount=0),
    "everything": partial(ml.l1_unstructured, amount=1.0),
    "least": lambda s, m=None: ml.compute_mask(magnitudes(s), m, sparsity=0.9, least=0 if "e" in s else 2),
    "signed": partial(ml.compute_mask, amount=0.3),
    "random": partial(ml.random_unstructured, key=7, amount=0.4),
    "layerwise": partial(ml.layerwise(ml.l1_unstructured), sparsity=0.3),
    "budget": lambda s, m=None: ml.layerwise(ml.l1_unstructured)(s, m, sparsity=ml.budgets.erk(s, 0.5)),
    "rows": partial(ml.compute_mask, sparsity=0.5, groups=ml.rows()),
    "columns": partial(ml.compute_mask, sparsity=0.5, groups=ml.rows(1)),
    "channels": partial(ml.ln_structured, n=2, dim=0, sparsity=0.5),
    "inputs": partial(ml.compute_mask, sparsity=0.5, groups=ml.channels(1, p=1, mean=True)),
    "random channels": partial(ml.random_structured, dim=0, key=3, sparsity=0.5),
    "blocks": partial(ml.compute_mask, sparsity=0.5, groups=ml.blocks((2, 2), ragged=True, mean=True)),
    "windows": partial(ml.n_of_m, keep=1, of=2),
    "ragged": partial(ml.compute_mask, sparsity=0.5, groups=ml.windows(3, ragged=True)),
    "down": partial(ml.compute_mask, sparsity=0.5, groups=ml.windows(3, 0, ragged=True)),
    "labels": lambda s, m=None: ml.compute_mask(
        s, m, amount=0.2, groups=ml.labels({n: torch.arange(t.numel()).view(t.shape) // 3 for n, t in s.items()})
    ),
    "half": lambda s, m=None: ml.intersection(
        ml.l1_unstructured(s, m, amount=0.1), ml.random_unstructured(s, m, key=1, amount=0.1)
    ),
    "mask": lambda s, m=None: ml.custom_from_mask(s, m, mask=ml.dense(s)),
    "steps": ml.chain(
        partial(ml.l1_unstructured, amount=0.4), partial(ml.l1_unstructured, amount=0),
        partial(ml.layerwise(ml.l1_unstructured), amount=0.3), partial(ml.l1_unstructured, sparsity=0.1),
    ),
    "history": ml.chain(
        partial(ml.l1_unstructured, amount=0.2), partial(ml.compute_mask, amount=0.3, groups=ml.rows()),
        partial(ml.random_unstructured, key=2, amount=0.2), partial(ml.ln_structured, n=1, dim=0, amount=0.3),
        partial(ml.l1_unstructured, amount=0.2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=12)
@given(w=weights(), with_mask=st.booleans())
def test_masks_are_those_of_memory(name, w, with_mask, chunks):
    mask = ml.random_unstructured(w, key=5, amount=0.3) if with_mask else None
    expected = outcome(METHODS[name], w, mask)
    got = outcome(METHODS[name], {n: in_runs(t) for n, t in w.items()}, mask)
    assert_equal(got, expected)
    if mask is not None:
        given = outcome(METHODS[name], {n: in_runs(t) for n, t in w.items()}, {n: in_runs(m) for n, m in mask.items()})
        assert_equal(given, expected)


def outcome(method, scores, mask):
    """The masks, or the error."""
    try:
        return whole(method(scores, mask))
    except (ValueError, TypeError) as error:
        return str(error)


def assert_equal(got, expected):
    if isinstance(expected, str):
        assert got == expected
    else:
        assert list(got) == list(expected)
        assert all(torch.equal(got[n], expected[n]) and got[n].dtype == torch.bool for n in expected)


@pytest.mark.parametrize("method", [METHODS[n] for n in ("l1", "rows", "channels", "blocks", "windows", "history")])
def test_nan_is_told_with_its_tensor_and_its_count(method, chunks):
    w = {"a": torch.ones(6, 4), "b": torch.randn(40, 4)}
    w["b"][[0, 17, 39]] = torch.nan
    with pytest.raises(ValueError, match=r"^12 NaN in scores of 'b'\. "):
        whole(method({n: in_runs(t) for n, t in w.items()}, None))
    alive = {"a": torch.ones(6, 4) > 0, "b": torch.arange(160).view(40, 4) % 4 > 0}
    with pytest.raises(ValueError, match=r"^9 NaN in scores of 'b'\. "):
        whole(method({n: in_runs(t) for n, t in w.items()}, alive))


def test_counts_and_algebra(chunks):
    w = {"a": in_runs(torch.arange(40.0).view(5, 8) - 20)}
    masks = ml.l1_unstructured(w, amount=13)
    assert ml.count(masks) == 27
    assert ml.sparsity(masks, per_name=True)["a"] == 13 / 40
    assert ml.count(ml.complement(masks)) == 13
    assert torch.equal(whole(ml.apply(w, masks))["a"], ml.apply(whole(w), whole(masks))["a"])
    assert torch.equal((w["a"] * 2 > 4).whole(), whole(w)["a"] * 2 > 4)


def test_nothing_is_read_until_it_is_needed():
    def read(start, stop, memo):
        raise AssertionError("read")

    w = {"a": Streamed((64, 8), torch.float32, read)}
    ml.identity(w), ml.dense(w), ml.budgets.erk(w, 0.5), ml.n_of_m(w, keep=2, of=4)
    assert ml.sparsity(ml.random_unstructured(w, key=0, sparsity=0.5)) == 0.5
    assert repr(w["a"]) == "Streamed(shape=(64, 8), dtype=torch.float32)"


@pytest.mark.parametrize(
    "what",
    [
        lambda t: t.sort(), lambda t: t.sum(), lambda t: t.T, lambda t: t[0], lambda t: t.numpy(), lambda t: t.tolist(),
        lambda t: t.item(), lambda t: t.zero_(), lambda t: t.view(-1), lambda t: t + torch.ones(8), lambda t: list(t),
        lambda t: torch.cat([t, t]), lambda t: torch.equal(t, t), ml.scores.lamp, lambda t: t.any(1),
    ],
)  # fmt: skip
def test_what_needs_all_of_it_is_refused_in_a_sentence(what):
    with pytest.raises(ValueError, match=r"needs all of a tensor that is read in parts\. .* open_checkpoint\(path\)"):
        what(in_runs(torch.ones(8, 8)))


def test_a_chunk_is_read_once_for_all_that_is_made_of_it(chunks):
    reads = []
    flat = torch.arange(64.0)

    def read(start, stop, memo):
        reads.append(start)
        return flat[start:stop]

    w = Streamed((64,), torch.float32, read)
    mask = ml.fold([partial(ml.l1_unstructured, amount=8)] * 3, w)
    reads.clear()
    memo = {}
    mask.read(0, 7, memo), w.read(0, 7, memo)
    assert reads == [0]
