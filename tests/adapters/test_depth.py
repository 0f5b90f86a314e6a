"""Blocks that do little are found, and the model without some is the one in which they hand on what they get."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import masklib as ml
from masklib import scores
from masklib.adapters.depth import Runs, drop, measure

BLOCKS = 5
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
TEXT = {"vocab_size": 32, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = SIZES | TEXT | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": 32, "n_embd": 16, "n_layer": BLOCKS, "n_head": 4, "n_positions": 64, "bos_token_id": 1}
KINDS = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": BLOCKS, "num_heads": 4}
FAMILIES = {
    "Llama": ("ForCausalLM", GROUPED),
    "Qwen3": ("ForCausalLM", GROUPED | {"head_dim": 4}),
    "Gemma3Text": ("ForCausalLM", GROUPED | {"head_dim": 4, "sliding_window": 4, "layer_types": KINDS}),
    "OPT": ("ForCausalLM", {**SIZES, **TEXT, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "GPT2": ("LMHeadModel", GPT2 | {"eos_token_id": 2}),
    "GPTNeo": (
        "ForCausalLM",
        {**TEXT, "hidden_size": 16, "num_layers": 6, "num_heads": 4, "window_size": 4}
        | {"attention_types": [[["global", "local"], 3]]},
    ),
    "Qwen3Moe": (
        "ForCausalLM",
        GROUPED
        | {"head_dim": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
        | {"mlp_only_layers": [1, 3]},
    ),
    "Bert": ("ForSequenceClassification", SIZES | {"vocab_size": 32, "max_position_embeddings": 64}),
    "ViT": ("ForImageClassification", SIZES | {"image_size": 8, "patch_size": 4}),
    "T5": ("ForConditionalGeneration", T5 | {"decoder_start_token_id": 0}),
}


def build(family, **more):
    import transformers

    ending, sizes = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes, **more)
    kind = "Gemma3" if family == "Gemma3Text" else family
    model = getattr(transformers, f"{kind}{ending}")(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    inputs = {"input_ids": torch.randint(3, 32, (2, 9))}
    if family == "ViT":
        inputs = {"pixel_values": torch.randn(2, 3, 8, 8)}
    if family == "T5":
        inputs["decoder_input_ids"] = torch.randint(32, (2, 5))
    return model, inputs


def masks_of(found, *dropped):
    return {name: torch.tensor(i not in dropped) for i, name in enumerate(found.blocks)}


class Residual(nn.Module):
    def __init__(self, width, size=0.1):
        super().__init__()
        self.linear, self.size = nn.Linear(width, width), size

    def forward(self, x):
        return x + self.size * torch.tanh(self.linear(x))


class Stack(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, 6), nn.ModuleList(blocks)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def stack(*sizes):
    torch.manual_seed(0)
    return Stack(*(Residual(6, size) for size in sizes))


# ---- what is measured -----------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.booleans())
def test_runs_are_measured_from_what_goes_in_to_what_comes_out(length, last):
    drawn = torch.Generator().manual_seed(0)
    model, batches = stack(0.5, 0.1, 1.0, 0.3), [torch.randn(2, tokens, 4, generator=drawn) for tokens in (5, 3, 4)]
    found = measure(model, batches, length=length, last=last)
    states = [[model.stem(x)] for x in batches]
    for history in states:
        for block in model.blocks:
            history.append(block(history[-1]))
    rows = slice(-1, None) if last else slice(None)
    for i, (name, score) in enumerate(found.scores.items()):
        pairs = [(h[i][:, rows].reshape(-1, 6), h[i + length][:, rows].reshape(-1, 6)) for h in states]
        angles = [torch.acos(nn.functional.cosine_similarity(a, b)) / math.pi for a, b in pairs]
        assert name == f"blocks.{i}"
        assert score.item() == pytest.approx(torch.cat(angles).mean().item(), abs=1e-3)
    assert len(found.scores) == 4 - length + 1


def test_the_block_that_does_least_is_the_lowest():
    model = stack(0.5, 0.5, 0.0, 0.01, 0.5)
    found = measure(model, [torch.randn(8, 4)], add=scores.add_influences)
    assert [name for name, kept in found.lowest().items() if not kept] == ["blocks.2"]
    masks = ml.compute_mask(found.scores, amount=2)
    assert [name for name, kept in masks.items() if not kept] == ["blocks.2", "blocks.3"]
    pairs = measure(model, [torch.randn(8, 4)], length=2)
    assert [name for name, kept in pairs.lowest().items() if not kept] == ["blocks.2", "blocks.3"]
    assert list(pairs.lowest()) == [f"blocks.{i}" for i in range(5)]
    lines = str(pairs).splitlines()
    assert lines[0] == "5 blocks, 2 at a time"
    assert [line.startswith("  blocks.2 to blocks.3  0.0") for line in lines[1:]] == [False, False, True, False]
    assert lines[3].endswith("  the lowest")


def test_the_lowest_of_equals_is_the_first():
    found = Runs(("a", "b", "c"), 1, dict.fromkeys("abc", torch.tensor(1.0)))
    assert [kept.item() for kept in found.lowest().values()] == [False, True, True]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("last", [False, True])
def test_padding_does_not_count(side, last):
    model, _ = build("Llama")
    ids = torch.randint(3, 32, (1, 6))
    cut = (0, 3) if side == "right" else (3, 0)
    mask = nn.functional.pad(torch.ones_like(ids), cut)
    padded = {"input_ids": nn.functional.pad(ids, cut), "attention_mask": mask}
    padded["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    plain, other = (measure(model, [batch], last=last) for batch in ({"input_ids": ids}, padded))
    for name in plain.blocks:
        assert other.scores[name].item() == pytest.approx(plain.scores[name].item(), abs=1e-4)


def test_what_is_measured_is_left_as_it_is():
    model, inputs = build("Llama")
    model.train()
    before = copy.deepcopy(model.state_dict())
    measure(model, [inputs])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert model.training
    assert model.config.use_cache
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_images_are_one_vector_each():
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)))
    x = torch.randn(4, 3, 5, 5)
    cosines = nn.functional.cosine_similarity(x.flatten(1), net[0](x).flatten(1))
    assert measure(net, [x]).scores["0"].item() == pytest.approx(
        (torch.acos(cosines) / math.pi).mean().item(), abs=1e-4
    )


# ---- what is dropped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", [(1,), (0, 3), (4,), (0, 1, 2, 4)])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "T5"])
def test_families_compute_what_they_do_with_identities_and_load_again(family, dropped, tmp_path):
    model, inputs = build(family)
    found = measure(model, [inputs])
    small = drop(model, masks_of(found, *dropped), inputs)
    list_name = found.blocks[0].rpartition(".")[0]
    assert len(small.get_submodule(list_name)) == len(found.blocks) - len(dropped)
    for name in [found.blocks[i] for i in dropped]:
        hand_on(model.get_submodule(name))
    with torch.no_grad():
        expected, got = model(**inputs), small(**inputs)
        torch.testing.assert_close(got.logits, expected.logits)
        small.save_pretrained(tmp_path)
        loaded = type(small).from_pretrained(tmp_path).eval()
        torch.testing.assert_close(loaded(**inputs).logits, got.logits)
    assert small.config.num_hidden_layers == len(found.blocks) - len(dropped)
    if hasattr(small, "generation_config") and family not in ("Bert", "ViT"):
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        mask = torch.ones_like(inputs["input_ids"])
        tokens = [
            m.generate(**inputs, attention_mask=mask, **options, use_cache=c)
            for m, c in ((small, True), (small, False))
        ]
        assert torch.equal(*tokens)


def hand_on(block):
    """Let a block return what it gets, with all else as before."""

    def hook(module, args, kwargs, output):
        state = args[0] if args else kwargs["hidden_states"]
        return state if isinstance(output, torch.Tensor) else (state, *output[1:])

    block.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_an_encoder_or_a_decoder_loses_blocks_by_itself(side, tmp_path):
    model, inputs = build("T5")
    names = [f"{side}.block.{i}" for i in range(BLOCKS)]
    found = measure(model, [inputs], blocks=names)
    small = drop(model, masks_of(found, 1, 4), inputs)
    assert (small.config.num_layers, small.config.num_decoder_layers) == ((3, 5) if side == "encoder" else (5, 3))
    small.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(type(small).from_pretrained(tmp_path)(**inputs).logits, small(**inputs).logits)
    with pytest.raises(ValueError, match="Keep blocks that make what others use"):  # the first has the position bias
        drop(model, masks_of(found, 0), inputs)


def test_lists_of_configs_follow():
    model, inputs = build("Gemma3Text")
    small = drop(model, masks_of(measure(model, [inputs]), 0, 3), inputs)
    assert small.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert model.config.layer_types == KINDS
    assert [block.self_attn.layer_idx for block in small.model.layers] == [0, 1, 2]
    model, inputs = build("Qwen3Moe")
    assert drop(model, masks_of(measure(model, [inputs]), 0, 1), inputs).config.mlp_only_layers == [1]


def test_what_a_config_cannot_hold_is_told():
    model, inputs = build("GPT2", scale_attn_by_inverse_layer_idx=True)
    with pytest.warns(UserWarning, match=r"cannot hold these blocks \(it builds scaling = 0.25"):
        small = drop(model, masks_of(measure(model, [inputs]), 1), inputs)
    assert len(small.transformer.h) == BLOCKS - 1


@given(st.sets(st.integers(0, 3), min_size=1, max_size=3))
def test_plain_stacks_and_sequentials_lose_blocks(dropped):
    x = torch.randn(3, 4)
    model = stack(0.5, 0.1, 1.0, 0.3)
    small = drop(model, masks_of(measure(model, [x]), *dropped), (x,))
    expected = model.stem(x)
    for i, block in enumerate(model.blocks):
        expected = expected if i in dropped else block(expected)
    torch.testing.assert_close(small(x), expected)
    assert list(small.state_dict()) == [n for n in model.state_dict() if not n.startswith("blocks")] + [
        f"blocks.{i}.linear.{n}" for i in range(4 - len(dropped)) for n in ("weight", "bias")
    ]
    row = nn.Sequential(model.stem, *model.blocks)
    small = drop(row, {f"{i + 1}": torch.tensor(i not in dropped) for i in range(4)}, (x,))
    torch.testing.assert_close(small(x), expected)


def test_named_blocks_keep_their_names_and_the_model_is_left_as_it_is():
    model = nn.Sequential()
    for name in "abc":
        model.add_module(name, Residual(4))
    model.train()
    small = drop(model, {"b": torch.tensor(False)}, (torch.randn(2, 4),))
    assert list(small._modules) == ["a", "c"]
    assert list(model._modules) == ["a", "b", "c"]
    assert small.training
    assert not {id(p) for p in model.parameters()} & {id(p) for p in small.parameters()}
    small(torch.randn(2, 4)).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


class Zipped(Stack):
    """Has a second list beside its blocks."""

    def __init__(self, *blocks):
        super().__init__(*blocks)
        self.scales = [0.5, 2.0, 3.0, 4.0]

    def forward(self, x):
        x = self.stem(x)
        for block, scale in zip(self.blocks, self.scales):
            x = block(x) * scale
        return x


def test_what_would_not_compute_the_same_is_refused():
    model, x = Zipped(*(Residual(6) for _ in range(4))), torch.randn(3, 4)
    with pytest.raises(ValueError, match="does not compute what it does when they hand on their inputs"):
        drop(model, {"blocks.1": torch.tensor(False)}, (x,))


# ---- bad calls ------------------------------------------------------------------------------------------------------

NO = torch.tensor(False)
SHAPES = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
X = torch.randn(3, 4)


class Twice(Stack):
    def forward(self, x):
        return super().forward(x) + self.blocks[0](self.stem(x))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "'0' must return a hidden state of the shape that it takes", lambda m: measure(SHAPES, [X])),
        (ValueError, "`length` must be from 1 to the 2 blocks, got 3", lambda m: measure(m, [X], length=3)),
        (TypeError, "`length` must be an int", lambda m: measure(m, [X], length=1.5)),
        (TypeError, "`last` must be a bool", lambda m: measure(m, [X], last=1)),
        (TypeError, "`add` must be callable", lambda m: measure(m, [X], add="angles")),
        (ValueError, "must be called once a batch", lambda m: measure(Twice(*m.blocks), [X])),
        (
            ValueError,
            "must follow one another",
            lambda m: measure(stack(1, 1, 1), [X], length=2, blocks=["blocks.0", "blocks.2"]),
        ),
        (ValueError, "`batches` must hold a batch", lambda m: measure(m, [])),
        (TypeError, "`model` must be an nn.Module", lambda m: drop(3, {}, (X,))),
        (TypeError, "`masks` must be a mapping", lambda m: drop(m, ["blocks.0"], (X,))),
        (ValueError, "`masks` must name blocks of a ModuleList", lambda m: drop(m, {"stem": NO}, (X,))),
        (ValueError, "`masks` must name blocks of a ModuleList", lambda m: drop(m, {"blocks.7": NO}, (X,))),
        (TypeError, "must be one bool", lambda m: drop(m, {"blocks.0": torch.tensor(0)}, (X,))),
        (ValueError, "`masks` drop no block", lambda m: drop(m, {"blocks.0": ~NO}, (X,))),
        (ValueError, "`masks` leave no block of 'blocks'", lambda m: drop(m, {"blocks.0": NO, "blocks.1": NO}, (X,))),
        (ValueError, "`masks` must keep '0', which makes (3, 6)", lambda m: drop(SHAPES, {"0": NO}, (X,))),
        (TypeError, "`example_inputs` must be a tuple", lambda m: drop(m, {"blocks.0": NO}, X)),
        (ValueError, "does not run on these `example_inputs`", lambda m: drop(m, {"blocks.0": NO}, (X.T,))),
        (ValueError, "must have a value", lambda m: drop(m, {"blocks.0": NO.to("meta")}, (X,))),
        (ValueError, "has none yet", lambda m: drop(nn.Sequential(nn.LazyLinear(4), nn.ReLU()), {"1": NO}, (X,))),
        (ValueError, "must have values", lambda m: drop(copy.deepcopy(m).to("meta"), {"blocks.0": NO}, (X,))),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call(stack(0.1, 0.2))


@dataclass
class Output:
    """What no tree of torch's knows."""

    held: Any


