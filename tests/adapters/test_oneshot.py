"""The walk through a model beside a loop that runs the whole model again for every block."""

from __future__ import annotations

import copy
from collections import defaultdict

import pytest
import torch
import zoo_language
from torch import nn
from torch.nn import functional
from walked_models import MODELS, model_and_batches, small

import masklib as ml
from masklib.adapters import oneshot, weights

RULES = {
    "magnitude": (oneshot.magnitude(), None),
    "wanda": (
        oneshot.wanda(),
        lambda w, x: masked(w, ml.compute_mask(w.abs() * x.norm(dim=0), amount=0.5, groups=ml.rows())),
    ),
    "ria": (oneshot.ria(), lambda w, x: masked(w, ml.compute_mask(ml.scores.ria(w, norms(x)), amount=0.5))),
    "sparsegpt": (oneshot.sparsegpt(), lambda w, x: ml.sparsegpt(w, ml.scores.add_hessian(None, x), amount=0.5)),
    "admm": (oneshot.admm(), lambda w, x: ml.admm(w, ml.scores.add_hessian(None, x), amount=0.5)),
}


def masked(weight, mask):
    return weight * mask, mask


def norms(x):
    return ml.scores.add_input_norms(None, x)


def blocks_of(model):
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)


def is_layer(module):
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def holds_experts(module):
    return hasattr(module, "gate_up_proj") and hasattr(module, "num_experts")


def reference(model, batches, solve):
    """Block by block: run the whole model, keep what comes into each layer of the block, solve, go on."""
    masks = {}
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "eager"
    names = {module: name for name, module in model.named_modules()}
    for block in blocks_of(model):
        inputs, handles = defaultdict(list), []

        def keep(module, args, inputs=inputs):
            inputs[module].append([a.detach() for a in args])

        for module in block.modules():
            if is_layer(module) or holds_experts(module):
                handles.append(module.register_forward_pre_hook(keep))
        with torch.no_grad():
            for batch in batches:
                model(**batch)
            for handle in handles:
                handle.remove()
            for module, seen in inputs.items():
                if holds_experts(module):
                    solve_experts(module, names[module], seen, solve, masks)
                else:
                    x = torch.cat([args[0].reshape(-1, args[0].shape[-1]) for args in seen])
                    turned = type(module).__name__ == "Conv1D"
                    new, mask = solve(module.weight.T if turned else module.weight, x)
                    module.weight.copy_(new.T if turned else new)
                    masks[f"{names[module]}.weight"] = mask.T if turned else mask
    return masks


def solve_experts(module, name, seen, solve, masks):
    """Each expert on its own tokens, one expert after the other."""
    found = {"gate_up_proj": [], "down_proj": []}
    for e in range(module.num_experts):
        x = torch.cat([h[(index == e).any(-1)] for h, index, _ in seen])
        gate, up = (x @ module.gate_up_proj[e].T).chunk(2, -1)
        inside = module.act_fn(gate) * up
        found["gate_up_proj"].append(solve(module.gate_up_proj[e], x))
        found["down_proj"].append(solve(module.down_proj[e], inside))
    for part, pairs in found.items():
        getattr(module, part).copy_(torch.stack([new for new, _ in pairs]))
        masks[f"{name}.{part}"] = torch.stack([mask for _, mask in pairs])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rule", ["wanda", "admm"])
def test_families(name, rule):
    model, batches = model_and_batches(name)
    twin = copy.deepcopy(model)
    value, solve = RULES[rule]
    pruned = oneshot.prune(model, batches, value, amount=0.5)
    masks = reference(twin, batches, solve)
    assert set(pruned.masks) == set(masks) == set(pruned.layers)
    for n, mask in masks.items():
        assert torch.equal(pruned.masks[n], mask), n
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()), rtol=1e-6, atol=1e-8)
    assert all(0 < layer.error < 1 for layer in pruned.layers.values())
    assert set(pruned.masks) | set(pruned.left_out) == {n for n, _ in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("rule", ["ria", "sparsegpt"])
def test_rules(rule):
    model, batches = model_and_batches("llama")
    twin = copy.deepcopy(model)
    pruned = oneshot.prune(model, batches, RULES[rule][0], amount=0.5)
    masks = reference(twin, batches, RULES[rule][1])
    assert all(torch.equal(pruned.masks[n], mask) for n, mask in masks.items())
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()), rtol=1e-6, atol=1e-8)


def test_magnitude_is_the_methods():
    model, batches = model_and_batches("llama")
    names = {n: t.detach().clone() for n, t in weights(model).items() if ".layers." in n}
    pruned = oneshot.prune(model, batches, oneshot.magnitude(), sparsity=0.5)
    expected = ml.layerwise(ml.l1_unstructured)(names, sparsity=0.5)
    assert all(torch.equal(pruned.masks[n], mask) for n, mask in expected.items())
    assert all(torch.equal(model.get_parameter(n), names[n] * mask) for n, mask in expected.items())


