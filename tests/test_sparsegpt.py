"""SparseGPT: the published example, error orderings, exact counts, groups, and what is refused."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
import torch

import masklib as ml
from masklib import scores

W = torch.tensor([[0.5, -1, 0.25, 2], [1, 0.75, -0.5, 0.1]], dtype=torch.float64)
X = torch.tensor([[int(c) for c in row] for row in ("1010", "0110", "1101", "0011", "2100", "0102")]).double()


def problem(rows=6, columns=24, inputs=200):
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(inputs, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x, scores.add_hessian(None, x)


def test_the_example_of_the_reference_implementation():
    h = scores.add_hessian(None, X)
    weight, mask = ml.sparsegpt(W, h, keep=2, groups=ml.windows(4))
    assert mask.tolist() == [[False, True, False, True], [True, True, False, False]]
    expected = [[0, -0.5229, 0, 1.887342], [1, 0.75, 0, 0]]
    assert weight.flatten().tolist() == pytest.approx([x for row in expected for x in row], abs=1e-4)


def test_errors_are_in_order():
    """Masked least squares <= SparseGPT <= the same mask without an update."""
    weight, x, h = problem()
    got, mask = ml.sparsegpt(weight, h, amount=0.5)
    best = torch.zeros_like(weight)
    for i, row in enumerate(mask):
        best[i, row] = torch.linalg.lstsq(x[:, row], x @ weight[i]).solution
    error = [float(((x @ (w - weight).T) ** 2).sum()) for w in (best, got, weight * mask)]
    assert error[0] <= error[1] < 0.8 * error[2]


def test_survivors_stay_when_inputs_are_independent():
    weight = problem()[0]
    got, mask = ml.sparsegpt(weight, known(torch.diag(torch.rand(24, dtype=torch.float64) + 0.5)), amount=0.4)
    assert torch.equal(got, weight * mask)


@pytest.mark.parametrize("block", [8, 24, 128])
@pytest.mark.parametrize(
    ("number", "groups", "dead"),
    [
        ({"amount": 0.5}, ml.elements(), 72),
        ({"sparsity": 0.25}, ml.rows(), 36),
        ({"keep": 2}, ml.windows(4), 72),
        ({"keep": 1}, ml.windows(8), 126),
    ],
)
def test_counts_are_exact(block, number, groups, dead):
    weight, _, h = problem()
    got, mask = ml.sparsegpt(weight, h, groups=groups, block=block, **number)
    assert int((~mask).sum()) == dead
    assert torch.equal(got == 0, ~mask)


def test_dead_features_go_first_and_do_no_harm():
    weight, x, _ = problem()
    x[:, 3] = 0
    h = scores.add_hessian(None, x)
    got, mask = ml.sparsegpt(weight, h, amount=6)
    assert not mask[:, 3].any()
    torch.testing.assert_close(got[mask], weight[mask])


def known(total, count=100):
    """Statistics with a given sum."""
    return scores.Hessian(total, count)


def test_hessians_of_other_inputs_do_not_add_up():
    state = ml.scores.add_hessian(None, torch.ones(2, 3))
    with pytest.raises(ValueError, match="`state`"):
        ml.scores.add_hessian(state, torch.ones(2, 4))


def test_the_hessian_adds_up():
    _, x, h = problem()
    state = None
    for part in x.split(30):
        state = scores.add_hessian(state, part[None])
    torch.testing.assert_close(state.total, h.total)
    torch.testing.assert_close(h.total, x.T @ x)
    by_name = scores.add_hessian(scores.add_hessian(None, {"a": x, "b": X}), {"a": x, "b": X})
    torch.testing.assert_close(by_name.total["a"], 2 * h.total)
    assert by_name.count == {"a": 400, "b": 12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    weight, _, h = problem()
    got, mask = ml.sparsegpt(weight.to(dtype), known(h.total.float()), amount=0.5)
    assert got.dtype == dtype
    assert int((~mask).sum()) == 72


# ---- mappings and transforms ----------------------------------------------------------------------------------------


def layers():
    weight, x, _ = problem()
    other = torch.randn(4, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return {"b": weight, "a": other}, scores.add_hessian(None, {"a": x.flip(1), "b": x})


def test_a_mapping_is_each_of_its_tensors():
    weights, state = layers()
    alive = {n: torch.rand(w.shape, generator=torch.Generator().manual_seed(2)) < 0.8 for n, w in weights.items()}
    got, masks = ml.sparsegpt(weights, state, alive, amount=0.5)
    assert [list(x) for x in (got, masks)] == [["b", "a"], ["b", "a"]]
    for n, w in weights.items():
        expected, mask = ml.sparsegpt(w, known(state.total[n], state.count[n]), alive[n], amount=0.5)
        assert torch.equal(got[n], expected)
        assert torch.equal(masks[n], mask)
    assert ml.sparsegpt({}, scores.Hessian({}, {}), amount=1) == ({}, {})


def test_numbers_by_name():
    weights, state = layers()
    _, masks = ml.sparsegpt(weights, state, sparsity={"a": 0.25, "b": 0.75})
    assert [ml.sparsity(masks[n]).item() for n in "ab"] == [0.25, 0.75]
    with pytest.raises(ValueError, match="`sparsity` must have exactly the names of `weight`: missing \\['b'\\]"):
        ml.sparsegpt(weights, state, sparsity={"a": 0.25})


@pytest.mark.parametrize("block", [8, 128])
@pytest.mark.parametrize("groups", [ml.elements(), ml.rows()], ids=repr)
def test_vmap_over_levels_is_the_stack(groups, block):
    weight, _, h = problem()
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)

    def prune(level):
        return ml.sparsegpt(weight, h, sparsity=level, groups=groups, block=block)

    got, masks = torch.vmap(prune)(levels)
    for i, level in enumerate(levels):
        expected, mask = prune(level)
        assert torch.equal(masks[i], mask)
        torch.testing.assert_close(got[i], expected)


def test_vmap_over_weights_masks_and_statistics():
    weight, x, h = problem()
    weights, masks = torch.stack([weight, weight.flip(0)]), torch.rand(2, 6, 24) < 0.7
    totals = torch.stack([h.total, (x[:90].T @ x[:90])])

    def prune(w, total, mask):
        return ml.sparsegpt(w, known(total), mask, amount=0.5, block=8)

    for dims in ((0, 0, 0), (0, None, None), (None, 0, None), (None, None, 0)):
        args = [t if d == 0 else t[0] for t, d in zip((weights, totals, masks), dims)]
        got = torch.vmap(prune, in_dims=dims)(*args)
        for i in range(2):
            expected = prune(*(t[i] if d == 0 else t for t, d in zip(args, dims)))
            torch.testing.assert_close(got[0][i], expected[0])
            assert torch.equal(got[1][i], expected[1])


@pytest.mark.skipif(torch.__version__ < "2.7", reason="its compiler takes no values for constants")
@pytest.mark.parametrize(
    ("groups", "number"),
    [(ml.elements(), {"amount": 0.5}), (ml.windows(4), {"keep": 2}), (ml.rows(), {"sparsity": 0.5})],
    ids=["elements", "windows", "rows"],
)
def test_compiled(groups, number):
    weight, _, h = problem(columns=16)

    def prune(w, total):
        return ml.sparsegpt(w, known(total), groups=groups, block=8, **number)

    torch._dynamo.reset()
    got, mask = torch.compile(prune, fullgraph=True, backend="aot_eager")(weight, h.total)
    expected, kept = prune(weight, h.total)
    torch.testing.assert_close(got, expected)
    assert torch.equal(mask, kept)


def test_what_is_wrong_with_the_statistics_is_told_under_vmap():
    weight, _, h = problem()
    totals = torch.stack([h.total, h.total * float("nan")])
    with pytest.raises(ValueError, match="`statistics` has 576 entries that are not finite"):
        torch.vmap(lambda total: ml.sparsegpt(weight, known(total), amount=1))(totals)


def test_autocast_and_default_dtype_make_no_difference():
    weight, x, _ = problem()
    weight, x = weight.float(), x.float()

    def whole():
        return ml.sparsegpt(weight, scores.add_hessian(None, x), amount=0.5, block=8)

    expected = whole()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = whole()
    assert all(torch.equal(a, b) for a, b in zip(got, expected))
    torch.set_default_dtype(torch.float64)
    try:
        got = whole()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, expected))


def test_nothing_given_is_changed():
    weight, _, h = problem()
    alive = torch.ones(weight.shape, dtype=torch.bool)
    before = weight.clone(), h.total.clone(), alive.clone()
    got, mask = ml.sparsegpt(weight, h, alive, amount=0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, (weight, h.total, alive)))
    assert mask.data_ptr() != alive.data_ptr()
    assert got.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_weights(shape):
    state = known(torch.eye(shape[1]))
    got, mask = ml.sparsegpt(torch.zeros(shape), state, amount=0.5)
    assert got.shape == mask.shape == shape


# ---- groups ---------------------------------------------------------------------------------------------------------


class Diagonals(NamedTuple):
    """A value of one's own: in each tile of 2 x 2, its two diagonals are pools."""

    def fold(self, shape):
        rows, columns = shape
        if rows % 2 or columns % 2:
            raise ValueError(f"tiles of 2 x 2 must fit, got {tuple(shape)}.")
        index = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2).permute(0, 2, 1, 3).reshape(-1, 4)
        return ml.Folding.by_index(index[:, [0, 3, 1, 2]].reshape(-1, 2, 1), shape)


