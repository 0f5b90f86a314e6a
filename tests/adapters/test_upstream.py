"""What torch.nn.utils.prune promises, as facts about one library; each is shown of the original and of the drop-in."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import masklib.adapters.prune

CASES = [
    pytest.param(make, name, id=f"{kind} {name}")
    for kind, make in {"Linear": lambda: nn.Linear(5, 7), "Conv3d": lambda: nn.Conv3d(2, 2, 2)}.items()
    for name in ("weight", "bias")
]
each_tensor = pytest.mark.parametrize(("make", "name"), CASES)
MATRIX = [[1.0, 2.0, 3.0, 4.0], [-4.0, -3.0, -2.0, -1.0]]
SCORES = torch.tensor([[4.0, 2.0, 1.0, 3.0], [-3.0, -1.0, -2.0, -4.0]])


@pytest.fixture(params=[torch.nn.utils.prune, masklib.adapters.prune], ids=["torch", "masklib"])
def prune(request):
    torch.manual_seed(0)
    return request.param


def holding(values):
    """A linear module whose weight holds the given values."""
    weight = torch.tensor(values)
    module = nn.Linear(weight.shape[1], weight.shape[0])
    module.weight = nn.Parameter(weight)
    return module


def answering(monkeypatch, method, mask):
    """Make a method class answer every call with the given mask."""
    monkeypatch.setattr(method, "compute_mask", lambda self, t, default_mask: mask)


def named(method, name="w"):
    method._tensor_name = name
    return method


def zeros(t):
    return {tuple(index) for index in (t == 0).nonzero().tolist()}


# ---- amounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0, 1, 1500, 0.0, 0.34, 1.0])
def test_an_amount_is_a_count_or_a_share(prune, amount):
    assert prune._validate_pruning_amount_init(amount=amount) is None


@pytest.mark.parametrize(
    ("amount", "error"), [("many", TypeError), (1.1, ValueError), (20.0, ValueError), (-10, ValueError)]
)
def test_other_amounts_are_refused(prune, amount, error):
    with pytest.raises(error, match="amount"):
        prune._validate_pruning_amount_init(amount=amount)
    with pytest.raises(error, match="amount"):
        prune.l1_unstructured(nn.Linear(2, 2), "weight", amount=amount)


def test_a_count_must_not_exceed_what_there_is(prune):
    for amount, size in [(19, 20), (1, 1), (0, 0), (0.3, 0)]:
        prune._validate_pruning_amount(amount=amount, tensor_size=size)
    with pytest.raises(ValueError, match="20"):
        prune._validate_pruning_amount(amount=20, tensor_size=19)


@pytest.mark.parametrize(
    ("amount", "size", "number"), [(0, 15, 0), (1, 15, 1), (10, 15, 10), (1.0, 15, 15), (0.4, 17, 7)]
)
def test_the_int_one_is_one_unit_and_the_float_all(prune, amount, size, number):
    assert prune._compute_nparams_toprune(amount=amount, tensor_size=size) == number


# ---- what pruning makes of a module ----------------------------------------------------------------------------------


@each_tensor
def test_the_pruned_tensor_is_the_original_under_the_mask(prune, make, name):
    module = make()
    before = getattr(module, name)
    values = before.detach().clone()
    prune.random_unstructured(module, name=name, amount=0.1)
    orig, mask, now = (getattr(module, name + suffix) for suffix in ("_orig", "_mask", ""))
    assert before.shape == orig.shape == mask.shape == now.shape
    assert orig is before
    assert torch.equal(orig, values)
    assert torch.equal(now, orig * mask.to(orig.dtype))


@pytest.mark.parametrize("how", ["identity", "a mask of ones"])
def test_a_mask_of_ones_changes_neither_output_nor_gradient(prune, how, monkeypatch):
    module, x = nn.Linear(5, 2), torch.ones(1, 5)
    output = module(x)
    output.sum().backward()
    gradients = [p.grad.clone() for p in (module.weight, module.bias)]
    assert all(torch.equal(g, torch.ones_like(g)) for g in gradients)
    module.zero_grad()
    if how == "identity":
        prune.identity(module, name="weight")
    else:
        answering(monkeypatch, prune.RandomUnstructured, torch.ones(2, 5))
        prune.random_unstructured(module, name="weight", amount=0.9)
    again = module(x)
    assert torch.equal(again, output)
    again.sum().backward()
    assert torch.equal(module.weight_orig.grad, gradients[0])
    assert torch.equal(module.bias.grad, gradients[1])
    assert torch.equal(module(x), module(x))


def test_masked_entries_have_no_gradient_and_stay(prune, monkeypatch):
    module, mask = nn.Linear(5, 2), torch.ones(2, 5)
    mask[1, 0] = mask[0, 3] = 0
    answering(monkeypatch, prune.RandomUnstructured, mask)
    prune.random_unstructured(module, name="weight", amount=0.9)
    module(torch.ones(1, 5)).sum().backward()
    assert torch.equal(module.weight_orig.grad, mask)
    assert torch.equal(module.bias.grad, torch.ones(2))
    before = module.weight_orig.detach().clone()
    with torch.no_grad():
        for p in module.parameters():
            p -= p.grad
    assert torch.equal(before == module.weight_orig, mask == 0)


def test_forward_sees_only_what_is_kept(prune, monkeypatch):
    module, mask = nn.Linear(5, 2), torch.zeros(2, 5)
    mask[1, 0] = mask[0, 3] = 1
    answering(monkeypatch, prune.RandomUnstructured, mask)
    prune.random_unstructured(module, name="weight", amount=0.9)
    kept = torch.stack([module.weight_orig[0, 3], module.weight_orig[1, 0]])
    torch.testing.assert_close(module(torch.ones(1, 5))[0], kept + module.bias)


def test_pruning_keeps_the_parameter_object(prune):
    """Else an optimizer made before would go on with a tensor that nobody uses."""
    module = nn.Linear(5, 2, bias=False)
    (before,) = module.parameters()
    for step in (
        lambda: prune.random_unstructured(module, name="weight", amount=0.9),
        lambda: prune.ln_structured(module, name="weight", amount=1, n=2, dim=1),
        lambda: prune.remove(module, "weight"),
    ):
        step()
        (now,) = module.parameters()
        assert now is before


# ---- several calls ---------------------------------------------------------------------------------------------------


def test_further_calls_make_the_hook_a_container(prune):
    module = nn.Conv3d(2, 2, 2)
    prune.l1_unstructured(module, name="weight", amount=0.1)
    first = module.weight_mask.clone()
    prune.ln_structured(module, name="weight", amount=0.3, n=2, dim=0)
    (hook,) = module._forward_pre_hooks.values()
    assert isinstance(hook, prune.PruningContainer)
    assert hook._tensor_name == "weight"
    assert [type(method) for method in hook] == [prune.L1Unstructured, prune.LnStructured]
    assert len(hook) == 2
    assert not module.weight_mask[first == 0].any()
    prune.ln_structured(module, name="weight", amount=0.1, n=float("inf"), dim=1)
    (hook,) = module._forward_pre_hooks.values()
    assert hook._tensor_name == "weight"
    assert len(hook) == 3


def test_a_container_takes_methods_for_its_tensor_only(prune):
    container = named(prune.PruningContainer())
    assert len(container) == 0
    container.add_pruning_method(named(prune.L1Unstructured(amount=2)))
    with pytest.raises(ValueError, match="other"):
        container.add_pruning_method(named(prune.L1Unstructured(amount=2), "other"))
    for wrong in (10, "l1"):
        with pytest.raises(TypeError, match="BasePruningMethod"):
            container.add_pruning_method(wrong)
    assert len(container) == 1


@pytest.mark.parametrize(
    ("last", "kept"),
    [
        (lambda p: p.L1Unstructured(amount=2), [[0, 0, 1, 0], [1, 1, 0, 1]]),
        (lambda p: p.LnStructured(amount=1, n=2, dim=0), [[0, 0, 0, 0], [1, 1, 0, 1]]),
        (lambda p: p.LnStructured(amount=1, n=2, dim=1), [[0, 1, 1, 0], [0, 1, 0, 1]]),
    ],
    ids=["entries", "rows", "columns"],
)
def test_a_container_prunes_what_is_alive_by_its_last_method(prune, last, kept):
    container = named(prune.PruningContainer())
    container.add_pruning_method(named(prune.L1Unstructured(amount=5)))
    container.add_pruning_method(named(last(prune)))
    t = torch.arange(1.0, 9.0).view(2, 4)
    mask = container.compute_mask(t, torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1]]))
    assert torch.equal(mask, torch.tensor(kept, dtype=torch.float32))


# ---- who dies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "rounds"),
    [
        (None, [[[0, 2, 3, 4], [-4, -3, -2, 0]], [[0, 0, 3, 4], [-4, -3, 0, 0]]]),
        (SCORES, [[[1, 2, 0, 4], [-4, 0, -2, -1]], [[1, 0, 0, 4], [-4, 0, 0, -1]]]),
    ],
    ids=["by magnitude", "by importance"],
)
def test_l1_takes_the_smallest_that_are_alive(prune, scores, rounds):
    module = holding(MATRIX)
    for expected in rounds:
        prune.l1_unstructured(module, "weight", amount=2, importance_scores=scores)
        assert module.weight.tolist() == expected


def test_equal_magnitudes_do_not_all_die(prune):
    t = 2 * torch.randint(low=-1, high=2, size=(10, 7))
    mask = prune.L1Unstructured(amount=0.2).compute_mask(t, default_mask=torch.ones_like(t))
    assert int((mask == 0).sum()) == prune._compute_nparams_toprune(0.2, t.nelement()) == 14


def test_random_structured_takes_whole_channels(prune):
    t = torch.randn(5, 4, 2)
    mask = prune.RandomStructured(amount=0.6, dim=2).compute_mask(t, default_mask=torch.ones_like(t))
    assert sorted((mask == 0).sum(dim=(0, 1)).tolist()) == [0, 20]


CHANNELS = [[[[1.0, 2.0], [1.0, 2.5]], [[0.5, 1.0], [0.1, 0.1]], [[-3.0, -5.0], [0.1, -1.0]]]]
IMPORTANCE = [[[[10.0, 1.0]] * 2, [[30.0, 3.0]] * 2, [[-20.0, -2.0]] * 2]]


@pytest.mark.parametrize(
    ("scores", "channel", "column"), [(None, 1, 0), (torch.tensor(IMPORTANCE), 0, 1)], ids=["by norm", "by importance"]
)
def test_ln_structured_takes_the_channels_of_least_norm(prune, scores, channel, column):
    module = nn.Conv2d(3, 1, 2)
    module.weight.data = torch.tensor(CHANNELS)
    expected = torch.ones(1, 3, 2, 2)
    prune.ln_structured(module, "weight", amount=1, n=2, dim=1, importance_scores=scores)
    expected[:, channel] = 0
    assert torch.equal(module.weight_mask, expected)
    prune.ln_structured(module, "weight", amount=1, n=1, dim=-1, importance_scores=scores)
    expected[..., column] = 0
    assert torch.equal(module.weight_mask, expected)


def test_custom_from_mask_combines_masks(prune):
    old, new = torch.tensor([[0] * 4, [1] * 4]), torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]])
    mask = prune.CustomFromMask(mask=new).compute_mask(torch.rand(2, 4), old)
    assert mask.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("scores", "dead"),
    [
        (None, ({(0, 0), (1, 3)}, {(0, 0), (0, 1)})),
        (torch.tensor([[0.0, 10.0, -0.2]]), ({(0, 2), (1, 1)}, {(0, 0), (0, 2)})),
    ],
    ids=["by magnitude", "by importance"],
)
def test_global_unstructured_compares_across_parameters(prune, scores, dead):
    modules = holding(MATRIX), holding([[0.0, 0.1, -2.0]])
    sites = [(module, "weight") for module in modules]
    given = None if scores is None else dict(zip(sites, (SCORES, scores)))
    before = [module.weight.detach().clone() for module in modules]
    prune.global_unstructured(tuple(sites), pruning_method=prune.L1Unstructured, amount=4, importance_scores=given)
    for module, weight, gone in zip(modules, before, dead):
        assert zeros(module.weight_mask) == gone
        assert torch.equal(module.weight, weight * module.weight_mask)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ({}, [[0, 0, 1, 0], [1, 1, 0, 1]]),
        ({"importance_scores": torch.arange(1.0, 9.0).view(2, 4)}, [[0, 0, 1, 0], [1, 1, 0, 1]]),
        (
            {"importance_scores": torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.5, 1.6, 1.7, 1.8]])},
            [[0, 1, 1, 0], [0, 1, 0, 1]],
        ),
    ],
    ids=["itself", "itself, given", "other scores"],
)
def test_a_method_prunes_a_tensor_without_a_module(prune, scores, kept):
    t, alive = torch.arange(1.0, 9.0).view(2, 4), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1]])
    assert torch.equal(prune.L1Unstructured(amount=2).prune(t, alive, **scores), t * torch.tensor(kept))


# ---- the way out -----------------------------------------------------------------------------------------------------


@each_tensor
def test_remove_makes_pruning_permanent(prune, make, name):
    module = make()
    plain = set(module.state_dict())
    assert not prune.is_pruned(module)
    prune.random_unstructured(module, name, amount=0.5)
    assert prune.is_pruned(module)
    assert {n for n, _ in module.named_parameters()} == plain - {name} | {f"{name}_orig"}
    assert {n for n, _ in module.named_buffers()} == {f"{name}_mask"}
    assert hasattr(module, name)
    pruned = getattr(module, name).detach().clone()
    prune.remove(module, name)
    assert not prune.is_pruned(module)
    assert {n for n, _ in module.named_parameters()} == plain
    assert dict(module.named_buffers()) == {}
    assert torch.equal(getattr(module, name), pruned)


def test_remove_does_not_change_the_output(prune, monkeypatch):
    module, mask = nn.Linear(5, 2), torch.ones(2, 5)
    mask[1, 0] = mask[0, 3] = 0
    answering(monkeypatch, prune.RandomUnstructured, mask)
    prune.random_unstructured(module, name="weight", amount=0.9)
    before = module(torch.ones(1, 5))
    prune.remove(module, "weight")
    assert torch.equal(module(torch.ones(1, 5)), before)


@each_tensor
def test_what_is_not_pruned_cannot_be_removed(prune, make, name):
    module = make()
    with pytest.raises(ValueError, match=name):
        prune.remove(module, name)
    assert not prune.is_pruned(module)


@each_tensor
def test_a_first_call_that_fails_is_rolled_back(prune, make, name, monkeypatch):
    def fails(self, t, default_mask):
        raise RuntimeError("HA!")

    module = make()
    plain = set(module.state_dict())
    monkeypatch.setattr(prune.L1Unstructured, "compute_mask", fails)
    with pytest.raises(RuntimeError, match="HA!"):
        prune.l1_unstructured(module, name=name, amount=0.9)
    assert set(module.state_dict()) == plain == {n for n, _ in module.named_parameters()}
    assert not prune.is_pruned(module)
    assert isinstance(getattr(module, name), nn.Parameter)


# ---- saving ----------------------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1))


def saved(thing, **options):
    """Saved and loaded again."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


