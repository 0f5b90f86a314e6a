"""What torch.nn.utils.prune gets wrong: each check passes here and fails there, and both are run."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as theirs
from torch import nn
from torch.func import functional_call, vmap

import masklib.adapters.prune as ours

CHECKS = []


def defect(check):
    CHECKS.append(check)
    return check


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_here(check):
    check(ours)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.filterwarnings("ignore")
def test_there(check):
    if check is nuclear_and_half_precision_norms_work and torch.__version__ >= "2.14":
        pytest.skip("mended in torch 2.14")
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(theirs)


def fill(param, values):
    with torch.no_grad():
        param.copy_(torch.as_tensor(values).view_as(param))


def linear(values):
    module = nn.Linear(len(values), 1, bias=False)
    fill(module.weight, values)
    return module


# ---- silent wrong results -------------------------------------------------------------------------------------------


@defect
def a_second_call_ranks_the_weights_as_they_are_now(prune):
    module = prune.l1_unstructured(linear([1.0, 2.0, 3.0, 4.0]), "weight", 1)
    fill(module.weight_orig, [1.0, 9.0, 0.1, 4.0])
    prune.l1_unstructured(module, "weight", 1)
    assert module.weight_mask.tolist() == [[0, 1, 0, 1]]


@defect
def a_second_global_call_ranks_the_weights_as_they_are_now(prune):
    module = linear([1.0, 2.0, 3.0, 4.0])
    prune.global_unstructured([(module, "weight")], prune.L1Unstructured, amount=1)
    fill(module.weight_orig, [1.0, 9.0, 0.1, 4.0])
    prune.global_unstructured([(module, "weight")], prune.L1Unstructured, amount=1)
    assert module.weight_mask.tolist() == [[0, 1, 0, 1]]


@defect
def reading_is_right_after_a_step_and_after_loading(prune):
    module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    fill(module.weight_orig, torch.arange(12.0))
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
    module.double()
    assert module.weight.dtype == torch.float64


@defect
def attention_trains(prune):
    attention = nn.MultiheadAttention(8, 2)
    prune.l1_unstructured(attention.out_proj, "weight", 0.5)
    for _ in range(2):
        x = torch.randn(3, 1, 8)
        attention(x, x, x)[0].sum().backward()


@defect
def a_penalty_before_the_forward_trains(prune):
    module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    for _ in range(2):
        (module.weight.abs().sum() + F.linear(torch.ones(1, 4), module.weight).sum()).backward()


@defect
def a_failed_second_call_changes_nothing(prune):
    module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)
    before = everything(module)
    for bad in (
        lambda: prune.l1_unstructured(module, "weight", 1000),
        lambda: prune.l1_unstructured(module, "weight", 1, importance_scores=torch.ones(2, 2)),
        lambda: prune.custom_from_mask(module, "weight", torch.ones(5)),
    ):
        with pytest.raises((ValueError, AssertionError)):
            bad()
        assert everything(module) == before
    prune.remove(module, "weight")


def everything(module):
    return (
        {n: (id(p), p.tolist()) for n, p in module._parameters.items() if p is not None},
        list(module._parameters),
        {n: (id(b), b.tolist()) for n, b in module._buffers.items()},
        {k: (id(h), len(h) if hasattr(h, "__len__") else 0) for k, h in module._forward_pre_hooks.items()},
        sorted(vars(module)),
        torch.get_rng_state().tolist(),
    )


@defect
def pruning_a_bias_that_is_none_changes_nothing(prune):
    module = nn.Linear(4, 3, bias=False)
    with pytest.raises(TypeError):
        prune.l1_unstructured(module, "bias", 1)
    assert module.bias is None
    assert list(module._parameters) == ["weight", "bias"]


@defect
def random_pruning_in_bfloat16_is_uniform(prune):
    module = nn.Linear(300, 300).bfloat16()
    prune.random_unstructured(module, "weight", 100)
    dead = (module.weight_mask == 0).view(-1).nonzero()
    assert len(dead) == 100
    assert (dead < 27000).float().mean() < 0.6  # 30 % of the entries hold about 30 % of the dead


@defect
def random_structured_is_exact_when_noise_ties(prune, monkeypatch=None):
    original = torch.rand
    torch.rand = lambda *args, **kwargs: torch.full(args, 0.5) if args else original(*args, **kwargs)
    try:
        module = prune.random_structured(nn.Linear(4, 6), "weight", 2, dim=0)
    finally:
        torch.rand = original
    assert (module.weight_mask.sum(1) == 0).sum() == 2


@defect
def a_tied_weight_counts_once_in_a_global_call(prune):
    a, b, c = (nn.Linear(2, 2, bias=False) for _ in range(3))
    b.weight = a.weight
    pairs = [(a, "weight"), (b, "weight"), (c, "weight")]
    fill(a.weight, [1.0, 2.0, 3.0, 4.0])
    fill(c.weight, [10.0, 20.0, 30.0, 40.0])
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=4)
    assert torch.equal(a.weight, torch.zeros(2, 2))
    assert torch.equal(b.weight, torch.zeros(2, 2))
    assert torch.equal(c.weight_mask, torch.ones(2, 2))


@defect
def unknown_importance_scores_are_refused(prune):
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(ValueError, match="importance_scores"):
        prune.global_unstructured(
            [(module, "weight")], prune.L1Unstructured, {(other, "weight"): torch.ones(2, 2)}, amount=1
        )
    assert not prune.is_pruned(module)


@defect
def misshapen_importance_scores_are_refused_before_anything_changes(prune):
    a, b = nn.Linear(4, 2), nn.Linear(2, 2)
    scores = {(a, "weight"): torch.ones(4), (b, "weight"): torch.ones(2, 4)}
    with pytest.raises(ValueError, match="shape"):
        prune.global_unstructured([(a, "weight"), (b, "weight")], prune.L1Unstructured, scores, amount=1)
    assert not prune.is_pruned(a)
    assert not prune.is_pruned(b)


@defect
def no_nan_leaks_through_a_mask(prune):
    module = linear([float("nan"), 1.0, float("inf")])
    prune.custom_from_mask(module, "weight", torch.tensor([[0, 1, 0]]))
    assert module.weight.tolist() == [[0, 1, 0]]


@defect
def nan_scores_are_refused(prune):
    module = linear([float("nan"), 1.0, 2.0])
    with pytest.raises(ValueError, match="1 NaN"):
        prune.l1_unstructured(module, "weight", 1)
    assert not prune.is_pruned(module)


@defect
def parameters_keep_their_order(prune):
    module = nn.Linear(4, 3)
    prune.l1_unstructured(module, "weight", 2)
    assert [n for n, _ in module.named_parameters()] == ["weight_orig", "bias"]
    prune.remove(module, "weight")
    assert [n for n, _ in module.named_parameters()] == ["weight", "bias"]


@defect
def functional_call_leaves_nothing_behind(prune):
    module = prune.l1_unstructured(nn.Linear(2, 2), "weight", 1)
    expected = module.weight.detach().clone()
    functional_call(module, {"weight_orig": torch.zeros(2, 2)}, torch.ones(1, 2))
    assert torch.equal(module.weight, expected)
    vmap(lambda w: functional_call(module, {"weight_orig": w}, torch.ones(1, 2)))(torch.zeros(3, 2, 2))
    assert torch.equal(module.weight, expected)
    assert module.weight_orig.requires_grad


@defect
def functional_call_with_the_pruned_name_is_refused(prune):
    module = prune.l1_unstructured(nn.Linear(2, 2), "weight", 1)
    with pytest.raises(AttributeError, match="weight_orig"):
        functional_call(module, {"weight": torch.zeros(2, 2)}, torch.ones(1, 2))


@defect
def assigning_the_pruned_name_is_refused(prune):
    module = prune.l1_unstructured(nn.Linear(2, 2), "weight", 1)
    with pytest.raises(AttributeError, match="weight_orig"):
        module.weight = torch.zeros(2, 2)
    with pytest.raises(AttributeError, match="weight_orig"):
        del module.weight


# ---- failures -------------------------------------------------------------------------------------------------------


@defect
def a_trained_module_can_be_copied(prune):
    for module, x in ((nn.Linear(4, 3), torch.ones(2, 4)), (nn.LSTM(4, 3), torch.ones(2, 1, 4))):
        name = next(n for n, _ in module.named_parameters())
        prune.l1_unstructured(module, name, 0.5)
        out = module(x)
        (out[0] if isinstance(out, tuple) else out).sum().backward()
        twin = copy.deepcopy(module)
        assert torch.equal(getattr(twin, name), getattr(module, name))
        fill(getattr(twin, f"{name}_orig"), torch.zeros_like(getattr(twin, f"{name}_orig")))
        assert not getattr(twin, name).any()
        assert getattr(module, name).any()


@defect
def every_memory_layout_works(prune):
    for make in (
        lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
        lambda: transposed(nn.Linear(4, 3)),
    ):
        for method in (prune.L1Unstructured, prune.RandomUnstructured):
            module = make()
            method.apply(module, "weight", amount=5)
            assert (module.weight_mask == 0).sum() == 5
            assert module.weight_mask.stride() == module.weight_orig.stride()
            prune.global_unstructured([(module, "weight")], method, amount=3)
            assert (module.weight_mask == 0).sum() == 8


def transposed(module):
    module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())
    return module


@defect
def a_generator_of_pairs_works(prune):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.global_unstructured(((m, "weight") for m in model), prune.L1Unstructured, amount=0.5)
    assert sum(int((m.weight_mask == 0).sum()) for m in model) == 16


@defect
def parameters_instead_of_pairs_are_explained(prune):
    model = nn.Linear(4, 4)
    with pytest.raises(TypeError, match=r"\(module, name\) pairs"):
        prune.global_unstructured(model.parameters(), prune.L1Unstructured, amount=0.5)


@defect
def a_container_takes_several_methods(prune):
    methods = [prune.L1Unstructured(1), prune.L1Unstructured(2)]
    for method in methods:
        method._tensor_name = "weight"
    assert len(prune.PruningContainer(*methods)) == 2


@defect
def nuclear_and_half_precision_norms_work(prune):
    conv = nn.Conv2d(3, 4, 3)
    prune.ln_structured(conv, "weight", 1, n="nuc", dim=0)
    assert (conv.weight_mask.sum((1, 2, 3)) == 0).sum() == 1
    half = nn.Linear(4, 2).half()
    fill(half.weight, [[30000.0, 30000, 0, 0], [30000.0, 30000, 30000, 0]])
    prune.ln_structured(half, "weight", 1, n=2, dim=0)
    assert half.weight_mask[:, 0].tolist() == [0, 1]


@defect
def a_negative_dim_out_of_range_is_explained(prune):
    with pytest.raises(IndexError, match="-3"):
        prune.ln_structured(nn.Linear(4, 3), "weight", 1, n=2, dim=-3)


# ---- cost -----------------------------------------------------------------------------------------------------------


@defect
def ten_global_rounds_are_kept_in_one_byte_a_weight(prune):
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    pairs = [(m, "weight") for m in model]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.1)
    first = len(pickle.dumps(model))
    for _ in range(9):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.1)
    assert len(pickle.dumps(model)) < 1.1 * first


@defect
def remove_writes_into_the_same_storage(prune):
    module = nn.Linear(4, 3)
    view, pointer = module.weight.detach().view(-1), module.weight.data_ptr()
    prune.l1_unstructured(module, "weight", 6)
    prune.remove(module, "weight")
    assert module.weight.data_ptr() == pointer
    assert (view == 0).sum() == 6


# ---- semantics ------------------------------------------------------------------------------------------------------


@defect
def the_container_leaves_the_callers_mask_alone(prune):
    container = prune.PruningContainer()
    container._tensor_name = "weight"
    method = prune.L1Unstructured(1)
    method._tensor_name = "weight"
    container.add_pruning_method(method)
    mask = torch.ones(4)
    container.compute_mask(torch.arange(4.0), mask)
    assert mask.tolist() == [1, 1, 1, 1]


@defect
def masks_have_the_parameters_dtype(prune):
    module = nn.Linear(4, 3)
    prune.custom_from_mask(module, "weight", torch.rand(3, 4) < 2)
    assert module.weight_mask.dtype == torch.float32
    half = nn.Linear(4, 3).bfloat16()
    prune.ln_structured(half, "weight", 1, n=2, dim=0, importance_scores=torch.randn(3, 4))
    assert half.weight_mask.dtype == torch.bfloat16


@defect
def masks_are_never_the_callers(prune):
    mask = torch.ones(3, 4)
    for make in (prune.Identity, lambda: prune.RandomUnstructured(0), lambda: prune.RandomStructured(0, dim=0)):
        assert make().compute_mask(torch.randn(3, 4), mask) is not mask


@defect
def masks_of_other_values_are_refused(prune):
    module = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="0 and 1"):
        prune.custom_from_mask(module, "weight", torch.full((3, 4), 0.5))
    assert not prune.is_pruned(module)


@defect
def what_a_method_returns_is_checked(prune):
    class Soft(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t, default_mask):
            return default_mask * 0.5

    module = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="0 and 1"):
        Soft.apply(module, "weight")


@defect
def a_users_own_buffer_is_not_overwritten(prune):
    module = nn.Linear(4, 3)
    module.register_buffer("weight_mask", torch.full((1,), 7.0))
    with pytest.raises(ValueError, match="weight_mask"):
        prune.l1_unstructured(module, "weight", 1)
    assert module.weight_mask.tolist() == [7]


@defect
def the_hook_keeps_its_place(prune):
    module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 1)
    module.register_forward_pre_hook(lambda m, args: None)
    prune.l1_unstructured(module, "weight", 1)
    assert isinstance(next(iter(module._forward_pre_hooks.values())), prune.PruningContainer)


@defect
def weights_in_inference_mode_can_train_later(prune):
    module = nn.Linear(4, 3)
    with torch.inference_mode():
        prune.l1_unstructured(module, "weight", 2)
    module(torch.ones(1, 4)).sum().backward()
    assert not module.weight_mask.is_inference()


def test_the_page_names_every_check():
    page = (Path(__file__).parents[2] / "docs" / "recipes" / "from-torch-prune.md").read_text()
    assert set(re.findall(r"\| `(\w+)` \|$", page, flags=re.M)) == {check.__name__ for check in CHECKS}