@pytest.mark.parametrize("block", [2, 6, 128])
def test_groups_of_ones_own(block):
    weight, _, h = problem()
    got, mask = ml.sparsegpt(weight, h, keep=1, groups=Diagonals(), block=block)
    tiles = mask.view(3, 2, 12, 2).permute(0, 2, 1, 3).reshape(-1, 4)
    assert ((tiles[:, 0] ^ tiles[:, 3]) & (tiles[:, 1] ^ tiles[:, 2])).all()
    assert torch.equal(got == 0, ~mask)


def test_pools_are_chosen_when_their_columns_come():
    """Windows in blocks of any width are the windows in blocks of their own."""
    weight, _, h = problem()
    expected = ml.sparsegpt(weight, h, keep=2, groups=ml.windows(4), block=4)
    for block in (8, 12, 24, 128):
        got = ml.sparsegpt(weight, h, keep=2, groups=ml.windows(4), block=block)
        assert torch.equal(got[1], expected[1])
        torch.testing.assert_close(got[0], expected[0])


@pytest.mark.parametrize(
    ("groups", "block", "items"),
    [
        (ml.channels(0), 24, lambda m: m),
        (ml.channels(1), 8, lambda m: m.T),
        (ml.blocks((1, 4)), 8, lambda m: m.reshape(-1, 4)),
        (ml.blocks((2, 2)), 128, lambda m: m.view(3, 2, 12, 2).permute(0, 2, 1, 3).reshape(-1, 4)),
    ],
    ids=["channels 0", "channels 1", "blocks 1 4", "blocks 2 2"],
)
def test_items_go_whole(groups, block, items):
    weight, _, h = problem()
    _, mask = ml.sparsegpt(weight, h, sparsity=0.5, groups=groups, block=block)
    assert (items(mask).all(1) | ~items(mask).any(1)).all()
    assert ml.sparsity(mask) == 0.5


