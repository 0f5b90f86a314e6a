"""Reports: counted as a slow oracle counts, the same of a model, its masks and its file; and what a person is told."""

from __future__ import annotations

import copy
from functools import partial
from io import StringIO
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from wrong import told

import masklib as ml
from masklib import updates
from masklib.adapters import parametrize, prune
from masklib.adapters.files import open_checkpoint, save_masks, sparse_size
from masklib.adapters.files._streams import streams
from masklib.adapters.report import Report, _layer, diff, report
from masklib.adapters.report._reporting import measure
from masklib.adapters.structural import idle, shrink, structure
from masklib.adapters.training import attach


def net(seed=0):
    torch.manual_seed(seed)
    convs = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.Flatten()
    return nn.Sequential(*convs, nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3))


X = torch.ones(2, 1, 8, 8)

# ---- counting -------------------------------------------------------------------------------------------------------


def oracle(mask):
    """Kept, dead slices of the first two dims, and the strictest pattern, one entry after another."""
    kept, lines = 0, [set(), set()]
    for index in product(*map(range, mask.shape)):
        if mask[index]:
            kept += 1
            for dim, found in zip(index, lines):
                found.add(dim)
    dead = tuple((side - len(found)) * bool(mask.numel()) for side, found in zip(mask.shape, lines))
    dead = dead if mask.dim() > 1 else ()
    return kept, dead, next((f"{n}:{m}" for n, m in ((1, 4), (2, 4), (4, 8)) if fits(mask, n, m)), "")


def fits(mask, n, m):
    if mask.dim() < 2 or mask.shape[-1] % m or mask.all():
        return False
    return all(
        sum(window) <= n for row in mask.reshape(-1, mask.shape[-1]).tolist() for window in zip(*[iter(row)] * m)
    )


@given(st.lists(st.integers(0, 9), max_size=4), st.floats(0, 1), st.integers(0, 5), st.sampled_from([1, 7, 2**18]))
def test_a_layer_is_counted_as_the_oracle_counts(shape, share, seed, chunk):
    shape = [*shape[:-1], 8 * (shape[-1] % 3)] if len(shape) > 1 else shape
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_layer, "CHUNK", chunk)
        layers = [_layer.measured(t) for t in (mask, mask.float(), -mask.half(), mask.float().to(torch.float8_e5m2))]
    kept, dead, pattern = oracle(mask)
    assert {(x.kept, x.dead_channels, x.pattern if mask.numel() else "") for x in layers} == {(kept, dead, pattern)}
    assert all(x.shape == tuple(shape) and x.size == mask.numel() for x in layers)


@given(st.sampled_from(["1:4", "2:4", "4:8"]), st.integers(0, 9))
def test_what_n_of_m_makes_conforms(pattern, seed):
    n, m = map(int, pattern.split(":"))
    scores = torch.rand(6, 16, generator=torch.Generator().manual_seed(seed))
    assert _layer.measured(ml.n_of_m(scores, keep=n, of=m)).pattern == pattern


def test_bytes_are_those_of_sparse_size_and_of_compressed_rows():
    masks = {"a": torch.rand(13, 24) < 0.3, "b": torch.ones(4, 4, dtype=torch.bool)}
    found = report(masks)
    assert abs(found.packed_bytes - sparse_size(masks)) < 8  # each layer's bits in whole bytes
    values, columns, rows = int(masks["a"].sum()), int(masks["a"].sum()), 13 + 1
    assert found.layers["a"].csr_bytes == 4 * (values + columns + rows)
    assert found.dense_bytes == 4 * (13 * 24 + 16)