class Counted(Stack):
    """Blocks whose places count, in an output of any kind."""

    def __init__(self, wrap):
        super().__init__(*(Residual(6) for _ in range(3)))
        self.wrap = wrap

    def forward(self, x):
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = (i + 1) * block(x)
        return self.wrap(x)


WRAPS = {
    "an object": Output,
    "objects in objects": lambda x: Output({"a": [Output(x)]}),
    "a number": lambda x: Output(float(x.detach().sum())),
    "beside the lowest number": lambda x: x.masked_fill(torch.arange(6) < 3, torch.finfo(x.dtype).min),
    "nothing": lambda x: "text",
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_no_output_hides_a_difference(wrap):
    with pytest.raises(ValueError, match=r"the outputs differ by|nothing can be compared"):
        drop(Counted(wrap), {"blocks.0": NO}, (X,))


def test_objects_that_are_alike_are_no_difference():
    model = stack(0.1, 0.2)
    model.register_forward_hook(lambda module, inputs, output: Output(output))
    small = drop(model, {"blocks.1": NO}, (X,))
    assert torch.equal(small(X).held, model.blocks[0](model.stem(X)))


def test_runs_that_cannot_be_compared_are_not():
    runs = Runs(("0", "1"), 1, {"0": torch.tensor(float("nan")), "1": torch.tensor(0.5)})
    assert "nan" in str(runs)
    assert "the lowest" not in str(runs)
    with pytest.raises(ValueError, match=r"got NaN for \['0'\]"):
        runs.lowest()
