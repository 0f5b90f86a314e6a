"""What is cut together, and that the smaller model computes what the masked one does."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo
from cutting import NAMES, close, found, outputs
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import masklib as ml
from masklib.adapters.structural import count, shrink, structure, within

pytestmark = pytest.mark.filterwarnings("ignore:the config of")


def random_masks(model, found, seed, share=0.4):
    noise, params = torch.Generator().manual_seed(seed), dict(model.named_parameters())
    scores = {n: torch.rand(params[n].shape, generator=noise) for n in found.names}
    return ml.compute_mask(
        scores, sparsity=share, groups=found.groups(layerwise=seed % 2 == 0), least=[None, 1][seed % 2]
    )


def kept(tensor, mask):
    """A tensor without the slices of which nothing lives."""
    for dim in range(tensor.dim()):
        live = mask.movedim(dim, 0).reshape(mask.shape[dim], -1).any(1)
        tensor = tensor.index_select(dim, live.nonzero()[:, 0])
    return tensor


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_cut_at_random_and_computes_what_the_masked_model_does(name, seed):
    """In eval and training mode, on another batch and other values, and so do the gradients of what is left."""
    model, inputs, sets = found(name)
    masks, tolerance = random_masks(model, sets, seed), 1e-6 if name in zoo.LANGUAGE else 1e-11
    small = shrink(model, masks, sets)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert count(sets, masks).parameters == sum(p.numel() for p in small.parameters())
    torch.manual_seed(seed)
    others = pytree.tree_map(
        lambda t: torch.cat([t, t.flip(1) if t.dtype == torch.int64 else torch.randn_like(t)]), inputs
    )
    for each in (inputs, others):
        masked = ml.apply({n: p.detach() for n, p in model.named_parameters()}, masks)
        with torch.no_grad():
            assert close(outputs(model, each, masked), outputs(small, each), tolerance)
    big, little = copy.deepcopy(model).train(), copy.deepcopy(small).train()
    params = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    expected, got = outputs(big, inputs, ml.apply(params, masks)), outputs(little, inputs)
    assert close(expected, got, tolerance)
    used = {n: p for n, p in little.named_parameters() if p.requires_grad}
    weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in expected]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(xs, weights)), list(ps), allow_unused=True)
        for xs, ps in ((expected, [params[n] for n in used]), (got, used.values()))
    ]
    for n, a, b in zip(used, *gradients):
        assert (a is None) == (b is None)
        if n.removesuffix(".weight") in sets.walk.folds and a is not None:  # w * sqrt(n / m) stands for w
            a = a * (b.numel() / a.numel()) ** 0.5
        assert a is None or close([kept(a, masks[n]) if n in masks else a], [b], 30 * tolerance), n


@pytest.mark.parametrize("name", NAMES)
def test_no_member_of_a_unit_speaks_alone(name):
    """An oracle that knows no graph: with the rest of its unit at zero, whatever a member holds changes nothing.

    Consumers may speak where a dead channel is not silent: there they hear a constant, so two of them are compared.
    """
    model, inputs, sets = found(name)
    for each in sets.sets:
        if any(d.name.removesuffix(".weight") in sets.walk.folds for d in each.dims):
            continue  # in the mean of a norm anything speaks: all of it has to be zero
        unit = each.units // 2
        dead = {n: p.detach().clone() for n, p in model.named_parameters()}
        for d in each.dims:
            dead[d.name].index_fill_(d.dim, d.places[unit], 0.0)
        silent = outputs(model, inputs, dead)
        for d in each.dims[:4]:
            alone = dict(dead)
            alone[d.name] = dead[d.name].index_fill(d.dim, d.places[unit], 3.0)
            consumes = not close(silent, outputs(model, inputs, alone))
            assert not consumes or d.dim == (0 if "c_proj" in d.name or "up.weight" in d.name else 1), (each, d)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(name):
    model, inputs, sets = found(name)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    config = copy.deepcopy(getattr(model, "config", None))
    shrink(model, random_masks(model, sets, 3), sets)
    structure(model, inputs)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert modes == [m.training for m in model.modules()]
    assert config is None or config.to_dict() == model.config.to_dict()


def test_the_groups_of_a_chain_are_coupled_channels():
    model, _, sets = found("mlp")
    chain = ml.coupled(
        {"0.weight": ml.channels(0), "0.bias": ml.channels(0), "2.weight": ml.channels(1)},
        {"2.weight": ml.channels(0), "2.bias": ml.channels(0), "4.weight": ml.channels(1)},
        p=2,
        mean=True,
    )
    scores = {n: p for n, p in model.named_parameters() if n in sets.names}
    expected = ml.compute_mask(scores, sparsity=0.3, groups=chain)
    masks = ml.compute_mask(scores, sparsity=0.3, groups=sets.groups(p=2, mean=True))
    assert all(torch.equal(masks[n], expected[n]) for n in expected)
    rounds = ml.fold(
        [lambda s, m, k=k: ml.compute_mask(s, m, sparsity=k, groups=sets.groups(p=2)) for k in (0.2, 0.5)], scores
    )
    assert int(rounds["0.bias"].sum() + rounds["2.bias"].sum()) == 10


def test_what_two_dims_of_a_tensor_share_counts_once():
    """The recurrent weight has a unit's rows, gate by gate, and its column."""
    model, _, sets = found("lstm")
    hidden = next(s for s in sets.sets if s.units == 8)
    ones = {n: torch.ones_like(p) for n, p in model.named_parameters() if n in sets.names}
    folding = sets.groups().sets({n: t.shape for n, t in ones.items()})[sets.sets.index(hidden)]["cells.weight_hh_l0"]
    matrix = folding.matrix(ones["cells.weight_hh_l0"])
    assert matrix.sum(1).tolist() == [4 * 8 + 32 - 4] * 8
    mask = folding.restore(torch.arange(8)[:, None].expand(8, folding.elements) != 3, (32, 8))
    assert not mask[:, 3].any()
    assert not mask[3::8].any()
    assert int(mask.sum()) == 28 * 7


