"""What passes through a dense model beside hooks that keep it all, and budgets that are made of it."""

from __future__ import annotations

import copy
import math
import re
from functools import partial

import pytest
import torch
import zoo_language
from torch import nn
from torch.nn import functional

import masklib as ml
from masklib import budgets, scores
from masklib.adapters import oneshot

DENSE = ("llama", "qwen3", "gemma3", "gpt2", "opt", "bert", "vit")


def model_and_batches(name):
    torch.manual_seed(0)
    model, batch = mixtral() if name == "mixtral" else zoo_language.LANGUAGE[name]()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    batches = [{n: t.roll(i, -1) for n, t in batch.items()} for i in range(3)]
    wide = [{n: t.double() if t.is_floating_point() else t for n, t in b.items()} for b in batches]
    return model.double().eval(), wide


def mixtral():
    config, t = zoo_language._language("Mixtral", **zoo_language._LLAMA, num_local_experts=3, num_experts_per_tok=2)
    return t.MixtralForCausalLM(config), zoo_language._tokens()


def is_layer(module):
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), [torch.randn(20, 4)]


def convolutions():
    torch.manual_seed(0)
    second = nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, padding_mode="circular")
    layers = [nn.Conv2d(4, 8, 3, padding="same", dilation=2), nn.ReLU(), second, nn.Flatten(), nn.Linear(168, 5)]
    return nn.Sequential(*layers).double(), torch.randn(5, 4, 8, 8, dtype=torch.float64)


def squared(outputs, batch):
    """A loss that any model has."""
    if not isinstance(outputs, torch.Tensor):
        found = getattr(outputs, "logits", None)
        outputs = outputs[0] if found is None else found
    return outputs.square().sum()


def hooked(model, batches):
    """The inputs of each layer and the gradients at its outputs, all held, by the gradients of the whole model."""
    inputs, outputs = {}, {}
    for name, module in model.named_modules():
        if is_layer(module):

            def keep(module, args, out, name=name):
                out.retain_grad()
                inputs.setdefault(f"{name}.weight", []).append(args[0])
                outputs.setdefault(f"{name}.weight", []).append(out)

            module.register_forward_hook(keep)
    for batch in batches:
        squared(model(**batch), batch).backward()
    rows = {n: torch.cat([x.reshape(-1, x.shape[-1]) for x in xs]) for n, xs in inputs.items()}
    grads = {
        n: torch.cat([y.grad.reshape(-1, y.shape[-1]) for y in ys])
        for n, ys in outputs.items()
        if ys[0].grad is not None
    }
    return rows, grads


