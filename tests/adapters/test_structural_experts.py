"""Mixtures without some experts compute what they would if their routers could never choose these."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

import masklib as ml
from masklib.adapters.structural import drop_experts, expert_norms, shrink, shrink_optimizer, structure

pytest.importorskip("transformers")
FAMILIES = ["mixtral", "qwen3moe"]
EXPERTS, CHOSEN = 5, 2


@cache
def found(name):
    model, inputs = zoo.build(name)
    return model, inputs, structure(model, inputs)


def masks_of(sets, keep, seed=0):
    noise = torch.Generator().manual_seed(seed)
    scores = {path: torch.rand(each.units, generator=noise) for path, each in sets.experts.items()}
    return ml.layerwise(ml.compute_mask)(scores, keep=keep)


def never(router, mask):
    """The code of a router by hand: minus infinity for experts that are not there."""

    def forward(x):
        logits = F.linear(x.reshape(-1, x.shape[-1]), router.weight).masked_fill(~mask, -torch.inf)
        gates, chosen = logits.float().softmax(-1).topk(min(CHOSEN, int(mask.sum())), -1)
        if getattr(router, "norm_topk_prob", True):
            gates = gates / gates.sum(-1, keepdim=True)
        return logits, gates.to(logits.dtype), chosen

    return forward


def without(model, masks):
    """The larger model whose routers never choose."""
    model = copy.deepcopy(model)
    for path, mask in masks.items():
        router = model.get_submodule(path).gate
        router.forward = never(router, mask)
    return model


def logits(model, inputs):
    return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("way", ["batched_mm", "eager"])
@pytest.mark.parametrize("keep", [4, 2, 1])
@pytest.mark.parametrize("name", FAMILIES)
def test_removed_experts_are_as_experts_that_are_never_chosen(name, keep, way):
    """On other tokens, in training mode and in its gradients, and with fewer experts than a router chooses."""
    model, inputs, _ = found(name)
    model = copy.deepcopy(model)
    model.set_experts_implementation(way)
    sets = structure(model, inputs)
    masks = masks_of(sets, keep)
    small, big = drop_experts(model, masks, sets), without(model, masks)
    others = {"input_ids": torch.randint(32, (3, 9), generator=torch.Generator().manual_seed(1))}
    for each in (inputs, others):
        assert torch.allclose(logits(big, each), logits(small, each), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(logits(model, others), logits(small, others), atol=1e-3)
    for each in (big.train(), small.train()):
        logits(each, others).square().sum().backward()
    routers = [m.get_parameter("model.layers.1.mlp.gate.weight").grad for m in (big, small)]
    assert torch.allclose(routers[0][masks["model.layers.1.mlp"]], routers[1])


@pytest.mark.filterwarnings("error:the config of")
@pytest.mark.parametrize("keep", [3, 1])
@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_and_config_follow_so_that_what_is_saved_loads(name, keep, tmp_path):
    model, inputs, sets = found(name)
    before = copy.deepcopy(model.config.to_dict())
    small = drop_experts(model, masks_of(sets, keep), sets)
    block = small.model.layers[1].mlp
    assert block.experts.num_experts == block.gate.num_experts == len(block.gate.weight) == keep
    assert block.gate.top_k == small.config.num_experts_per_tok == min(CHOSEN, keep)
    changed = {k for k, v in before.items() if small.config.to_dict()[k] != v}
    assert changed == {"num_local_experts"} | ({"num_experts_per_tok"} if keep == 1 else set())
    assert model.config.to_dict() == before
    small.save_pretrained(tmp_path)
    loaded = type(small).from_pretrained(tmp_path, dtype=torch.float64, experts_implementation="batched_mm")
    with torch.no_grad():
        assert torch.equal(logits(small, inputs), logits(loaded.eval(), inputs))
        lines = [
            m.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), max_new_tokens=4, do_sample=False)
            for m in (small, loaded)
        ]
    assert torch.equal(*lines)


@pytest.mark.filterwarnings("ignore:the config of")
def test_a_model_without_experts_is_cut_further_and_trains():
    """The smaller model is a model as any other: its width, neurons and heads go next."""
    model, inputs, sets = found("mixtral")
    once = drop_experts(model, masks_of(sets, 3), sets)
    again = structure(once, inputs)
    assert [e.units for e in again.experts.values()] == [3, 3]
    scores = {n: p.detach() for n, p in once.named_parameters() if n in again.names}
    masks = ml.compute_mask(scores, sparsity=0.4, groups=again.groups(p=2, mean=True, layerwise=True))
    optimizer = torch.optim.Adam(once.parameters())
    logits(once, inputs).square().sum().backward()
    optimizer.step()
    small = shrink(once, masks, again)
    optimizer = shrink_optimizer(optimizer, once, small, masks=masks, structure=again)
    logits(small, inputs).square().sum().backward()
    optimizer.step()
    assert small.model.layers[0].mlp.experts.down_proj.shape == (3, 10, 14)


def norms_by_hand(model, inputs, path):
    """One expert after the other, one token after the other."""
    block, seen = model.get_submodule(path), []
    with torch.no_grad(), block.experts.register_forward_pre_hook(lambda _, args: seen.extend(args)):
        logits(model, inputs)
    tokens, chosen, gates = seen
    total, count = torch.zeros(EXPERTS, dtype=torch.float64), torch.zeros(EXPERTS, dtype=torch.int64)
    for token, numbers, own in zip(tokens, chosen.tolist(), gates.tolist()):
        for number, gate in zip(numbers, own):
            first, second = (block.experts.gate_up_proj[number] @ token).chunk(2)
            total[number] += gate * (block.experts.down_proj[number] @ (F.silu(first) * second)).norm()
            count[number] += 1
    return total, count


@pytest.mark.parametrize("name", FAMILIES)
def test_norms_are_those_of_each_token_and_expert(name):
    model, inputs, sets = found(name)
    others = {"input_ids": torch.randint(32, (3, 4), generator=torch.Generator().manual_seed(2))}
    state = expert_norms(model, [inputs, others], sets)
    assert list(ml.scores.reap(state)) == list(sets.experts) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    for path in sets.experts:
        pairs = [norms_by_hand(model, each, path) for each in (inputs, others)]
        assert torch.allclose(state.total[path].double(), sum(total for total, _ in pairs).detach(), rtol=1e-5)
        assert torch.equal(state.count[path], sum(count for _, count in pairs))
    assert model.config._experts_implementation == "batched_mm"


@pytest.mark.filterwarnings("error:the config of")
def test_neurons_go_where_grouped_products_allow_it():
    """In float32, rows of whole 16 bytes: multiples of four. Others are refused, with what helps."""
    if not hasattr(F, "grouped_mm"):
        pytest.skip(f"torch {torch.__version__} has no grouped products")
    model, inputs = zoo.build("mixtral")
    model = model.float()
    model.set_experts_implementation("grouped_mm")
    sets = structure(model, inputs)
    neurons = sets.select(lambda s: "down_proj" in s.dims[-1].name)
    scores = {n: p.detach() for n, p in model.named_parameters() if n in neurons.names}
    groups = neurons.groups(p=2, layerwise=True)
    small = shrink(model, ml.compute_mask(scores, keep=16, groups=groups), neurons)
    assert small.config.intermediate_size == 16
    odd = ml.compute_mask(scores, keep=15, groups=groups)
    with pytest.raises(ValueError, match=r"multiple of 16 bytes.*set_experts_implementation\('batched_mm'\)"):
        shrink(model, odd, neurons)
    model.set_experts_implementation("batched_mm")
    assert shrink(model, odd, structure(model, inputs)).config.intermediate_size == 15


class Mixture(nn.Linear):
    """Experts without any library, on purpose odd in one way each."""

    def __init__(self, forward, experts=6, width=8):
        super().__init__(width, experts)
        self.packed, self.run = nn.Parameter(torch.randn(experts, width, width)), forward

    def forward(self, x):
        return self.run(self, super().forward(x), x)


def by_numbers(net, gates, chosen, x):
    return torch.einsum("tk,tkij,tj->ti", gates, net.packed[chosen], x)


def by_groups(net, gates, chosen, x):
    """Sorted by expert, as the fast kernels want it."""
    order = chosen.flatten().argsort()
    ends = torch.histc(chosen.flatten().float(), bins=len(net.packed), min=0, max=len(net.packed) - 1).cumsum(0)
    y = F.grouped_mm(x.repeat_interleave(2, 0)[order], net.packed.transpose(1, 2), offs=ends.int())
    return (y * gates.flatten()[order, None])[order.argsort()].view(len(x), 2, -1).sum(1)


WORKS = {
    "softmax first": lambda n, s, x: by_numbers(n, *s.softmax(-1).topk(2), x),
    "softmax last": lambda n, s, x: by_numbers(n, (top := s.topk(2))[0].softmax(-1), top[1], x),
    "sigmoid": lambda n, s, x: by_numbers(n, *s.sigmoid().topk(2), x),
    "one expert": lambda n, s, x: by_numbers(n, *s.softmax(-1).topk(1), x),
    "groups": lambda n, s, x: by_groups(n, *s.softmax(-1).topk(2), x),
}
STAYS = {
    "gates of all": (lambda n, s, x: torch.einsum("te,eij,tj->ti", s.softmax(-1), n.packed, x), "softmax"),
    "a constant": (lambda n, s, x: by_numbers(n, *(s + torch.arange(6)).topk(2), x), "joins it with what is fixed"),
    "a mean of gates": (lambda n, s, x: by_numbers(n, *s.softmax(-1).topk(2), x) + s.mean(), "takes all of it"),
    "returned gates": (lambda n, s, x: (by_numbers(n, *s.topk(2), x), s), "the model returns it"),
}


@pytest.mark.parametrize("name", WORKS)
def test_mixtures_of_ones_own(name):
    if name == "groups" and not hasattr(F, "grouped_mm"):
        pytest.skip(f"torch {torch.__version__} has no grouped products")
    torch.manual_seed(0)
    model, x = Mixture(WORKS[name]), torch.randn(7, 8)
    if name == "groups":  # can be captured in this dtype alone
        model, x = model.bfloat16(), x.bfloat16()
    sets, mask = structure(model, (x,)), torch.tensor([True, False, True, True, False, True])
    small = drop_experts(model, {"": mask}, sets)
    assert (small.out_features, small.packed.shape) == (4, (4, 8, 8))
    with torch.no_grad():
        logits = F.linear(x, model.weight, model.bias).masked_fill(~mask, -torch.inf)
        assert torch.allclose(WORKS[name](model, logits, x), small(x), atol=1e-6)
    assert "6 experts of weight[0], bias[0], packed[0], among which a router chooses" in sets.explain("packed")
    assert "6 experts" in repr(sets)


class Two(nn.Module):
    """Two mixtures in one module."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(6, 8, 8)) for _ in range(2))
        self.router, self.other = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x):
        for router, packed in ((self.router, self.first), (self.other, self.second)):
            gates, chosen = router(x).softmax(-1).topk(2)
            x = x + torch.einsum("tk,tkij,tj->ti", gates, packed[chosen], x)
        return x


