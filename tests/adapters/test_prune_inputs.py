"""What comes from outside: methods, masks, scores, dtypes, hooks, classes of other people."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.utils.prune
from prunings import hook_of
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import weights


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- methods of one's own -------------------------------------------------------------------------------------------


def writing(kind):
    class Writing(prune.BasePruningMethod):
        PRUNING_TYPE = kind
        dim = 0

        def compute_mask(self, t, default_mask):
            t.mul_(0)
            return default_mask

    return Writing


@pytest.mark.parametrize("kind", ["unstructured", "structured", "global"])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_method_may_write_into_what_it_is_given(kind, calls):
    module, scores = nn.Linear(3, 4), torch.rand(4, 3)
    for _ in range(calls):
        prune.l1_unstructured(module, "weight", 1)
    before, given = module.state_dict(), scores.clone()
    before = {n.removesuffix("_orig"): t.clone() for n, t in before.items()}
    writing(kind).apply(module, "weight")
    writing(kind).apply(module, "weight", importance_scores=scores)
    assert torch.equal(module.weight_orig, before["weight"])
    assert torch.equal(scores, given)


RECEIVED = {"unstructured": (9,), "structured": (3, 4), "global": (4, 4)}


@pytest.mark.parametrize(("kind", "shape"), RECEIVED.items(), ids=RECEIVED)
def test_later_calls_receive_what_the_pruning_type_promises(kind, shape):
    class Looking(prune.BasePruningMethod):
        PRUNING_TYPE = kind
        dim = 0

        def compute_mask(self, t, default_mask):
            seen.append((tuple(t.shape), tuple(default_mask.shape), default_mask.dtype))
            return default_mask

    seen, module = [], nn.Linear(4, 4)
    prune.custom_from_mask(module, "weight", torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]))
    Looking.apply(module, "weight")
    assert seen == [(shape, shape, torch.float32)]


def test_a_subclass_may_set_the_mask_itself():
    class Eye(prune.CustomFromMask):
        def __init__(self, size):
            self.mask = torch.eye(size)

    module = nn.Linear(3, 3)
    prune.BasePruningMethod.apply.__func__(Eye, module, "weight", 3)
    assert torch.equal(module.weight_mask, torch.eye(3))
    assert torch.equal(hook_of(module).mask, torch.eye(3) != 0)


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def test_noise_is_as_fine_as_float32_whatever_the_default(monkeypatch):
    drawn = []
    for name in ("rand", "rand_like"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, f=original, **k: drawn.append(f(*a, **k)) or drawn[-1])
    torch.set_default_dtype(torch.bfloat16)
    try:
        prune.random_structured(nn.Linear(4, 30), "weight", 10, dim=0)
        prune.random_unstructured(nn.Linear(4, 30), "weight", 10)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [noise.dtype for noise in drawn] == [torch.float32] * 2


def test_random_methods_take_any_dtype():
    eights, unsigned = (torch.float8_e4m3fn, torch.float8_e5m2), (torch.uint16, torch.uint32, torch.uint64)
    for dtype in (torch.complex64, torch.float64, torch.float16, torch.int8, *eights, *unsigned):
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(6, 5).to(dtype), requires_grad=False)
        prune.random_unstructured(module, "weight", 3)
        prune.random_unstructured(module, "weight", 4)
        assert int((~module.weight_mask.to(torch.bool)).sum()) == 7
        assert module.weight.tolist() == module.weight_mask.tolist()
        assert module.weight.dtype == module.weight_mask.dtype == dtype


def test_empty_and_single_tensors():
    module = nn.Module()
    module.one, module.none = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.empty(0, 3))
    prune.l1_unstructured(module, "one", 1)
    for amount in (0, 0.5, 1.0):
        prune.l1_unstructured(module, "none", amount)
        prune.random_structured(module, "none", amount, dim=1)
    assert module.one == 0
    prune.remove(module, "none")
    prune.remove(module, "one")


# ---- refused by name ------------------------------------------------------------------------------------------------


def test_a_single_string_is_not_names():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(TypeError, match=r"For example \['0.weight'\]"):
        prune.global_unstructured(model, prune.L1Unstructured, names="0.weight", amount=2)


def test_scores_on_another_device_are_refused():
    module = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="must be on the device of parameter 'weight'"):
        prune.l1_unstructured(module, "weight", 1, importance_scores=torch.ones(3, 3, device="meta"))
    assert not prune.is_pruned(module)


def test_a_replaced_original_cannot_be_removed():
    class Symmetric(nn.Module):
        def forward(self, x):
            return x + x.T

    module = prune.l1_unstructured(nn.Linear(4, 4), "weight", 6)
    nn.utils.parametrize.register_parametrization(module, "weight_orig", Symmetric())
    assert (module.weight == 0).sum() >= 6
    with pytest.raises(ValueError, match="'weight_orig' of ParametrizedLinear is no parameter any more"):
        prune.remove(module, "weight")
    nn.utils.parametrize.remove_parametrizations(module, "weight_orig")
    prune.remove(module, "weight")
    assert isinstance(module.weight, nn.Parameter)


# ---- hooks and classes ----------------------------------------------------------------------------------------------


def test_pruning_survives_that_someone_clears_the_hooks():
    module = prune.l1_unstructured(nn.Linear(3, 3), "weight", 1)
    module._forward_pre_hooks.clear()
    assert (module.weight == 0).sum() == 1
    prune.l1_unstructured(module, "weight", 1)
    assert len(hook_of(module)) == 2
    module._forward_pre_hooks.clear()
    prune.remove(module, "weight")
    assert isinstance(module.weight, nn.Parameter)


def test_a_hook_that_was_left_behind_is_replaced():
    module = prune.l1_unstructured(nn.Linear(3, 3), "weight", 1)
    hook_of(module).remove(module)
    prune.l1_unstructured(module, "weight", 1)
    assert len(module._forward_pre_hooks) == 1
    prune.remove(module, "weight")
    assert not prune.is_pruned(module)


def test_classes_in_between_are_still_asked():
    class Logging:
        def register_parameter(self, name, param):
            asked.append(name)
            super().register_parameter(name, param)

    class Scale(Logging, nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(3))

    asked = []
    prune.l1_unstructured(Scale(), "scale", 1)
    Scale()
    assert asked == ["scale", "scale"]


def test_recurrent_modules_keep_no_old_weights():
    module = prune.l1_unstructured(nn.LSTM(3, 4), "weight_hh_l0", 2)
    module.load_state_dict({n: t.clone() for n, t in module.state_dict().items()}, assign=True)
    held = {id(p) for p in module.parameters()}
    assert all(id(w) in held for w in module._flat_weights if isinstance(w, nn.Parameter))
    assert "_flat_weights" not in vars(module)
    assert not hasattr(nn.LSTM.__new__(nn.LSTM), "_flat_weights")
    prune.remove(module, "weight_hh_l0")
    assert module._flat_weights == [getattr(module, name) for name in module._flat_weights_names]


def test_weights_of_a_recurrent_module_are_its_matrices():
    assert list(weights(nn.LSTM(3, 4, proj_size=2))) == ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]


# ---- tracing --------------------------------------------------------------------------------------------------------


def test_fx_traces_a_module_whose_own_weight_is_pruned():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return x @ self.weight.t()

    module, x = prune.l1_unstructured(Own(), "weight", 6), torch.randn(2, 4)
    traced = torch.fx.symbolic_trace(module)
    assert torch.equal(traced(x), module(x))
    with torch.no_grad():
        module.weight_orig.mul_(2)
    assert torch.equal(traced(x), module(x))


def test_ensembles_of_pruned_modules():
    modules = [prune.random_unstructured(nn.Linear(4, 4), "weight", 6) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(modules)
    base, x = copy.deepcopy(modules[0]).to("meta"), torch.randn(2, 4)

    def forward(p, b):
        return torch.func.functional_call(base, (p, b), (x,))

    outputs = torch.func.vmap(forward)(params, buffers)
    torch.testing.assert_close(outputs, torch.stack([module(x) for module in modules]))


def test_double_backward_and_forward_mode():
    module = prune.l1_unstructured(nn.Linear(3, 3), "weight", 2)
    params = dict(module.named_parameters())

    def loss(p):
        return torch.func.functional_call(module, p, torch.ones(1, 3)).square().sum()

    dead = module.weight_mask == 0
    hessian = torch.func.hessian(loss)(params)["weight_orig"]["weight_orig"]
    assert not hessian[dead].any()
    _, tangent = torch.func.jvp(loss, (params,), ({n: torch.ones_like(p) for n, p in params.items()},))
    assert tangent.isfinite()


def test_under_a_default_device_without_values():
    """Loaders build models under torch.device("meta"); pruning a real module there works as ever."""
    calls = {
        "l1": lambda m: prune.l1_unstructured(m, "weight", 3),
        "random": lambda m: prune.random_structured(m, "weight", 1, 0),
        "twice": lambda m: prune.ln_structured(prune.identity(m, "weight"), "weight", 1, 2, 0),
    }
    for call in calls.values():
        module = nn.Linear(3, 3)
        with torch.device("meta"):
            call(module)
        assert int((module.weight == 0).sum()) == 3
        assert torch.equal(ml.fold(hook_of(module).history(), module.weight_orig), module.weight_mask != 0)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients(kind):
    """As torch.nn.utils.prune has them: sparse, and zero where the mask is."""
    twins = {lib: kind(6, 4, sparse=True) for lib in (prune, torch.nn.utils.prune)}
    twins[torch.nn.utils.prune].load_state_dict(twins[prune].state_dict())
    rows = torch.tensor([[1, 2, 1]])
    for lib, module in twins.items():
        lib.l1_unstructured(module, "weight", 11)
        module(rows).square().sum().backward()
    mine, other = (module.weight_orig.grad for module in twins.values())
    assert mine.is_sparse
    assert torch.equal(mine.to_dense(), other.to_dense())
    assert not mine.to_dense()[twins[prune].weight_mask == 0].any()
    with torch.no_grad():
        twins[prune].weight_orig.fill_(torch.nan)
    assert torch.equal(twins[prune].weight.isnan(), twins[prune].weight_mask != 0)


# ---- what has no values, and what others did ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "call"),
    {
        "on the meta device": lambda m: prune.l1_unstructured(m.to("meta"), "weight", 1),
        "`mask` must be a torch.Tensor, got list": lambda m: prune.custom_from_mask(m, "weight", [[1]]),
        "`n` must be a number, inf, -inf, 'fro' or 'nuc', got 'l2'": lambda m: prune.ln_structured(
            m, "weight", 1, n="l2", dim=0
        ),
        "must be a class of methods, got <masklib": lambda m: prune.global_unstructured(m, prune.L1Unstructured(0.5)),
        "must be a class of methods, got <function": lambda m: prune.global_unstructured(m, prune.is_pruned, module=m),
        "(module, name) pairs as keys, got 'weight'": lambda m: prune.global_unstructured(
            m, prune.L1Unstructured, importance_scores={"weight": m.weight}, amount=1
        ),
        "must be a class of methods, got 'l1'": lambda m: prune.global_unstructured(m, "l1", amount=1),
        "`names` must be parameters of the module, got ['nope.weight', 3]": lambda m: prune.global_unstructured(
            m, prune.L1Unstructured, names=["nope.weight", 3], amount=1
        ),
        "'weight' of LazyLinear is not initialized": lambda m: prune.global_unstructured(
            nn.Sequential(m, nn.LazyLinear(2)), prune.L1Unstructured, amount=1
        ),
        "Prune first, then script": lambda m: prune.l1_unstructured(torch.jit.script(m), "weight", 1),
        "Somebody else has pruned or normed it": lambda m: prune.l1_unstructured(
            torch.nn.utils.prune.l1_unstructured(m, "weight", 2), "weight", 1
        ),
    }.items(),
)
def test_more_bad_calls_are_explained(message, call):
    module = nn.Linear(3, 3)
    with pytest.raises((TypeError, ValueError)) as caught:
        call(module)
    assert message in str(caught.value)
    assert not prune.is_pruned(module)