@pytest.mark.parametrize("model", [net(), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)], ids=["conv", "t"])
def test_operations_are_those_that_torch_counts(model):
    inputs = (X,) if isinstance(model, nn.Sequential) else (torch.ones(2, 5, 8),)
    with FlopCounterMode(display=False) as counter:
        model.train()(*inputs)
    attention = 0 if isinstance(model, nn.Sequential) else 2 * 2 * 2 * 2 * 5 * 5 * 4  # two products of 5 x 5 x 4, twice
    assert report(model, inputs=inputs).flops == counter.get_total_flops() - attention
    assert model.training


def test_heads_are_counted_where_they_are():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    mask = ml.compute_mask(torch.arange(24.0)[:, None].expand(24, 8), keep=1, groups=ml.heads(2, parts=(1, 1, 1)))
    found = report(layer, masks={"self_attn.in_proj_weight": mask})
    assert found.layers["self_attn.in_proj_weight"].heads == (1, 2)
    assert found.layers["self_attn.out_proj.weight"].heads == (0, 2)
    assert found.layers["linear1.weight"].heads is None
    assert report({"q": mask}, heads={"q": ml.heads(3)}).layers["q"].heads == (0, 3)


def test_heads_of_transformers_models_are_found():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    found = report(transformers.LlamaForCausalLM(config)).layers
    heads = {n.split(".")[-2]: x.heads[1] for n, x in found.items() if x.heads}
    assert heads == {"q_proj": 4, "k_proj": 2, "v_proj": 2, "o_proj": 4}


# ---- one answer wherever it is -------------------------------------------------------------------------------------


def counts(found):
    return {name: (layer.kept, layer.dead_channels, layer.pattern) for name, layer in found.layers.items()}


def test_a_model_its_masks_its_zeros_and_its_files_are_reported_alike(tmp_path):
    step = partial(ml.l1_unstructured, sparsity=0.7)
    dropped, masked, trained = net(), net(), net()
    prune.global_unstructured(dropped, prune.L1Unstructured, amount=0.7)
    parametrize.prune(masked, step)
    pruning = attach(
        torch.optim.SGD(trained.parameters(), lr=0.1), trained, updates.static(ml.l1_unstructured, sparsity=0.7)
    )
    masks, zeros = prune.masks(dropped), prune.bake(dropped)
    weights = {name: zeros.get_parameter(name).detach() for name in masks}
    save_file(weights, tmp_path / "w.safetensors")
    save_masks(tmp_path / "m.safetensors", masks)
    same = [
        report(x)
        for x in (dropped, masked, pruning, masks, zeros, weights, open_checkpoint(tmp_path / "w.safetensors"))
    ]
    for file in ("w", "m"):
        with streams(tmp_path / f"{file}.safetensors") as (named, _):
            same.append(Report(measure(named)))
    assert all(counts(found) == counts(same[0]) for found in same)
    assert {found.others for found in same[:3]} == {sum(p.numel() for n, p in zeros.named_parameters() if "bias" in n)}
    assert {found.dense_bytes for found in same[:3]} == {sum(p.nbytes for p in zeros.parameters())}
    assert all(set(found.left_out) == {n for n, _ in zeros.named_parameters() if "bias" in n} for found in same[:3])


def test_a_report_leaves_the_model_as_it_is():
    model = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    report(model.train(), inputs=(torch.ones(1, 4),))
    assert model.training
    assert not model._forward_hooks
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


# ---- what a person is told -----------------------------------------------------------------------------------------


def notes(found):
    return " ".join(found.notes)


def test_a_layer_that_is_cut_through_is_told():
    masks = {"a": torch.zeros(2, 2, dtype=torch.bool), "b": torch.eye(2).bool(), "bias": torch.zeros(2).bool()}
    assert report(masks).notes == (
        "'a': no entry lives, so that nothing of the input passes. Keep some, by `least=1`, or by a sparsity for each "
        "layer.",
    )
    assert report({"b": masks["b"]}).notes == ()