def expected_llama(layer):
    a, m = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
    yield (
        2,
        {
            (a + "q_proj.weight", 0, 8),
            (a + "k_proj.weight", 0, 4),
            (a + "v_proj.weight", 0, 4),
            (a + "o_proj.weight", 1, 8),
        },
    )
    yield 24, {(m + "gate_proj.weight", 0, 1), (m + "up_proj.weight", 0, 1), (m + "down_proj.weight", 1, 1)}


def test_query_heads_go_with_the_keys_that_they_share():
    *_, sets = found("llama")
    got = [(s.units, {(d.name, d.dim, d.places.shape[1]) for d in s.dims}) for s in sets.sets]
    assert got[1:] == [*expected_llama(0), *expected_llama(1)]
    *_, sets = found("bert")
    assert "`layer_norm` in bert.encoder.layer.0.attention.output.LayerNorm takes the mean" in sets.explain(
        "bert.encoder.layer.0.output.dense.weight"
    )


def test_norms_by_the_root_mean_square_are_folded():
    model, _, sets = found("llama")
    width = sets.sets[0]
    assert {(d.name, d.dim) for d in width.dims} == {
        (n, d)
        for n, p in model.named_parameters()
        for d in range(p.dim())
        if p.shape[d] == 16 and not (d == 0 and "q_proj" in n) and not (d == 1 and "o_proj" in n)
    }
    masks = random_masks(model, sets.select(lambda s: s is width), 0, 0.5)
    small = shrink(model, masks, sets)
    assert torch.allclose(small.model.norm.weight, model.model.norm.weight[masks["model.norm.weight"]] * 2**0.5)
    assert small.model.norm.variance_epsilon == model.model.norm.variance_epsilon * 2
    assert (small.config.hidden_size, small.model.layers[0].mlp.hidden_size) == (8, 8)