def test_two_mixtures_in_one_module_have_names_of_their_own():
    model, x = Two(), torch.randn(7, 8)
    sets = structure(model, (x,))
    assert list(sets.experts) == ["first", "second"]
    small = drop_experts(model, {"second": torch.arange(6) > 1}, sets)
    assert (len(small.first), len(small.second), small.other.out_features) == (6, 4, 4)


@pytest.mark.parametrize("name", STAYS)
def test_experts_that_stay_say_why(name):
    run, why = STAYS[name]
    sets = structure(Mixture(run), (torch.randn(7, 8),))
    assert not sets.experts
    assert why in sets.explain("weight")


def test_wrong_calls_say_what_to_do():
    model, x = Mixture(WORKS["sigmoid"]), torch.randn(7, 8)
    sets, plain = structure(model, (x,)), nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    none = structure(plain, (x,))
    mask = torch.arange(6) > 2
    with pytest.raises(ValueError, match="no experts that can be removed"):
        drop_experts(plain, {"": mask}, none)
    with pytest.raises(ValueError, match=r"has names that `structure\.experts` lacks"):
        drop_experts(model, {"mlp": mask}, sets)
    with pytest.raises(ValueError, match=r"of shape \(6,\)"):
        drop_experts(model, {"": mask[:5]}, sets)
    with pytest.raises(TypeError, match="must be bool"):
        drop_experts(model, {"": mask.float()}, sets)
    with pytest.raises(ValueError, match="meta device"):
        drop_experts(model, {"": mask.to("meta")}, sets)
    with pytest.raises(TypeError, match="mapping"):
        drop_experts(model, mask, sets)
    with pytest.raises(ValueError, match="leave no expert"):
        drop_experts(model, {"": mask & False}, sets)
    with pytest.raises(ValueError, match="remove no expert"):
        drop_experts(model, {"": mask | True}, sets)
    with pytest.raises(ValueError, match="another model"):
        drop_experts(plain, {"": mask}, sets)
    with pytest.raises(TypeError, match="`batches` must be an iterable"):
        expert_norms(model, x, sets)
    with pytest.raises(ValueError, match="at least, got none"):
        expert_norms(model, [], sets)
    with pytest.raises(ValueError, match="has no experts"):
        expert_norms(plain, [x], none)
    with pytest.raises(ValueError, match="must be called with tokens"):
        expert_norms(model, [x], sets)
    odd = Mixture(lambda n, s, x: by_numbers(n, *s.sigmoid().topk(2), x) * n.out_features)
    sets = structure(odd, (x,))
    with pytest.raises(ValueError, match="would not compute the same"):
        drop_experts(odd, {"": mask}, sets)