def test_a_mask_that_no_longer_holds_is_told():
    model = net()
    masks = {"4.weight": ml.l1_unstructured(model[4].weight.detach(), amount=5)}
    assert "5 entries are masked and not zero" in notes(report(model, masks=masks))
    with torch.no_grad():
        model[4].weight[~masks["4.weight"]] = 0
    assert not report(model, masks=masks).notes
    pruning = attach(
        torch.optim.SGD(model.parameters(), lr=0.1), model, updates.static(ml.l1_unstructured, sparsity=0.5)
    )
    assert not report(pruning).notes
    with torch.no_grad():
        model[4].weight.add_(1)
    assert "the mask no longer holds" in notes(report(pruning))
    pruning.impose(model)
    assert not report(pruning).notes


def test_a_shadowed_weight_is_told():
    layer = prune.l1_unstructured(nn.Linear(4, 3), "weight", 5)
    layer.__dict__["weight"] = torch.ones(3, 4)
    assert "'weight': 5 entries are masked and not zero" in notes(report(layer))


@pytest.mark.parametrize("host", ["drop-in", "parametrize"])
def test_values_that_will_be_lost_are_told(host):
    layer = nn.Linear(4, 3)
    if host == "drop-in":
        prune.l1_unstructured(layer, "weight", 5)
    else:
        parametrize.prune(layer, partial(ml.l1_unstructured, amount=5))
    assert "'weight': 5 dead entries still have a value behind the mask. `undo` brings them back" in notes(
        report(layer)
    )
    (prune if host == "drop-in" else parametrize).remove(*([layer, "weight"] if host == "drop-in" else [layer]))
    assert not report(layer).notes


def test_frozen_values_of_a_training_are_not_taken_for_a_fault():
    model = net()
    update = updates.straight_through(method=ml.l1_unstructured, sparsity=0.5)
    pruning = attach(torch.optim.SGD(model.parameters(), lr=0.1), model, update)
    assert not [note for note in report(pruning).notes if "no longer" in note]


# ---- how it looks --------------------------------------------------------------------------------------------------


def shown(value):
    out = StringIO()
    Console(file=out, width=200).print(value)
    return out.getvalue()


def test_plain_text_and_rich_say_the_same():
    model = net()
    before = report(model, inputs=(X,))
    prune.global_unstructured(model, prune.L1Unstructured, amount=0.5)
    after = report(model, inputs=(X,))
    for value in (after, diff(before, after)):
        rich, plain = (set(text.split()) - {"─"} for text in (shown(value), str(value)))
        assert plain <= rich | {"─"}
    assert "FLOPs" in str(after)
    assert f"{after.dead:,}" in str(after)


def test_a_difference_counts_what_died_and_names_what_is_gone():
    a = report({"w": torch.ones(4, 4).bool(), "old": torch.ones(2).bool(), "s": torch.ones(2).bool()})
    b = report({"w": torch.eye(4).bool(), "new": torch.ones(2).bool(), "s": torch.ones(2).bool()})
    found = diff(a, b)
    assert (found.died, found.gone, found.new) == ({"w": 12, "s": 0}, ["old"], ["new"])
    assert "1 layers are as they were" in str(found)
    assert "+12" in str(found)


# ---- bad calls -----------------------------------------------------------------------------------------------------