def test_reasons_are_said():
    *_, sets = found("attentive")
    assert "nn.MultiheadAttention in mix demands" in sets.explain("mix.in_proj_weight")
    assert "the model returns it" in sets.explain("out.weight")
    assert len(sets.sets) == 1
    assert "12 units of wide.weight[0]" in repr(sets)


def test_what_layers_have_alike_is_printed_once_and_explained_in_full():
    *_, sets = found("llama")
    shown = repr(sets).splitlines()
    assert len(sets.sets) == 5
    assert len(shown) == 4
    assert shown[1].endswith(f", and {len(sets.sets[0].dims) - 8} more")
    assert shown[2].startswith("  2 units of model.layers.0.self_attn.q_proj.weight[0] x 8")
    assert shown[2].endswith("(2 like this)")
    assert sets.explain().count("self_attn.o_proj.weight[1]") == 2
    assert all(repr(d) in sets.explain() for s in sets.sets for d in s.dims)


def test_other_dead_entries_become_zeros_and_ties_stay():
    model, _inputs, sets = found("llama")
    masks = random_masks(model, sets, 0)
    masks["model.embed_tokens.weight"] = torch.rand(32, 16) > 0.5
    small = shrink(model, masks, sets)
    assert small.lm_head.weight is small.model.embed_tokens.weight
    assert torch.equal(small.lm_head.weight == 0, ~masks["model.embed_tokens.weight"])
    assert small.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()


def test_a_smaller_model_can_be_cut_again():
    model, inputs, sets = found("resnet")
    once = shrink(model, random_masks(model, sets, 0), sets)
    again = structure(once, inputs)
    twice = shrink(once, random_masks(once, again, 0), again)
    assert [str(s).split(" of ")[1] for s in again.sets] == [str(s).split(" of ")[1] for s in sets.sets]
    assert twice[0].out_channels < once[0].out_channels < model[0].out_channels


def test_layers_say_their_new_sizes():
    model, _, sets = found("mobilenet")
    small = shrink(model, random_masks(model, sets, 0), sets)
    depthwise = small[1].body[3]
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == depthwise.weight.shape[0] == 7
    assert small[1].body[4].num_features == 7
    assert small[6].in_features == small[6].weight.shape[1]
    model, _inputs, sets = found("lstm")
    small = shrink(model, random_masks(model, sets, 0), sets)
    assert (small.cells.hidden_size, small.cells.input_size, small.embed.embedding_dim) == (5, 4, 4)


@pytest.mark.filterwarnings("error:the config of")
def test_keys_that_only_happen_to_hold_such_a_number_stay():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=32, max_position_embeddings=24, eos_token_id=16)
    model, inputs = transformers.LlamaForCausalLM(config).eval(), {"input_ids": torch.randint(32, (2, 6))}
    sets = structure(model, inputs)
    small = shrink(model, random_masks(model, sets, 0), sets)
    assert (small.config.hidden_size, small.config.intermediate_size, small.config.num_attention_heads) == (10, 14, 1)
    assert (small.config.max_position_embeddings, small.config.eos_token_id) == (24, 16)


@pytest.mark.filterwarnings("default:the config of")
def test_a_config_that_cannot_hold_the_sizes_is_said():
    model, _, sets = found("gpt2")
    with pytest.warns(UserWarning, match="cannot hold these sizes"):
        shrink(model, random_masks(model, sets, 0), sets)
    wide, _, widths = found("gemma3")
    with pytest.warns(UserWarning, match="scalar_embed_scale"):
        shrink(wide, random_masks(wide, widths, 0), widths)
    neurons = sets.select(lambda s: s.units == 24)
    assert shrink(model, random_masks(model, neurons, 0), neurons).config.n_inner == 14


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("lstm", "gru")])
def test_multiplications_are_those_that_run(name, monkeypatch):
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)  # one operator for a layer, not counted
    model, inputs, sets = found(name)
    masks = random_masks(model, sets, 0)
    for each, kept in ((model, None), (shrink(model, masks, sets), masks)):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs(each, inputs)
        assert counter.get_total_flops() == 2 * count(sets, kept).macs


