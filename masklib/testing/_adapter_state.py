"""Laws of what pruning a module leaves alone: parameters and their order, failures, copies, other sites.

Each law is a plain function of a `Subject`; its docstring is its equation, of a module m with a parameter w of m that
is pruned: w_orig and w_mask while it is, w what is read under its name.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ._subject import Call, Made, Subject, alive, fill

# ---- parameters ------------------------------------------------------------------------------------------------------


def parameters_keep_their_places(s: Subject) -> None:
    """prune: the k-th parameter of m is the object it was, under its name, or name_orig if it is the pruned one."""
    before = list(s.module._parameters.items())
    s.begin()
    after = list(s.module._parameters.items())
    assert [n for n, _ in after] == [f"{n}_orig" if n == s.name else n for n, _ in before]
    assert all(p is q for (_, p), (_, q) in zip(after, before))


def remove_restores_the_parameters(s: Subject) -> None:
    """remove(prune(m)) has the parameters of m: the same objects, names and order, and nothing beside."""
    before, tables = list(s.module._parameters.items()), s.seen()[1:3]
    s.begin()
    assert s.prune.is_pruned(s.module)
    s.remove()
    after = list(s.module._parameters.items())
    assert [n for n, _ in after] == [n for n, _ in before]
    assert all(p is q for (_, p), (_, q) in zip(after, before))
    assert s.seen()[1:3] == tables
    assert not s.module._buffers
    assert not s.prune.is_pruned(s.module)


def remove_writes_in_place(s: Subject) -> None:
    """remove: w = where(w_mask, w_orig, 0), in the storage that w had before all pruning."""
    view = s.parameter.detach()
    s.begin()
    expected = s.effective
    s.remove()
    assert torch.equal(s.read, expected)
    assert s.read.data_ptr() == view.data_ptr()
    assert torch.equal(view, expected)


def remove_changes_no_output(s: Subject) -> None:
    """m(x) after remove = m(x) before, trained in between or not."""
    for between in (lambda: None, s.step):
        s.again()
        s.begin()
        between()
        before = s.do("m(x)", s.forward).detach().clone()
        s.remove()
        assert torch.equal(s.do("m(x)", s.forward), before)


# ---- failures --------------------------------------------------------------------------------------------------------

_MISSHAPEN = Made("torch.ones(99)", lambda s: torch.ones(99))
_MISSHAPEN_POOL = Made("{(m, name): torch.ones(99)}", lambda s: {(s.module, s.name): torch.ones(99)})
BAD = (
    *(Call("l1_unstructured", {"amount": amount}) for amount in (1000, 1.5, -1, "half", None)),
    *(Call("random_unstructured", {"amount": amount}) for amount in (1000, -0.5)),
    *(Call("ln_structured", {"amount": 1000, "n": 2, "dim": dim}) for dim in (0, 9)),
    *(Call("random_structured", {"amount": 1000, "dim": dim}) for dim in (0, 9)),
    Call("l1_unstructured", {"amount": 1, "importance_scores": _MISSHAPEN}),
    Call("custom_from_mask", {"mask": _MISSHAPEN}),
    Call("global_unstructured", {"pruning_method": "L1Unstructured", "amount": 1000}),
    Call("global_unstructured", {"pruning_method": "RandomUnstructured", "amount": 1000}),
    Call(
        "global_unstructured",
        {"pruning_method": "L1Unstructured", "amount": 1, "importance_scores": _MISSHAPEN_POOL},
    ),
)


def a_failing_first_call_changes_nothing(s: Subject) -> None:
    """A call on m that raises leaves parameters, order, buffers, hooks, attributes, random state; the next works."""
    _failing_changes_nothing(s, lambda: None)


def a_failing_later_call_changes_nothing(s: Subject) -> None:
    """The same on a module that is pruned already."""
    _failing_changes_nothing(s, s.begin)


def _failing_changes_nothing(s: Subject, begin: Callable[[], None]) -> None:
    others: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("l1_unstructured(m, 'no_such', amount=1)", lambda: s.prune.l1_unstructured(s.module, "no_such", amount=1)),
        ("remove(m, 'no_such')", lambda: s.prune.remove(s.module, "no_such")),
        (f"Raising.apply(m, {s.name!r})", lambda: _raising(s.prune).apply(s.module, s.name)),
    )
    bad = [partial(s.call, call) for call in BAD] + [partial(s.do, *other) for other in others]
    for call in bad:
        s.again()
        begin()
        before = s.seen()
        assert _raises(call)
        assert s.seen() == before
        s.call(Call("identity", {}))


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


def _raising(prune: Any) -> Any:
    """A method of one's own that draws, writes into what it is given, and raises."""

    class Raising(prune.BasePruningMethod):  # type: ignore[misc]
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            default_mask.mul_(torch.rand(1))
            raise ValueError("a method of one's own that raises")

    return Raising


