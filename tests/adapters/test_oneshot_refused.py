"""Layers, numbers and rules that the walk refuses, or leaves out as asked; and what it says."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from walked_models import MODELS, model_and_batches, small

from masklib.adapters import depth, oneshot


class Unused(nn.Module):
    """A block with a layer that is not called, and one that sees NaN."""

    def __init__(self):
        super().__init__()
        self.used, self.idle, self.ill = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x) + 0 * self.ill(x * float("nan")).nan_to_num()


def unused():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), Unused())


def test_what_cannot_be_pruned_is_named_and_nothing_is_changed():
    for rule, message in ((oneshot.wanda(), "'1.idle.weight' cannot be pruned: it saw no inputs"),):
        model = unused()
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=re.escape(message)):
            oneshot.prune(model, [torch.randn(9, 4)], rule, amount=0.5)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"'1.ill.weight' cannot be pruned: .* not finite"):
        oneshot.prune(model, [torch.randn(9, 4)], oneshot.admm(), amount=0.5, names=["0.weight", "1.ill.weight"])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_rest_goes_on_as_asked():
    model = unused()
    before = copy.deepcopy(model.state_dict())
    pruned = oneshot.prune(model, [torch.randn(9, 4)], oneshot.sparsegpt(), amount=0.5, strict=False)
    assert set(pruned.masks) == {"0.weight", "1.used.weight"}
    assert pruned.left_out["1.idle.weight"].startswith("it saw no inputs")
    assert "not finite" in pruned.left_out["1.ill.weight"]
    assert torch.equal(model[1].ill.weight, before["1.ill.weight"])


def test_experts_without_tokens_are_said():
    model, batches = model_and_batches("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.register_forward_hook(lambda m, a, out: nowhere(out))
    with pytest.raises(ValueError, match=r"experts \[2, 3, 4\] saw no inputs"):
        oneshot.prune(model, batches, oneshot.wanda(), amount=0.5)
    pruned = oneshot.prune(model, batches, oneshot.wanda(), amount=0.5, strict=False)
    assert any("experts [2, 3, 4]" in why for why in pruned.left_out.values())


def nowhere(out):
    """The first two experts for every token."""
    index = torch.zeros_like(out[-1]) + torch.arange(out[-1].shape[-1])
    return (*out[:-1], index)


RULE = oneshot.wanda()


def own(model, batches, solve):
    rule = oneshot.Rule(RULE.add, lambda weight, state, alive, **number: solve(weight))
    oneshot.prune(model, batches, rule, keep=1)


BAD = [
    (TypeError, "`model` must be", lambda m, b: oneshot.prune(None, b, oneshot.wanda(), amount=1)),
    (TypeError, "`batches` must be an iterable", lambda m, b: oneshot.prune(m, b[0], oneshot.wanda(), amount=1)),
    (ValueError, "`batches` must hold a batch", lambda m, b: oneshot.prune(m, [], oneshot.wanda(), amount=1)),
    (TypeError, "`rule` must be", lambda m, b: oneshot.prune(m, b, oneshot.wanda, amount=1)),
    (TypeError, "`rule` must be", lambda m, b: oneshot.prune(m, b, "wanda", amount=1)),
    (
        TypeError,
        "`rule.prepare` must be a function or None, got 3",
        lambda m, b: oneshot.prune(m, b, oneshot.Rule(RULE.add, RULE.solve, 3), amount=1),
    ),
    (TypeError, "exactly one", lambda m, b: oneshot.prune(m, b, oneshot.wanda())),
    (
        ValueError,
        "`names` must be weights in the blocks",
        lambda m, b: oneshot.prune(m, b, oneshot.wanda(), keep=1, names=["x"]),
    ),
    (TypeError, "`names` must be a list", lambda m, b: oneshot.prune(m, b, oneshot.wanda(), keep=1, names="0.weight")),
    (ValueError, "`blocks` must name modules", lambda m, b: oneshot.prune(m, b, oneshot.wanda(), keep=1, blocks=["7"])),
    (ValueError, "`blocks` must follow", lambda m, b: oneshot.prune(m, b, oneshot.wanda(), keep=1, blocks=["0", "2"])),
    (ValueError, "`blocks` must be named", lambda m, b: oneshot.prune(nn.Linear(4, 4), b, oneshot.wanda(), keep=1)),
    (
        ValueError,
        "`sparsity` must have exactly the names",
        lambda m, b: oneshot.prune(m, b, oneshot.wanda(), sparsity={"0.weight": 0.5}),
    ),
    (
        ValueError,
        "`default_masks` has names",
        lambda m, b: oneshot.prune(m, b, oneshot.wanda(), keep=1, default_masks={"x": b[0] > 0}),
    ),
    (
        ValueError,
        "'0.weight' cannot be pruned: `amount` must be",
        lambda m, b: oneshot.prune(m, b, oneshot.wanda(), amount=99),
    ),
    (ValueError, "`device` must be one that computes", lambda m, b: oneshot.prune(m, b, RULE, keep=1, device="meta")),
    (
        ValueError,
        "`model` must have its values",
        lambda m, b: oneshot.prune(copy.deepcopy(m).to("meta"), b, RULE, keep=1),
    ),
    (
        ValueError,
        "`batches` must hold what Sequential can be run on, such as ids of its own tokens of shape (batch, length), "
        "got float32 (2, 3): ",
        lambda m, b: oneshot.prune(m, [torch.ones(2, 3)], RULE, keep=1),
    ),
    (
        TypeError,
        "'0.weight' cannot be pruned: `rule.solve` must give (weight, mask), got Tensor",
        lambda m, b: own(m, b, lambda w: w),
    ),
    (TypeError, "`rule.solve` must give (weight, mask), got NoneType", lambda m, b: own(m, b, lambda w: None)),
    (
        ValueError,
        "`rule.solve` must give a weight and a mask of shape",
        lambda m, b: own(m, b, lambda w: (w, w[:1] > 0)),
    ),
    (
        ValueError,
        "`rule.solve` must give a weight and a mask of shape",
        lambda m, b: own(m, b, lambda w: (w[:1], w > 0)),
    ),
    (TypeError, "`rule.solve` must give a mask of bool", lambda m, b: own(m, b, lambda w: (w, w))),
    (ValueError, "`rule.solve` gave a weight that is not finite", lambda m, b: own(m, b, lambda w: (w / 0, w > 0))),
    (TypeError, "`strict` must be a bool", lambda m, b: oneshot.prune(m, b, oneshot.wanda(), amount=1, strict="no")),
    *(
        (
            TypeError,
            "`groups` must be a groups value, with `fold(shape)`, got 4",
            lambda m, b, rule=rule: rule(groups=4),
        )
        for rule in (oneshot.magnitude, oneshot.wanda, oneshot.ria, oneshot.sparsegpt, oneshot.admm)
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD)
def test_bad_calls(error, message, call):
    model, batches = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=re.escape(message)):
        call(model, batches)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("unknown", [-1, 0, 1])
def test_tokens_that_the_model_does_not_know(unknown):
    """They are told before they are looked up, which ends a process on a GPU."""
    model = MODELS["llama"]()[0]
    count = model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[0, unknown if unknown < 0 else count + unknown, 1]])
    words = f"must hold ids of the {count} tokens that LlamaForCausalLM knows, got .* Is the tokenizer the model's"
    for batch in ({"input_ids": ids}, ids, (ids,)):
        with pytest.raises(ValueError, match="`batches` " + words):
            oneshot.prune(model, [batch], RULE, keep=1)
        with pytest.raises(ValueError, match="`batches` " + words):
            depth.measure(model, [batch])
    with pytest.raises(ValueError, match="`windows` " + words):
        oneshot.perplexity(model, [ids])


class Giving(nn.Module):
    """A block that returns something of its own beside the state, and adds what it is given."""

    def __init__(self, makes):
        super().__init__()
        self.layer, self.makes = nn.Linear(4, 4), makes

    def forward(self, x, given=None):
        x = self.layer(x) + (0 if given is None else given.to(x.dtype))
        return x, self.makes(x, given)


class Chained(nn.Module):
    """Blocks of which each is called with what another one returned beside its state, or with what is made of it."""

    def __init__(self, makes, between=lambda given: given, first_only=False):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Giving(makes) for _ in range(3)])
        self.between, self.first_only = between, first_only

    def forward(self, x):
        given = None
        for i, block in enumerate(self.blocks):
            x, new = block(x, given)
            given = self.between(new) if i == 0 or not self.first_only else given
        return x


STATE_WENT_ON = {
    "what each computes anew": (Chained, lambda x, _: x.argmax(-1, keepdim=True)),
    "values of the first": (partial(Chained, first_only=True), lambda x, _: x * 0.5),
    "made into something else": (partial(Chained, between=lambda given: given + 1), lambda x, _: x * 0.5),
}
SAME_FOR_ALL = {
    "handed on": (Chained, lambda x, given: torch.arange(4.0) if given is None else given),
    "made anew, the same": (Chained, lambda x, _: torch.arange(4.0)),
    "not heard": (partial(Chained, between=lambda _: torch.ones(4)), lambda x, _: x * 0.5),
}


@pytest.mark.parametrize("kind", STATE_WENT_ON)
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("stored", [True, False])
def test_blocks_that_compute_what_others_are_called_with_are_refused(kind, alike, stored, tmp_path):
    """Else the others would go on with what the dense blocks computed, or the first one alone, without a word."""
    make, makes = STATE_WENT_ON[kind]
    model = chained(make, makes, alike)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'blocks\.\d' (computes|is called with) something beside its state"):
        one_shot(model, stored, tmp_path)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not (tmp_path / "target.safetensors").exists()


@pytest.mark.parametrize("kind", SAME_FOR_ALL)
@pytest.mark.parametrize("alike", [True, False])
def test_what_is_handed_on_and_stays_the_same_is_no_matter(kind, alike, tmp_path):
    make, makes = SAME_FOR_ALL[kind]
    model, other = (chained(make, makes, alike) for _ in range(2))
    one_shot(model, False, tmp_path)
    one_shot(other, True, tmp_path)
    stored = load_file(tmp_path / "target.safetensors")
    assert all(torch.equal(t, stored[n]) for n, t in model.state_dict().items())
    assert (model.blocks[2].layer.weight == 0).sum() == 8


def chained(make, makes, alike):
    model = make(makes)
    if not alike:
        model.blocks[1].more = nn.Linear(1, 1)  # never called; of another kind, so that every block is run
    return model


def one_shot(model, stored, folder):
    batches = [torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    names = [f"blocks.{i}.layer.weight" for i in range(3)]
    if not stored:
        return oneshot.prune(model, batches, RULE, keep=2, names=names)
    save_file(model.state_dict(), folder / "source.safetensors")
    empty = copy.deepcopy(model).to("meta")
    places = folder / "source.safetensors", folder / "target.safetensors"
    return oneshot.prune_checkpoint(*places, empty, batches, RULE, keep=2, names=names)