@pytest.mark.parametrize("name", ["unet", "lstm", "packed"])
def test_budgets_are_met_as_by_trying_each_number_of_units(name):
    model, _, sets = found(name)
    scores, groups = {n: model.get_parameter(n).detach() for n in sets.names}, sets.groups(p=2, mean=True)
    numbers = range(len(sets.sets), sum(s.units for s in sets.sets) + 1)
    masks = [ml.compute_mask(scores, keep=keep, groups=groups, least=1) for keep in numbers]
    for which in ("parameters", "macs"):
        sizes = [getattr(count(sets, each), which) for each in masks]
        for budget in (sizes[0], sizes[0] + 1, sum(sizes) // len(sizes), sizes[-1] - 1, sizes[-1], 10**9):
            best = max(i for i, size in enumerate(sizes) if size <= budget)
            got = within(sets, scores, **{which: budget})
            assert all(torch.equal(got[n], masks[best][n]) for n in got)


def test_a_budget_is_met_and_no_unit_more_has_room_in_it():
    model, _, sets = found("mobilenet")
    scores = {n: p.detach() for n, p in model.named_parameters() if n in sets.names}
    for which in ("parameters", "macs"):
        budget = getattr(count(sets), which) * 6 // 10
        masks = within(sets, scores, **{which: budget})
        kept = sum(int(masks[s.dims[0].name].movedim(s.dims[0].dim, 0).flatten(1).any(1).sum()) for s in sets.sets)
        more = ml.compute_mask(scores, keep=kept + 1, groups=sets.groups(p=2, mean=True), least=1)
        assert getattr(count(sets, masks), which) <= budget < getattr(count(sets, more), which)
    with pytest.raises(ValueError, match="exactly one of"):
        within(sets, scores)
    with pytest.raises(ValueError, match="must leave room"):
        within(sets, scores, parameters=10)
    with pytest.raises(TypeError, match="macs"):
        within(sets, scores, macs=0.5)


def test_wrong_calls_say_what_to_do():
    model, inputs, sets = found("mlp")
    masks, ones = random_masks(model, sets, 0), {n: torch.ones(s, dtype=torch.bool) for n, s in sets.shapes.items()}
    with pytest.raises(TypeError, match="For one tensor x, pass"):
        structure(model, torch.randn(2, 5))
    with pytest.raises(TypeError, match="`model` must be a module"):
        structure("model", inputs)
    with pytest.raises(ValueError, match="cannot be captured"):
        structure(model, (torch.randn(2, 7),))
    with pytest.raises(ValueError, match="kill no unit"):
        shrink(model, ones, sets)
    with pytest.raises(ValueError, match="least=1"):
        shrink(model, {n: ~m for n, m in ones.items()}, sets)
    with pytest.raises(ValueError, match="another model"):
        shrink(nn.Linear(5, 3), {}, sets)
    with pytest.raises(TypeError, match="`structure` must be"):
        shrink(model, masks, None)
    with pytest.raises(TypeError, match="bool"):
        shrink(model, {"0.bias": torch.ones(12)}, sets)
    with pytest.raises(ValueError, match="exactly the names of the structure"):
        ml.compute_mask({"0.bias": torch.ones(12)}, amount=1, groups=sets.groups())
    with pytest.raises(TypeError, match="must be a mapping"):
        ml.compute_mask(torch.ones(12), amount=1, groups=sets.groups())
    with pytest.raises(ValueError, match="no dim that can be cut"):
        structure(nn.Linear(2, 2), (torch.ones(1, 2),)).groups()
    with pytest.raises(ValueError, match="`name` must be one of"):
        sets.explain("weight")