# ---- copies ----------------------------------------------------------------------------------------------------------


def a_deepcopy_is_a_twin(s: Subject) -> None:
    """deepcopy(m), trained or not, has m's values, shares no memory with m, and is pruned further as m is."""
    s.begin()
    s.step()
    _is_twin(s, s.do("deepcopy(m)", lambda: copy.deepcopy(s.module)))


def a_pickle_is_a_twin(s: Subject) -> None:
    """The same of loads(dumps(m))."""
    s.begin()
    s.step()
    _is_twin(s, s.do("pickle.loads(pickle.dumps(m))", lambda: pickle.loads(pickle.dumps(s.module))))


def a_state_dict_makes_a_twin(s: Subject) -> None:
    """The same of identity(another m, name) with m's state dict loaded."""
    s.begin()
    other = s.do("n = another m", s.fresh)
    s.do(f"identity(n, {s.name!r})", lambda: s.prune.identity(other, s.name))
    s.do("n.load_state_dict(m.state_dict())", lambda: other.load_state_dict(s.module.state_dict()))
    _is_twin(s, other)


def saving_changes_no_output(s: Subject) -> None:
    """n(x) = m(x) = m(x) before, for n pruned and loaded from a file of m's tensors, as weights_only reads it."""
    s.begin()
    s.step()
    before, file, other = s.forward().detach().clone(), io.BytesIO(), s.fresh()
    s.do("torch.save(m.state_dict(), file)", lambda: torch.save(s.module.state_dict(), file))
    file.seek(0)
    tensors = s.do("torch.load(file, weights_only=True)", lambda: torch.load(file, weights_only=True))
    s.do(f"identity(n, {s.name!r})", lambda: s.prune.identity(other, s.name))
    s.do("n.load_state_dict(what was loaded)", lambda: other.load_state_dict(tensors))
    assert torch.equal(s.forward(), before)
    assert torch.equal(s.forward(other), before)


def _is_twin(s: Subject, twin: Any) -> None:
    assert torch.equal(s.forward(twin), s.forward())
    assert torch.equal(getattr(twin, s.name), s.read)
    mine, its = s.module.state_dict(), twin.state_dict()
    assert list(its) == list(mine)
    assert all(torch.equal(its[n], mine[n]) for n in mine)
    assert not {t.data_ptr() for t in its.values()} & {t.data_ptr() for t in mine.values()}
    further = Call("l1_unstructured", {"amount": 0.5})
    s.call(further)
    s.call(further, twin)
    assert torch.equal(alive(twin, s.name), s.mask)


# ---- several sites ---------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """One weight at two sites, and another."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head, self.other = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False), nn.Linear(3, 4)
        self.head.weight = self.embedding.weight


def a_tied_weight_counts_once(s: Subject) -> None:
    """global_unstructured over several sites of one weight: it counts once, and has one mask at all of them."""
    model, s.said = Tied(), ["t = a model with one weight at two sites, and another weight"]
    pairs = [(model.embedding, "weight"), (model.head, "weight"), (model.other, "weight")]
    call = partial(s.prune.global_unstructured, pairs, s.prune.L1Unstructured, amount=0.5)
    s.do("global_unstructured(all three sites of t, L1Unstructured, amount=0.5)", call)
    masks = [alive(*pair) for pair in pairs]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(model.embedding.weight, model.head.weight)
    assert int((~masks[0]).sum() + (~masks[2]).sum()) == 12


def functional_call_leaves_nothing_behind(s: Subject) -> None:
    """functional_call(m, {w_orig: v}, x) = m(x) with v in w_orig, and m is as before."""
    s.begin()
    s.forward()
    other = torch.randn_like(s.parameter)
    before = s.seen()
    given = {f"{s.name}_orig": other}
    got = s.do(
        f"functional_call(m, {{'{s.name}_orig': other values}}, x)",
        lambda: s.forward(partial(functional_call, s.module, given)),  # type: ignore[arg-type]
    )
    assert s.seen() == before
    fill(s.parameter, other)
    assert torch.equal(got, s.forward())