@each_tensor
def test_a_pruned_module_can_be_pickled(prune, make, name):
    module = make()
    prune.random_unstructured(module, name=name, amount=0.1)
    again = pickle.loads(pickle.dumps(module))
    assert type(again) is type(module)
    assert torch.equal(getattr(again, name), getattr(module, name))
    assert prune.is_pruned(again)


def test_a_pruned_model_can_be_saved_whole(prune):
    model = network()
    plain = set(model.state_dict())
    prune.l1_unstructured(module=model[0], name="weight", amount=0.9)
    pruned = plain - {"0.weight"} | {"0.weight_orig", "0.weight_mask"}
    assert set(model.state_dict()) == pruned
    again = saved(model, weights_only=False)
    assert set(again.state_dict()) == pruned
    assert torch.equal(again[0].weight, model[0].weight)


def test_a_model_after_remove_loads_into_a_plain_one(prune):
    model = network()
    plain = set(model.state_dict())
    prune.l1_unstructured(module=model[0], name="weight", amount=0.9)
    weight = model[0].weight.detach().clone()
    prune.remove(module=model[0], name="weight")
    assert set(model.state_dict()) == plain
    again = network()
    again.load_state_dict(saved(model.state_dict()))
    assert torch.equal(again[0].weight, weight)


def test_a_recurrent_module_computes_with_the_pruned_weight(prune):
    module = nn.LSTM(32, 32)
    plain = set(module.state_dict())

    def parameters():
        return sum(isinstance(weight, nn.Parameter) for weight in module._flat_weights)

    prune.l1_unstructured(module, "weight_ih_l0", 0.5)
    assert parameters() == 3
    assert int((module._flat_weights[0] == 0).sum()) == 2048
    pruned, _ = module(torch.ones(1, 1, 32))
    prune.remove(module, "weight_ih_l0")
    assert parameters() == 4
    assert {n for n, _ in module.named_parameters()} == set(module._parameters) == plain
    assert torch.equal(module(torch.ones(1, 1, 32))[0], pruned)