@pytest.mark.parametrize("name", DENSE)
def test_curvature_is_that_of_hooks_on_the_whole_model(name):
    model, batches = model_and_batches(name)
    found = oneshot.measure(model, batches, scores.curvature, loss=squared)
    rows, grads = hooked(copy.deepcopy(model), batches)
    tokens = max(len(x) for x in rows.values())
    for n, got in found.items():
        turned = type(model.get_submodule(n.rpartition(".")[0])).__name__ == "Conv1D"
        weight = model.get_parameter(n).detach()
        expected = (weight.T if turned else weight) ** 2 * grads[n].square().sum(0)[:, None] / tokens
        expected = expected * rows[n].square().mean(0) / 2
        torch.testing.assert_close(got, expected.T if turned else expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_without_a_loss_scores_are_those_the_walk_sees_first(name):
    """The first block of the walk is run on what the dense model makes of the batches."""
    model, batches = model_and_batches(name)
    found, twin = oneshot.measure(model, batches, scores.wanda), copy.deepcopy(model)
    pruned = oneshot.prune(twin, batches, oneshot.wanda(groups=ml.elements()), amount=0.5)
    first = [n for n in found if re.search(r"\.0\.", n) and model.get_parameter(n).dim() == 2]
    assert set(found) == set(pruned.masks)
    assert len(first) >= 4
    for n in first:
        assert torch.equal(pruned.masks[n], ml.compute_mask(found[n], amount=0.5)), n


class Routed(nn.Module):
    """Two experts, packed or not; the second sees every fourth row."""

    def __init__(self, packed):
        super().__init__()
        experts = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
        self.num_experts = 2
        if packed:
            self.experts = nn.Parameter(experts)
        else:
            self.first, self.second = (nn.Linear(4, 4, bias=False) for _ in experts)
            self.first.weight.data, self.second.weight.data = experts.clone()

    def forward(self, x):
        other = torch.arange(len(x)) % 4 == 0
        weights = self.experts if hasattr(self, "experts") else (self.first.weight, self.second.weight)
        parts = [functional.linear(x[rows], w) for rows, w in zip((~other, other), weights)]
        return torch.zeros_like(x).index_put((~other,), parts[0]).index_put((other,), parts[1])


def test_packed_experts_are_as_those_by_themselves():
    x, made = torch.randn(12, 4).double(), {}
    for packed in (True, False):
        model = nn.Sequential(nn.Linear(4, 4).double(), Routed(packed))
        model[0].weight.data.fill_(0.5)
        model[0].bias.data.zero_()
        found = oneshot.measure(model, [x], scores.curvature, loss=squared)
        made[packed] = found
    torch.testing.assert_close(
        made[True]["1.experts"], torch.stack([made[False][f"1.{n}.weight"] for n in ("first", "second")])
    )


def test_what_a_weight_matters_is_counted_in_the_tokens_that_reach_it():
    """Over all 12 tokens, 3 of which reach the second expert: E[g^2] of 12 and E[x^2] of 3."""
    x, model = torch.randn(12, 4).double(), nn.Sequential(nn.Linear(4, 4).double(), Routed(packed=True))
    found = oneshot.measure(model, [x], scores.curvature, loss=squared)["1.experts"]
    rows = model[0](x)[::4].detach()
    weight = model[1].experts[1].detach()
    grads = 2 * rows @ weight.T
    expected = weight**2 * grads.square().sum(0)[:, None] / 12 * rows.square().mean(0) / 2
    torch.testing.assert_close(found[1], expected)


def test_convolutions_sum_over_positions_and_keep_groups_apart():
    model, x = convolutions()
    found = oneshot.measure(model, [x[:2], x[2:]], scores.curvature, loss=squared)
    outputs, h = {}, x
    for i, layer in enumerate(model):
        h = outputs[i] = layer(h)
        h.retain_grad()
    squared(h, x).backward()
    busiest = outputs[0].shape[0] * outputs[0][0, 0].numel()
    layer, h = model[2], functional.pad(outputs[1].detach(), (0, 0, 1, 1), mode="circular")
    rows = functional.unfold(h, layer.kernel_size, layer.dilation, 0, layer.stride)
    rows = rows.transpose(1, 2).reshape(-1, layer.groups, layer.weight[0].numel())
    grads = outputs[2].grad.movedim(1, -1).reshape(len(rows), layer.groups, -1)
    for group, kernel in enumerate(layer.weight.detach().flatten(1).chunk(2)):
        expected = kernel**2 * grads[:, group].square().sum(0)[:, None] / busiest
        expected = expected * rows[:, group].square().mean(0) / 2
        torch.testing.assert_close(found["2.weight"].flatten(1).chunk(2)[group], expected)


def test_parts_of_the_data_are_the_whole():
    model, batches = small()
    ask = partial(oneshot.measure, model, score=scores.curvature, loss=squared)
    torch.testing.assert_close(ask(batches=batches[0].split([3, 7, 10])), ask(batches=batches))


def test_one_block_at_a_time_is_held():
    """Each block runs once to come through, and once more, the last first, when its gradients are due."""
    blocks, seen = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)], []
    model = nn.Sequential(*blocks)
    for i, block in enumerate(blocks):
        block[0].register_forward_pre_hook(lambda *_, i=i: seen.append(i))
    oneshot.measure(model, [torch.randn(5, 4)] * 2, scores.curvature, loss=squared)
    assert seen == [0, 1, 2, 2, 1, 0] * 2


def test_a_budget_of_it_is_exact_and_follows_what_matters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        model[1].weight.mul_(1e-3), model[2].weight.mul_(1e3)
    found = oneshot.measure(model, [torch.randn(50, 8)], scores.curvature, loss=squared)
    sparsities = budgets.pooled(found, 0.5)
    assert sum(sparsities.values()) / 3 == pytest.approx(0.5)
    pruned = oneshot.prune(model, [torch.randn(50, 8)], oneshot.admm(), sparsity=sparsities)
    assert {n: float(ml.sparsity(m)) for n, m in pruned.masks.items()} == pytest.approx(sparsities, abs=1 / 64)


