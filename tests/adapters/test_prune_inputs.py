"""What comes from outside: methods, masks, scores, dtypes, hooks, classes of other people."""

from __future__ import annotations

import pytest
import torch
from prunings import hook_of
from torch import nn

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
    for dtype in (torch.complex64, torch.float64, torch.float16, torch.int8, torch.float8_e4m3fn):
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(6, 5).to(dtype), requires_grad=False)
        prune.random_unstructured(module, "weight", 7)
        assert int((~module.weight_mask.to(torch.bool)).sum()) == 7
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
    with pytest.raises(TypeError, match=r"Pass \['0.weight'\]"):
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