W = {"w": torch.ones(2, 2)}
BAD = [
    (
        TypeError,
        "`pruned` must be a module, a pruning of `attach`, or tensors by name, got str",
        lambda: report("a.pt"),
    ),
    (TypeError, "got Tensor", lambda: report(torch.ones(2))),
    (TypeError, "`masks` goes with a module, got dict", lambda: report(W, masks=W)),
    (TypeError, "`inputs` goes with a module", lambda: report(W, inputs=(X,))),
    (TypeError, "`inputs` must be a tuple of positional arguments, got Tensor", lambda: report(net(), inputs=X)),
    (ValueError, "`inputs` must be the positional arguments of a call", lambda: report(net(), inputs=(X, X))),
    (TypeError, "`pruned` of 'w' must be a torch.Tensor", lambda: report({"w": 3})),
    (TypeError, "must be keyed by names", lambda: report({3: W["w"]})),
    (ValueError, "has no values yet: it is on the meta device", lambda: report(nn.Linear(2, 2, device="meta"))),
    (ValueError, "`masks` has names that `pruned` lacks: ['x']", lambda: report(nn.Linear(2, 2), masks={"x": W["w"]})),
    (TypeError, "must be bool", lambda: report(nn.Linear(2, 2), masks={"weight": W["w"]})),
    (ValueError, "must have the shape", lambda: report(nn.Linear(2, 3), masks={"weight": W["w"] > 0})),
    (TypeError, "`heads` must map names to groups, got int", lambda: report(W, heads=3)),
    (ValueError, "`heads` has names that `pruned` lacks", lambda: report(W, heads={"q": ml.heads(2)})),
    (TypeError, "`before` must be a Report, got int", lambda: diff(3, 4)),
    (TypeError, "`groups` must fold single tensors", lambda: ml.alive(W["w"] > 0, groups=ml.labels(W["w"].long()))),
    (TypeError, "must be bool", lambda: ml.alive(W["w"], groups=ml.channels())),
]


@pytest.mark.parametrize(("kind", "message", "call"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_calls_are_told(kind, message, call):
    with pytest.raises(kind) as told:
        call()
    assert message in str(told.value)


def test_a_dtensor_is_refused(tmp_path):
    tensor = pytest.importorskip("torch.distributed.tensor")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        with pytest.raises(TypeError, match=r"must be a whole tensor, got a DTensor. Pass .full_tensor\(\)"):
            report({"w": tensor.distribute_tensor(torch.ones(2, 2), mesh)})
    finally:
        torch.distributed.destroy_process_group()


UNITS = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
ARGUMENTS = {
    "structure": (partial(report, UNITS), {"structure": structure(UNITS, (torch.ones(1, 3),))}),
    "report": (report, {"pruned": nn.Linear(2, 2), "inputs": (torch.ones(1, 2),), "heads": {"weight": ml.heads(2)}}),
    "masks": (partial(report, nn.Linear(2, 2)), {"masks": {"weight": torch.eye(2).bool()}}),
    "diff": (diff, {"before": report(W), "after": report(W)}),
}


@pytest.mark.filterwarnings("ignore")  # of tensors that hold something odd
@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_things_are_told_in_our_words(name):
    function, arguments = ARGUMENTS[name]
    assert told(function, lambda: dict(arguments)) == ""


# ---- units ----------------------------------------------------------------------------------------------------------


def test_units_that_do_not_meet_are_counted():
    """Half of the neurons have no way out, none is dead in both layers."""
    model = copy.deepcopy(UNITS)
    found = structure(model, (torch.ones(1, 3),))
    mask = torch.tensor([[True, True, False, False]] * 2)
    shown = report(model, masks={"2.weight": mask}, structure=found).notes[-1]
    assert shown.startswith("2 units are idle, dead ones aside: shrink(")
    small = shrink(model, idle(model, {"2.weight": mask}, found).masks, found)
    assert shown.endswith(f"would leave {sum(p.numel() for p in small.parameters())} of 26 parameters.")
    with torch.no_grad():
        model[2].weight.mul_(mask)
    assert report(model, structure=found).notes == (shown,)
    assert report(net(), structure=structure(net(), (X,))).notes == ()


def test_a_structure_goes_with_a_plain_module():
    model = copy.deepcopy(UNITS)
    found = structure(model, (torch.ones(1, 3),))
    with pytest.raises(TypeError, match="`structure` goes with a module"):
        report({"w": torch.ones(2)}, structure=found)
    prune.l1_unstructured(model[0], "weight", amount=2)
    with pytest.raises(ValueError, match=r"'0\.weight' is computed in this module"):
        report(model, structure=found)
