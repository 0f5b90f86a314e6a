"""Laws of what a pruned module is: what is read of it, how it trains, who dies.

The notation is that of `_adapter_state`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import masklib as ml

from ._subject import STRUCTURED, UNSTRUCTURED, Call, Made, Subject, alive, checkered, dying, fill
from .laws._compare import touches_generators

# ---- ranking and reading ---------------------------------------------------------------------------------------------


_L1 = partial(ml.l1_unstructured, amount=0.5)
_MAX: dict[str, Any] = {"n": float("inf"), "dim": 0, "amount": 0.5}  # exact in every dtype
RANKING = (
    (Call("l1_unstructured", {"amount": 0.5}), _L1),
    (Call("global_unstructured", {"pruning_method": "L1Unstructured", "amount": 0.5}), _L1),
    (Call("ln_structured", _MAX), partial(ml.ln_structured, **_MAX)),
)


def a_later_call_ranks_the_weights_as_they_are(s: Subject) -> None:
    """prune on a pruned m: who dies is who is lowest of where(w_mask, w_orig, 0) now, whatever w_orig was earlier."""
    s.begin()
    for call, step in RANKING:
        if s.parameter.dim() > 1 or call.function in UNSTRUCTURED:
            s.rewind()
            expected = step(s.parameter.detach(), s.mask)
            s.call(call)
            assert torch.equal(s.mask, expected)


def what_is_read_is_right_after_a_step(s: Subject) -> None:
    """w = where(w_mask, w_orig, 0) after an optimizer's step, and after values written in place."""
    s.begin()
    assert torch.equal(s.read, s.effective)
    for change in (s.step, s.rewind):
        change()
        assert torch.equal(s.read, s.effective)


def what_is_read_is_right_after_loading(s: Subject) -> None:
    """w = where(w_mask, w_orig, 0) after load_state_dict of other values and another mask."""
    s.begin()
    state = {n: torch.rand_like(t) for n, t in s.module.state_dict().items()}
    state[f"{s.name}_mask"] = checkered(state[f"{s.name}_mask"], 4)
    s.do("m.load_state_dict(other values, another mask)", lambda: s.module.load_state_dict(state))
    assert torch.equal(s.read, s.effective)


def what_is_read_is_right_after_to(s: Subject) -> None:
    """w = where(w_mask, w_orig, 0), in the dtype asked for, after m.to(dtype)."""
    s.begin()
    for dtype in (torch.float16, torch.float64):
        s.do(f"m.to({dtype})", partial(s.module.to, dtype))
        assert s.read.dtype == s.parameter.dtype == dtype
        assert torch.equal(s.read, s.effective)


def what_is_read_trains(s: Subject) -> None:
    """d sum(w) / d w_orig = w_mask, for w read without calling m, as often as one likes."""
    s.begin()
    for times in (1, 2):
        s.do("m's weight.sum().backward()", lambda: s.read.sum().backward())
        assert torch.equal(_gradient(s), s.mask.to(s.parameter.dtype) * times)


def no_nan_is_read(s: Subject) -> None:
    """w = 0 where w_mask = 0, NaN and inf in w_orig included."""
    s.begin()
    values = torch.where(s.mask, s.parameter.detach(), torch.tensor(float("nan")))
    s.do("NaN in m's dead entries", lambda: fill(s.parameter, values))
    s.forward()
    assert torch.equal(s.read, s.effective)
    assert not s.read.isnan().any()


def dead_gradients_are_zero(s: Subject) -> None:
    """d f(m(x)) / d w_orig = 0 where w_mask = 0, and the dense gradient elsewhere."""
    s.begin()
    dense = s.fresh()
    state = s.module.state_dict()
    values = {n: t for n, t in state.items() if n in dense.state_dict()} | {s.name: s.effective}
    dense.load_state_dict(values)
    s.forward(dense).square().sum().backward()
    s.do("m(x).square().sum().backward()", lambda: s.forward().square().sum().backward())
    expected = getattr(dense, s.name).grad
    assert not _gradient(s)[~s.mask].any()
    assert torch.allclose(_gradient(s)[s.mask], expected[s.mask], rtol=0.05)


def _gradient(s: Subject) -> Tensor:
    assert s.parameter.grad is not None
    return s.parameter.grad


# ---- masks -----------------------------------------------------------------------------------------------------------


def masks_only_shrink(s: Subject) -> None:
    """w_mask after a call <= w_mask before it, whatever happens to w_orig in between."""
    for call in s.case.calls:
        before = s.mask
        s.call(call)
        assert not (s.mask & ~before).any()
        s.rewind()


def counts_are_exact(s: Subject) -> None:
    """A call takes `amount` live entries or whole channels: so many if an int, round(amount * alive) if a float."""
    for call in s.case.calls:
        before, amount = s.mask, call.arguments.get("amount", 0)
        s.call(call)
        died = _items(before, call) & ~_items(s.mask, call)
        if call.function == "custom_from_mask":
            assert torch.equal(s.mask, before & (call.arguments["mask"].make(s) != 0))
        else:
            assert int(died.sum()) == dying(int(_items(before, call).sum()), amount)
            assert torch.equal(s.mask, before & ~died)


def _items(mask: Tensor, call: Call) -> Tensor:
    """Who lives: entries, or channels as a tensor that broadcasts."""
    if call.function not in STRUCTURED:
        return mask
    dim = call.arguments["dim"] % mask.dim()
    others = [d for d in range(mask.dim()) if d != dim]
    return mask.sum(dim=others, keepdim=True) > 0


