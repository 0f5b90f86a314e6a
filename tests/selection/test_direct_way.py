"""Eager calls go past the dispatcher; whatever transforms, traces or intercepts calls still sees an operator."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import masklib as ml
from masklib import selection
from masklib.selection import _eager, _rank

S = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
M = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.7
HALF = torch.tensor(0.5, dtype=torch.float64)


def pool(s, m=M, number=HALF):
    return selection.lowest([s], [m], number, "amount", [""], False)[0]


def rows(s, m=M, number=HALF):
    return selection.lowest_in_rows(s, m, None, number, "amount", "", False)


both = pytest.mark.parametrize("f", [pool, rows])
EXPECTED = {f: f(S) for f in (pool, rows)}


@pytest.fixture
def direct(monkeypatch):
    """How often the direct way was taken."""
    taken = []
    for name in ("lowest", "lowest_in_rows"):
        kernel = getattr(_rank, name)

        def spy(*arguments, kernel=kernel):
            taken.append(kernel)
            return kernel(*arguments)

        monkeypatch.setattr(_eager._rank, name, spy)
    return taken


def names_of(graph):
    return {str(node.target) for node in graph.nodes}


@both
def test_eager_calls_take_it(f, direct):
    assert torch.equal(f(S), EXPECTED[f])
    assert torch.equal(f(S, None), f(S, torch.ones_like(M)))
    with torch.no_grad(), torch.inference_mode():
        f(S)
    with torch.autocast("cpu", torch.bfloat16):
        f(S)
    assert len(direct) >= 3


@both
def test_transforms_of_functions_do_not(f, direct):
    batch = torch.stack([S, -S])
    assert torch.equal(torch.vmap(f)(batch)[1], pool(-S) if f is pool else rows(-S))
    direct.clear()
    torch.vmap(f)(batch)
    torch.func.grad(lambda s: torch.where(f(s.detach()), s, 0).sum())(S)
    torch.func.jvp(lambda s: torch.where(f(s.detach()), s, 0), (S,), (S,))
    torch.func.functionalize(f)(S)
    assert not direct
    assert torch.equal(torch.func.functionalize(f)(S), EXPECTED[f])
    got = torch.func.grad(lambda s: torch.where(f(s.detach()), s, 0).sum())(S)
    assert torch.equal(got, EXPECTED[f].float())


@both
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_traces_record_the_operator(f, mode, pre_dispatch, direct):
    def call(s, m, number):
        return f(s, m, number)

    graph = make_fx(call, tracing_mode=mode, pre_dispatch=pre_dispatch)(S, M, HALF)
    assert any("masklib" in name for name in names_of(graph.graph))
    assert not direct
    assert torch.equal(graph(-S, M, HALF), f(-S))


def test_jit_trace_records_the_operator(direct):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(rows, (S, M), check_trace=False)
        with pytest.raises(RuntimeError, match=r"Tensor\?"):  # the tracer has no lists of optional tensors
            torch.jit.trace(pool, (S, M), check_trace=False)
    assert "masklib" in str(traced.graph)
    assert torch.equal(traced(-S, M), rows(-S))


@both
@pytest.mark.parametrize("strict", [False, True])
def test_export_records_the_operator(f, strict):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", M)
            self.register_buffer("number", HALF)

        def forward(self, s):
            return f(s, self.mask, self.number)

    program = torch.export.export(Module(), (S,), strict=strict)
    assert any("masklib" in name for name in names_of(program.graph))
    assert torch.equal(program.module()(-S), f(-S))


@both
def test_fake_tensors_stay_fake(f, direct):
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(S)
        got = f(fake, mode.from_tensor(M), mode.from_tensor(HALF))
    assert type(got) is not torch.Tensor
    assert got.shape == S.shape
    assert not direct


@both
def test_modes_of_the_user_see_a_call(f, direct):
    seen = []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    for mode in (Dispatch, Function):
        seen.clear()
        with mode():
            assert torch.equal(f(S), EXPECTED[f])
        assert any("masklib" in name for name in seen)


class Seen(torch.Tensor):
    """A subclass that says which operators it met."""

    calls: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.calls.append(str(func))
        return super().__torch_function__(func, types, args, kwargs or {})


@both
def test_subclasses_see_a_call(f, direct):
    Seen.calls.clear()
    f(S.as_subclass(Seen))
    assert any("masklib" in name for name in Seen.calls)
    assert len(direct) <= 1  # the operator may come back to it with what is inside


@both
def test_tensors_that_numpy_cannot_read_take_the_operator(f, direct):
    assert f(S.to("meta"), None).is_meta
    negative = torch.complex(S, -S).conj().imag  # a view that is to be negated
    assert negative.is_neg()
    assert torch.equal(f(negative), EXPECTED[f])
    assert not direct
    assert torch.equal(f(torch.nn.Parameter(S, requires_grad=False)), EXPECTED[f])
    assert len(direct) == 1


@pytest.mark.parametrize(
    "name", ["DispatchKey", "DispatchKeySet", "_dispatch_tls_local_include_set", "_len_torch_function_stack"]
)
def test_a_torch_without_the_private_names_takes_the_operator(name):
    with pytest.MonkeyPatch.context() as patch:  # the module anew, beside the one that is in use
        patch.delattr(torch._C, name)
        spec = importlib.util.spec_from_file_location("masklib.selection._without", _eager.__file__)
        other = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(other)
    assert _eager._is_eager()
    assert not other._is_eager()
    assert torch.equal(other.lowest([S], [M], HALF, "amount", [""], False)[0], EXPECTED[pool])


# ---- tensors without data -------------------------------------------------------------------------------------------

META, W = torch.empty(4, device="meta"), torch.arange(4.0)
FLAGS = torch.ones(4, dtype=torch.bool)
NOWHERE = HALF.to("meta")
MIXES = {
    "one of several": (
        lambda: selection.lowest([W, META], [None] * 2, HALF, "amount", ["a", "b"], True),
        "`scores` of 'b'",
    ),
    "the mask": (
        lambda: selection.lowest([W], [FLAGS.to("meta")], HALF, "amount", ["w"], True),
        "`default_mask` of 'w'",
    ),
    "the scores": (lambda: selection.lowest([META], [FLAGS], HALF, "amount", ["w"], True), "`scores` of 'w'"),
    "the number": (lambda: pool(S, M, NOWHERE), "`amount`"),
    "the number for rows": (lambda: rows(S, M, NOWHERE), "`amount`"),
    "the items of rows": (
        lambda: selection.lowest_in_rows(S, M, torch.empty(4, device="meta").long(), HALF, "amount", "", False),
        "`items`",
    ),
    "an item": (
        lambda: selection.item_scores([W.view(2, 2), META.view(2, 2)], [None, None], 2.0, False, ["a", "b"]),
        "`scores` of 'b'",
    ),
    "labels": (lambda: selection.lowest_labelled([W], [None], [META.long()], [], HALF, "amount", [""]), "`items`"),
    "the key": (lambda: selection.noise(torch.tensor(1, device="meta"), "", 0, [2], W.device), "`key`"),
}


@pytest.mark.parametrize("case", MIXES)
def test_meta_tensors_among_others_are_refused(case):
    call, where = MIXES[case]
    with pytest.raises(ValueError, match=rf"^{where} must hold data, got a tensor on the meta device"):
        call()


def test_meta_tensors_alone_give_meta_masks():
    for groups in (ml.elements(), ml.rows(), ml.windows(2), ml.channels(0, p=2)):
        got = ml.compute_mask(META.view(2, 2), (META > 0).view(2, 2), amount=0.5, groups=groups)
        assert got.is_meta
        assert got.shape == (2, 2)
    assert ml.scores.random(META, key=1).is_meta
    assert pool(META, None, NOWHERE).is_meta


def test_partial_calls_and_copies_of_the_surface_are_the_same():
    f = copy.copy(partial(selection.lowest, counting="amount", names=[""], by_magnitude=False))
    assert torch.equal(f([S], [M], HALF)[0], EXPECTED[pool])