# ---- convolutions, other models -------------------------------------------------------------------------------------


def convolutions():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(4, 8, 3, padding="same", dilation=2),
        nn.ReLU(),
        nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, padding_mode="circular"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 7, 5),
    ]
    return nn.Sequential(*layers).double(), torch.randn(5, 4, 8, 8, dtype=torch.float64)


def test_a_chain_of_convolutions():
    """On inputs that torch unfolds, one group after the other."""
    model, x = convolutions()
    twin = copy.deepcopy(model)
    oneshot.prune(model, [x[:2], x[2:]], oneshot.admm(), amount=0.5)
    with torch.no_grad():
        for i in (0, 2, 5):
            layer, h = twin[i], twin[:i](x)
            if i == 5:
                parts = [h]
            else:
                pad = (2, 2, 2, 2) if i == 0 else (0, 0, 1, 1)
                h = functional.pad(h, pad, mode="constant" if i == 0 else "circular")
                rows = functional.unfold(h, layer.kernel_size, layer.dilation, 0, layer.stride)
                parts = rows.transpose(1, 2).reshape(-1, layer.groups, layer.weight[0].numel()).unbind(1)
            solved = [
                ml.admm(w.flatten(1), ml.scores.add_hessian(None, p), amount=0.5)[0]
                for w, p in zip(layer.weight.chunk(len(parts)), parts)
            ]
            layer.weight.copy_(torch.cat(solved).view(layer.weight.shape))
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sides", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"padding": "valid"}, {"padding": 1, "stride": 2}, {"padding": "same"}])
def test_unfolded_rows_times_the_kernel_are_the_outputs(sides, options):
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[sides - 1](4, 6, 3, groups=2, bias=False, **options)
    model, x = nn.Sequential(layer), torch.randn(3, 4, *[5] * sides)
    rows = []
    rule = oneshot.Rule(lambda state, x: rows.append(x) or 0, lambda w, s, m, **_: (w, w == w))
    oneshot.prune(model, [x], rule, amount=0)
    got = torch.cat([r @ w.flatten(1).T for r, w in zip(rows, layer.weight.chunk(2))], 1)
    torch.testing.assert_close(got, layer(x).movedim(1, -1).flatten(0, -2))


def test_two_stacks_one_by_one():
    torch.manual_seed(0)
    model, batch = zoo_language.t5()
    pruned = oneshot.prune(model, [batch], oneshot.wanda(), sparsity=0.5, blocks=["decoder.block.0", "decoder.block.1"])
    assert all(n.startswith("decoder.block") for n in pruned.masks)
    assert ml.sparsity(pruned.masks) == 0.5


def test_batches_in_every_form():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    x, found = torch.randn(6, 4), []
    for batches in ([x], [(x,)], [[x]], [{"input": x}], iter([x]), torch.utils.data.DataLoader(x, batch_size=6)):
        twin = copy.deepcopy(model)
        found.append(oneshot.prune(twin, batches, oneshot.wanda(), amount=1).masks)
    assert all(torch.equal(f[n], found[0][n]) for f in found for n in f)


def test_parts_of_the_data_are_the_whole():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x, twin = torch.randn(12, 4).double(), copy.deepcopy(model)
    oneshot.prune(model, [x], oneshot.sparsegpt(), amount=0.5)
    oneshot.prune(twin, x.split([1, 5, 6]), oneshot.sparsegpt(), amount=0.5)
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


# ---- numbers, names, masks ------------------------------------------------------------------------------------------


def test_numbers_by_name_and_masks_that_are_there():
    model, batches = small()
    alive = {"0.weight": torch.rand(8, 4) < 0.7}
    numbers = {"0.weight": 0.75, "2.weight": 0.25}
    pruned = oneshot.prune(model, batches, oneshot.admm(), sparsity=numbers, default_masks=alive)
    assert {n: float(ml.sparsity(m)) for n, m in pruned.masks.items()} == numbers
    assert not (pruned.masks["0.weight"] & ~alive["0.weight"]).any()
    assert all(torch.equal(model.get_parameter(n) != 0, m) for n, m in pruned.masks.items())


def test_names_and_what_is_left_out():
    model, batches = small()
    pruned = oneshot.prune(model, batches, oneshot.wanda(), keep=2, names=["2.weight"])
    assert list(pruned.masks) == ["2.weight"]
    assert pruned.left_out == {"0.bias": "a bias", "2.bias": "a bias", "0.weight": "not chosen"}
    assert "0.weight: left out, not chosen" in str(pruned)
    assert "2.weight" in str(pruned)
    assert pruned.layers["2.weight"].inputs == (20,)