def test_the_model_is_as_it_was_even_after_an_error():
    model, batches = model_and_batches("llama")
    model.train()
    model.lm_head.weight.requires_grad_(False)

    def own(*args, **kwargs):
        return type(block).forward(block, *args, **kwargs)

    block = model.model.layers[1]
    block.forward = own
    before = {n: (p.clone(), p.requires_grad) for n, p in model.named_parameters()}
    oneshot.measure(model, batches, scores.curvature, loss=squared)
    with pytest.raises(KeyError, match="mine"):
        oneshot.measure(model, batches, scores.curvature, loss=lambda outputs, batch: {}["mine"])
    assert vars(block)["forward"] is own
    assert "forward" not in vars(model.model.layers[0])
    assert all(m.training for m in model.modules())
    assert all(torch.equal(p, before[n][0]) for n, p in model.named_parameters())
    assert all(p.requires_grad == before[n][1] and p.grad is None for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_loss_of_a_language_model_is_that_of_transformers():
    model, batches = model_and_batches("llama")
    batch = batches[0] | {"labels": batches[0]["input_ids"]}
    with torch.no_grad():
        outputs = model(**batch)
    tokens = batch["input_ids"][:, 1:].numel()
    for form in (batch, batch["input_ids"], (batch["input_ids"],)):
        got = oneshot.next_token_loss(outputs, form)
        torch.testing.assert_close(got / tokens, outputs.loss.to(got.dtype), rtol=1e-5, atol=0)
    windows = [b["input_ids"] for b in batches]
    assert oneshot.measure(model, windows, scores.curvature, loss=oneshot.next_token_loss)


def ask(score=scores.curvature, loss=squared, **options):
    model, batches = small()
    return oneshot.measure(model, options.pop("batches", batches), score, loss=loss, **options)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "`score` must be a function", lambda: ask(score="wanda")),
        (TypeError, "`loss` must be a function", lambda: ask(loss=3)),
        (TypeError, "`loss` must give a tensor", lambda: ask(loss=lambda y, x: 1.0)),
        (ValueError, "`loss` must give one number that depends", lambda: ask(loss=lambda y, x: y)),
        (ValueError, "`loss` must give one number that depends", lambda: ask(loss=lambda y, x: x.sum())),
        (ValueError, "`loss` must give a finite number, got nan", lambda: ask(loss=lambda y, x: y.sum() * math.nan)),
        (ValueError, "`batches` must hold what", lambda: ask(batches=[torch.ones(2, 77)])),
        (ValueError, "`batches` must hold a batch", lambda: ask(batches=[])),
        (ValueError, "`names` must be weights in the blocks", lambda: ask(names=["9.weight"])),
        (TypeError, "`score` must take (weight, inputs)", lambda: ask(loss=None)),
        (TypeError, "`score` must take (weight, inputs, grads)", lambda: ask(score=scores.fisher)),
        (TypeError, "`score` must give a tensor", lambda: ask(score=lambda w, x, g: None)),
        (ValueError, "`score` must give scores of the shape", lambda: ask(score=lambda w, x, g: w[0])),
    ],
)
def test_what_is_refused(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_a_layer_that_is_not_used_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"used": nn.Linear(4, 4), "idle": nn.Linear(4, 4)}))
    model[1].forward = lambda x: model[1]["used"](x)
    with pytest.raises(ValueError, match=r"'1.idle.weight' saw no inputs and no gradients"):
        oneshot.measure(model, [torch.randn(3, 4)], scores.curvature, loss=squared)
    assert len(oneshot.measure(model, [torch.randn(3, 4)], scores.wanda, names=["1.used.weight"])) == 1
    model[1].forward = lambda x: model[1]["used"](x) + model[1]["idle"](x).detach()
    with pytest.raises(ValueError, match=r"'1.idle.weight' saw no gradients"):
        oneshot.measure(model, [torch.randn(3, 4)], scores.curvature, loss=squared)