def test_ragged_windows():
    weight, _, h = problem(columns=10)
    _, mask = ml.sparsegpt(weight, h, keep=2, groups=ml.windows(4, ragged=True))
    assert [int(part.sum()) for part in mask.split(4, 1)] == [12, 12, 12]


def test_windows_along_the_outputs():
    weight, _, h = problem()
    _, mask = ml.sparsegpt(weight, h, keep=1, groups=ml.windows(2, dim=0))
    assert (mask.view(3, 2, 24).sum(1) == 1).all()


# ---- bad calls ------------------------------------------------------------------------------------------------------

EYE = known(torch.eye(4))
FEW = scores.add_hessian(None, torch.ones(2, 4))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            ValueError,
            "`statistics` must be of the 4 inputs of `weight`, a total of shape (in, in), got (3, 3)",
            lambda: ml.sparsegpt(W, known(torch.eye(3)), amount=1),
        ),
        (TypeError, "`statistics` must be what the `add_...` functions", lambda: ml.sparsegpt(W, torch.eye(4), keep=1)),
        (TypeError, "`statistics` must be what", lambda: ml.sparsegpt(W, None, keep=1)),
        (TypeError, "`statistics` must be floating", lambda: ml.sparsegpt(W, known(torch.eye(4).long()), keep=1)),
        (TypeError, "`statistics` must be real", lambda: ml.sparsegpt(W, known(torch.eye(4) * 1j), keep=1)),
        (ValueError, "`statistics` must be of the", lambda: ml.sparsegpt(W, scores.add_input_norms(None, X), amount=1)),
        (ValueError, "`statistics` holds no inputs", lambda: ml.sparsegpt(W, known(torch.zeros(4, 4), 0), amount=1)),
        (
            ValueError,
            "`statistics` of 'up' holds no inputs",
            lambda: ml.sparsegpt({"up": W}, scores.add_hessian(None, {"up": X[:0]}), amount=1),
        ),
        (
            ValueError,
            "`statistics` of 'up' has 16 entries that are not finite",
            lambda: ml.sparsegpt({"up": W}, scores.add_hessian(None, {"up": X * float("nan")}), amount=1),
        ),
        (ValueError, "has 1 entries that are not finite", lambda: ml.sparsegpt(W, known(spoilt(0, 0, 1e999)), keep=1)),
        (
            ValueError,
            "is not positive definite with damping=0.0: its 2 inputs do not span its 4 features. Pass damping=0.01",
            lambda: ml.sparsegpt(W, FEW, amount=1, damping=0.0),
        ),
        (ValueError, "it is not a sum of x x^T", lambda: ml.sparsegpt(W, known(-torch.eye(4)), amount=1)),
        (ValueError, "must be symmetric", lambda: ml.sparsegpt(W, known(spoilt(0, 1, 5.0)), amount=1)),
        (TypeError, "`weight` must be a floating tensor, got torch.int64", lambda: ml.sparsegpt(W.long(), EYE, keep=1)),
        (TypeError, "`weight` must be a floating tensor", lambda: ml.sparsegpt(W * 1j, EYE, amount=1)),
        (ValueError, "weight.flatten(1)", lambda: ml.sparsegpt(W[..., None], EYE, amount=1)),
        (TypeError, "`weight` must be a torch.Tensor", lambda: ml.sparsegpt(None, EYE, amount=1)),
        (TypeError, "`statistics.total` must be of the form of `weight`", lambda: ml.sparsegpt({"a": W}, EYE, keep=1)),
        (
            ValueError,
            "`statistics` must have exactly the names of `weight`: missing ['b']",
            lambda: ml.sparsegpt({"a": W, "b": W}, known({"a": torch.eye(4)}, {"a": 1}), keep=1),
        ),
        (TypeError, "`groups` must fold a weight", lambda: ml.sparsegpt(W, EYE, keep=1, groups=ml.rows)),
        (TypeError, "`groups` must fold a weight", lambda: ml.sparsegpt(W, EYE, keep=1, groups="rows")),
        (
            ValueError,
            "`weight` does not fit windows(of=4): `of` must divide the size 10 of dim -1",
            lambda: ml.sparsegpt(torch.ones(2, 10), known(torch.eye(10)), keep=1, groups=ml.windows(4)),
        ),
        (
            ValueError,
            "`block` must be a width that windows(of=4) fits, got 6",
            lambda: ml.sparsegpt(torch.ones(2, 8), known(torch.eye(8)), keep=2, groups=ml.windows(4), block=6),
        ),
        (
            ValueError,
            "`block` must be a multiple of the columns that an item of channels() spans, got 2. For example block=4",
            lambda: ml.sparsegpt(W, EYE, keep=1, groups=ml.channels(0), block=2),
        ),
        (
            ValueError,
            "`block` must be a positive number of columns, got 0",
            lambda: ml.sparsegpt(W, EYE, keep=1, block=0),
        ),
        (TypeError, "`block` must be an int", lambda: ml.sparsegpt(W, EYE, keep=1, block=2.0)),
        (ValueError, "`damping` must be at least 0", lambda: ml.sparsegpt(W, EYE, amount=1, damping=-1)),
        (ValueError, "`amount` must be between 0 and 8", lambda: ml.sparsegpt(W, EYE, amount=9)),
        (
            ValueError,
            "scores of 'up'",
            lambda: ml.sparsegpt({"up": W}, known({"up": torch.eye(4)}, {"up": 1}), amount=9),
        ),
        (TypeError, "exactly one", lambda: ml.sparsegpt(W, EYE)),
        (TypeError, "`default_mask` must be bool", lambda: ml.sparsegpt(W, EYE, W, amount=1)),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert type(caught.value) is error


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize(
    "groups",
    [ml.elements(), ml.rows(), ml.windows(4), ml.windows(4, ragged=True), ml.channels(), ml.channels(1), ml.heads(2)],
)
def test_a_weight_without_entries_stays_so(shape, groups):
    state = scores.add_hessian(None, torch.randn(5, shape[1]))
    weight, mask = ml.sparsegpt(torch.empty(shape), state, sparsity=0.5, groups=groups)
    assert weight.shape == mask.shape == shape


def spoilt(row, column, value):
    """An identity with one other entry."""
    total = torch.eye(4)
    total[row, column] = value
    return total