def test_a_rule_of_ones_own():
    model, batches = small()

    def add(state, inputs):
        return inputs.abs().amax(0) if state is None else torch.maximum(state, inputs.abs().amax(0))

    def solve(weight, state, default_mask, **number):
        mask = ml.compute_mask(weight.abs() * state, default_mask, **number)
        return weight * mask, mask

    hidden = torch.relu(batches[0] @ model[0].weight.T + model[0].bias)
    dense = model[2].weight.detach().clone()
    pruned = oneshot.prune(model, batches, oneshot.Rule(add, solve), amount=5, names=["2.weight"])
    assert torch.equal(pruned.masks["2.weight"], ml.compute_mask(dense.abs() * hidden.abs().amax(0), amount=5))


def test_errors_are_of_the_outputs():
    model, batches = small()
    dense = copy.deepcopy(model)
    pruned = oneshot.prune(model, batches, oneshot.wanda(), amount=0.5)
    x = batches[0]
    model.requires_grad_(False), dense.requires_grad_(False)
    for i in (0, 2):
        h = model[:i](x)
        wrong = (h @ (model[i].weight - dense[i].weight).T).square().sum() / (h @ dense[i].weight.T).square().sum()
        assert pruned.layers[f"{i}.weight"].error == pytest.approx(float(wrong), rel=1e-4)


def test_layers_with_the_same_inputs_share_what_is_gathered():
    model, batches = model_and_batches("llama")
    calls = []

    def add(state, inputs):
        calls.append(inputs.shape)
        return ml.scores.add_input_norms(state, inputs)

    oneshot.prune(model, batches, oneshot.Rule(add, oneshot.wanda().solve), amount=0.5)
    assert len(calls) == 2 * len(batches) * 4  # of q, k, v; of o; of gate and up; of down


def test_the_model_is_as_it_was_but_for_its_weights():
    model, batches = model_and_batches("mixtral")
    model.train()
    model.config.use_cache = True
    before = model.config.to_dict()
    oneshot.prune(model, batches, oneshot.wanda(), amount=0.5)
    assert all(m.training for m in model.modules())
    assert model.config.to_dict() == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# ---- products, modes -------------------------------------------------------------------------------------------------


class ByHand(nn.Linear):
    """A product with a square weight that is not torch's own, as Falcon has them."""

    def __init__(self, product):
        super().__init__(6, 6, bias=False)
        self.product = product

    def forward(self, x):
        return self.product(x, self.weight).relu()


TURNED = {
    "x @ w.T": lambda x, w: x @ w.T,
    "matmul": lambda x, w: torch.matmul(x, w.t()),
    "mm": lambda x, w: torch.mm(x, w.mT),
    "x.mm": lambda x, w: x.mm(w.T),
    "addmm": lambda x, w: torch.addmm(x.new_zeros(6), x, w.T),
}


@pytest.mark.parametrize("product", TURNED.values(), ids=list(TURNED))
def test_products_without_a_layer_are_seen(product):
    torch.manual_seed(0)
    model = nn.Sequential(ByHand(product), ByHand(product))
    twin = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU()) for _ in model))
    for block, layer in zip(model, twin):
        layer[0].weight.data.copy_(block.weight.data)
    batch = torch.randn(16, 6)
    found, expected = (oneshot.prune(m, [batch], oneshot.wanda(), amount=0.5) for m in (model, twin))
    assert [mask.tolist() for mask in found.masks.values()] == [mask.tolist() for mask in expected.masks.values()]


@pytest.mark.parametrize(
    "product", [torch.matmul, torch.mm, lambda x, w: x @ w, lambda x, w: torch.addmm(x.new_zeros(6), x, w)]
)
def test_a_weight_as_in_by_out_is_not_taken_for_one_as_out_by_in(product):
    """Its rows are not what its inputs belong to, though a square one has the right shape."""
    with pytest.raises(ValueError, match="saw no inputs"):
        oneshot.prune(nn.Sequential(ByHand(product)), [torch.randn(16, 6)], oneshot.wanda(), amount=0.5)


def test_a_model_in_inference_mode_is_pruned_as_ever():
    model, batches = small()
    expected = copy.deepcopy(model)
    oneshot.prune(expected, batches, oneshot.wanda(), sparsity=0.5)
    with torch.inference_mode():
        oneshot.prune(model, batches, oneshot.wanda(), sparsity=0.5)
    assert all(torch.equal(t, expected.state_dict()[n]) for n, t in model.state_dict().items())


def test_under_autocast_the_pruned_weights_carry_on():
    """Autocast keeps what it has cast of a parameter, and does not see that it changed."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(3)))
    twin, batch = copy.deepcopy(model), torch.randn(256, 64)
    plain = oneshot.prune(twin, [batch], oneshot.sparsegpt(), sparsity=0.7)
    with torch.autocast("cpu", torch.bfloat16):
        pruned = oneshot.prune(model, [batch], oneshot.sparsegpt(), sparsity=0.7)
        inside = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(inside, model(batch))
    for name, layer in plain.layers.items():
        assert pruned.layers[name].error == pytest.approx(layer.error, rel=0.05)