def masks_have_the_parameters_dtype(s: Subject) -> None:
    """w_mask has dtype, shape and strides of w_orig, and holds 0 and 1, whatever dtype masks and scores came in."""
    for calls in (s.case.calls, *((call,) for call in _of_another_dtype(s))):
        s.again()
        for call in calls:
            s.call(call)
            mask = getattr(s.module, f"{s.name}_mask")
            assert (mask.dtype, mask.shape) == (s.parameter.dtype, s.parameter.shape)
            assert mask.stride() == s.parameter.stride()
            assert set(mask.unique().tolist()) <= {0, 1}


def _of_another_dtype(s: Subject) -> list[Call]:
    scores = {"importance_scores": Made("float16 scores", lambda s: s.parameter.detach().half())}
    calls = [
        Call("l1_unstructured", {"amount": 1} | scores),
        Call("custom_from_mask", {"mask": Made("bool mask", lambda s: checkered(s.parameter).bool())}),
        Call("ln_structured", {"amount": 1, "n": 2, "dim": 0} | scores),
    ]
    return calls if s.parameter.dim() > 1 else calls[:2]


def masks_are_the_modules_own(s: Subject) -> None:
    """A mask that is passed is never written to, nor shared with m: writing into it changes nothing."""
    passed = checkered(s.parameter)
    expected = passed.clone()
    s.call(Call("custom_from_mask", {"mask": Made("mask", lambda s: passed)}))
    assert torch.equal(passed, expected)
    s.do("mask.zero_()", passed.zero_)
    assert torch.equal(s.mask, expected != 0)
    passed.copy_(expected)
    s.begin()
    assert torch.equal(passed, expected)


def compute_mask_returns_its_own(s: Subject) -> None:
    """method.compute_mask(t, mask) leaves mask as it is, and shares no memory with it, even if nothing dies."""
    p, start = s.prune, torch.ones(3, 4)
    methods = (p.Identity(), *(p.RandomUnstructured(n) for n in (0, 2)), *(p.LnStructured(n, 2, 0) for n in (0, 1)))
    for method in (*methods, p.RandomStructured(0, 0), p.L1Unstructured(1), p.CustomFromMask(torch.ones(3, 4))):
        text = f"{type(method).__name__}.compute_mask(ones, mask)"
        got = s.do(text, partial(method.compute_mask, torch.ones(3, 4), start))
        assert got.data_ptr() != start.data_ptr()
        assert start.all()


def what_is_not_one_is_not_alive(s: Subject) -> None:
    """Other values than 0 and 1 in w_mask, such as averages: an error, or they multiply; no later call raises them."""
    s.begin()
    mask = getattr(s.module, f"{s.name}_mask")
    average = torch.where(mask != 0, 0.5, 2.0**-20).to(mask.dtype)
    s.do("w_mask.copy_(an average of masks)", lambda: fill(mask, average))
    try:
        s.forward()
        read = s.read.detach().clone()
        s.call(Call("l1_unstructured", {"amount": 0.5}))
    except Exception:
        return
    assert torch.equal(read, (average * s.parameter).detach())
    assert bool((getattr(s.module, f"{s.name}_mask") <= average).all())


def a_global_call_is_one_pool(s: Subject) -> None:
    """global_unstructured over two weights = l1_unstructured of the core over both: the lowest of the two together."""
    other = s.fresh()
    count = s.parameter.numel()
    fill(s.parameter, 2 * torch.arange(count) - 2 * count)  # no ties
    fill(getattr(other, s.name), 2 * torch.arange(count) + count // 2 * 2 + 1)
    weights = {"0": s.parameter.detach().clone(), "1": getattr(other, s.name).detach().clone()}
    steps = []
    for amount in (0.5, 1):
        steps.append(partial(ml.l1_unstructured, amount=amount))
        pairs = [(s.module, s.name), (other, s.name)]
        text = f"global_unstructured([m and another m, {s.name!r}], pruning_method=L1Unstructured, amount={amount})"
        call = partial(s.prune.global_unstructured, pairs, pruning_method=s.prune.L1Unstructured, amount=amount)
        s.do(text, call)
        expected = ml.fold(steps, weights)
        assert torch.equal(s.mask, expected["0"])
        assert torch.equal(alive(other, s.name), expected["1"])


def chance_alone_decides_at_random(s: Subject) -> None:
    """A random call takes the same entries whatever w is, if the generator is the same; no other call moves it."""
    for call in s.case.calls:
        if call.noisy:
            assert torch.equal(_seeded(s, call, 1), _seeded(s, call, -1))
        else:
            assert not touches_generators(partial(s.call, call))


def _seeded(s: Subject, call: Call, step: int) -> Tensor:
    """The mask after one call on a new module, whose weights rise or fall."""
    s.again()
    values = torch.arange(s.parameter.numel()).mul(step) % (s.parameter.numel() + 1)
    s.do(f"m's parameter {'rises' if step > 0 else 'falls'}", lambda: fill(s.parameter, values))
    torch.default_generator.manual_seed(s.case.seed)
    s.call(call)
    return s.mask


def layouts_make_no_difference(s: Subject) -> None:
    """prune(m) has the same mask whatever the strides of w, where chance does not decide."""
    determined = [call for call in s.case.calls if not call.noisy]
    for call in determined:
        s.call(call)
    expected = s.mask
    s.again()
    turned = s.parameter.detach().mT.contiguous().mT if s.parameter.dim() > 1 else s.parameter.detach()
    s.do("m's weight with turned strides", lambda: setattr(s.module, s.name, nn.Parameter(turned)))
    for call in determined:
        s.call(call)
    assert torch.equal(s.mask, expected)
    assert s.parameter.stride() == turned.stride()
