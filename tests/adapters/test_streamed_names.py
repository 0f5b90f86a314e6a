"""Checkpoints with other names and shapes than the model: read and written as transformers does, to the bit."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from stored_models import accelerate, bits, empty, in_memory, transformers

import masklib as ml
from masklib.adapters import files, oneshot
from masklib.adapters.files import load_masks, open_checkpoint

core = pytest.importorskip("transformers.core_model_loading")

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
LLAMA = SIZES | {"num_key_value_heads": 2, "head_dim": 4}
EXPERTS = LLAMA | {"num_experts_per_tok": 2, "moe_intermediate_size": 12}
FAMILIES = {
    "Mixtral": LLAMA | {"num_local_experts": 4},
    "Qwen2Moe": EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 12},
    "Qwen3Moe": EXPERTS | {"num_experts": 4},
    "GPTNeoX": SIZES,
}
OTHERS = {
    "DeepseekV3": EXPERTS  # routers in float32, a dense block first, one expert that all tokens see
    | {"head_dim": 4, "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1}
    | {"topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8}
    | {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4},
    "LaraMini": EXPERTS  # four projections that are one in the checkpoint
    | {"num_experts": 4, "shared_expert_intermediate_size": 12, "head_dim": 8, "linear_num_value_heads": 2}
    | {"linear_num_key_heads": 2, "linear_key_head_dim": 4, "linear_value_head_dim": 4},
    "GraniteMoe": LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
}
RULES = {
    "magnitude": (oneshot.magnitude(), {"sparsity": 0.5}),
    "wanda": (oneshot.wanda(), {"sparsity": 0.5}),
    "ria": (oneshot.ria(), {"sparsity": 0.6}),
    "sparsegpt": (oneshot.sparsegpt(), {"sparsity": 0.5}),
    "admm": (oneshot.admm(), {"sparsity": 0.5}),
    "admm 2:4": (oneshot.admm(groups=ml.windows(4)), {"keep": 2}),
}
STORED = {"one file": {}, "shards": {"max_shard_size": "6KB"}}


def saved(name, folder, dtype=torch.float32, **options):
    """A folder as people have theirs, and batches."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(FAMILIES | OTHERS)[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model.to(dtype).save_pretrained(folder / "all in one dtype")
    model = in_memory(folder / "all in one dtype")
    for p in model.parameters():  # what transformers keeps in float32 has more digits than the others
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 and p.dtype == torch.float32 else None
    model.save_pretrained(folder, **options)
    shutil.rmtree(folder / "all in one dtype")
    return [{"input_ids": torch.randint(2, 32, (2, 8))} for _ in range(3)]


def pruned(name, folder, dtype=torch.float32, options=None, rule="admm", **more):
    """A folder pruned in memory and streamed: the masks and the report."""
    batches = saved(name, folder / "source", dtype, **(options or {}))
    call = {"batches": batches, "rule": RULES[rule][0], "strict": False} | RULES[rule][1] | more
    model = in_memory(folder / "source")
    expected = oneshot.prune(model, **call)
    model.save_pretrained(folder / "reference", **(options or {}))
    written = {"mask_file": folder / "masks", "checkpoint_mask_file": folder / "packed"}
    found = oneshot.prune_checkpoint(folder / "source", folder / "target", empty(folder / "source"), **call, **written)
    return expected, found


def is_equal(folder):
    before, after, wanted = (bits(folder / name) for name in ("source", "target", "reference"))
    assert before.keys() == after.keys() == wanted.keys()
    assert all(torch.equal(after[n], t) for n, t in wanted.items())
    return sum(not torch.equal(after[n], t) for n, t in before.items())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stored", STORED)
def test_streamed_is_what_is_saved_from_memory(name, rule, stored, tmp_path):
    expected, found = pruned(name, tmp_path, options=STORED[stored], rule=rule)
    assert is_equal(tmp_path) >= len(expected.masks)
    assert (found.layers, found.left_out) == (expected.layers, expected.left_out)


def test_a_part_of_what_is_one_tensor_in_the_checkpoint_is_pruned(tmp_path):
    """The other parts of it are as they were, and whole in the masks."""
    name = "model.layers.0.linear_attn.in_proj_z.weight"
    expected, _ = pruned("LaraMini", tmp_path, rule="wanda", names=[name])
    assert is_equal(tmp_path) == 1
    (packed,) = load_masks(tmp_path / "packed").masks.items()
    assert packed[0] == "model.layers.0.linear_attn.in_proj.weight"
    assert (~packed[1]).sum() == (~expected.masks[name]).sum() > 0


def test_packed_experts_of_a_checkpoint_stay_packed(tmp_path):
    pruned("Mixtral", tmp_path, options={"save_original_format": False})
    assert is_equal(tmp_path) == 12
    assert "model.layers.0.mlp.experts.gate_up_proj" in bits(tmp_path / "target")


@pytest.mark.parametrize("name", FAMILIES | OTHERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_families_in_both_dtypes(name, dtype, tmp_path):
    expected, _ = pruned(name, tmp_path, dtype, STORED["shards"], "wanda")
    assert is_equal(tmp_path)
    masks = load_masks(tmp_path / "masks").masks
    assert masks.keys() == expected.masks.keys()
    assert all(torch.equal(masks[n], m) for n, m in expected.masks.items())


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES | OTHERS)
def test_masks_by_the_names_of_the_checkpoint_are_what_is_kept_of_it(name, tmp_path):
    """`files.prune_checkpoint` takes them, and gives what the walk wrote, whose rule moves no weights."""
    pruned(name, tmp_path, rule="wanda")
    packed, source, target = (tmp_path / n for n in ("packed", "source", "target"))
    alive = load_masks(packed).masks
    files.prune_checkpoint(source, tmp_path / "again", kept, masks=packed, names=list(alive))
    assert all(torch.equal(t, bits(target)[n]) for n, t in bits(tmp_path / "again").items())
    model, masks = empty(source), load_masks(tmp_path / "masks").masks
    there, back = oneshot.to_checkpoint(masks, model, source), oneshot.to_model(alive, model, source)
    for found, wanted in ((there, alive), (back, masks)):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(m, wanted[n]) for n, m in found.items())


def kept(scores, default_mask):
    return default_mask


def test_files_of_masks_say_whose_names_they_have(tmp_path):
    pruned("Mixtral", tmp_path)
    histories = [load_masks(tmp_path / n).history for n in ("masks", "packed")]
    assert histories == [({"method": "admm", "with": {"sparsity": 0.5, "names": n}},) for n in ("model", "checkpoint")]


def test_masks_of_some_experts_leave_the_others_whole(tmp_path):
    batches = saved("Mixtral", tmp_path / "source")
    model, name = in_memory(tmp_path / "source"), "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    mask = torch.rand(24, 16) > 0.5
    masks = oneshot.to_model({name: mask}, model, tmp_path / "source")
    (target,) = masks
    assert target == "model.layers.0.mlp.experts.gate_up_proj"
    assert torch.equal(masks[target][2, 24:], mask)
    assert (~masks[target]).sum() == (~mask).sum()
    oneshot.prune(model, batches, oneshot.wanda(), amount=0, default_masks=masks, strict=False)
    assert torch.equal(model.get_parameter(target)[2, 24:] != 0, mask)


@pytest.mark.parametrize(
    ("convert", "masks", "words"),
    [
        (oneshot.to_model, {"x": torch.ones(1, dtype=torch.bool)}, "lacks"),
        (oneshot.to_checkpoint, {"x": torch.ones(1, dtype=torch.bool)}, "lacks"),
        (oneshot.to_checkpoint, {"model.norm.weight": torch.ones(3, dtype=torch.bool)}, "shape"),
        (oneshot.to_model, {"model.norm.weight": torch.ones(3, dtype=torch.bool)}, "shape"),
    ],
)
def test_masks_of_another_model_are_refused(convert, masks, words, tmp_path):
    saved("Mixtral", tmp_path)
    with pytest.raises(ValueError, match=words):
        convert(masks, empty(tmp_path), tmp_path)


# ---- a block at a time ----------------------------------------------------------------------------------------------


def test_one_block_at_a_time_has_values(tmp_path):
    batches = saved("Mixtral", tmp_path / "source")
    model, seen = empty(tmp_path / "source"), set()

    def add(state, inputs):
        seen.add(tuple(sorted({n.split(".")[2] for n, p in model.named_parameters() if not p.is_meta})))
        return ml.scores.add_input_norms(state, inputs)

    rule = oneshot.Rule(add, oneshot.wanda().solve)
    oneshot.prune_checkpoint(tmp_path / "source", tmp_path / "t", model, batches, rule, sparsity=0.5, strict=False)
    assert seen == {("0",), ("1",)}
    assert all(p.is_meta for p in model.parameters())


class Killed(BaseException):
    pass


def test_it_goes_on_after_the_last_finished_block(tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("Qwen3Moe", source)

    def begin(target, progress=None):
        call = {"sparsity": 0.5, "strict": False, "work": work, "progress": progress}
        oneshot.prune_checkpoint(source, tmp_path / target, empty(source), batches, oneshot.admm(), **call)

    def stopped(finished, blocks):
        raise Killed

    with pytest.raises(Killed):
        begin("target", stopped)
    assert not (tmp_path / "target").exists()
    assert open_checkpoint(work / "00000.safetensors").keys() < open_checkpoint(source).keys()
    begin("target")
    begin("whole")
    whole = bits(tmp_path / "whole")
    assert all(torch.equal(t, whole[n]) for n, t in bits(tmp_path / "target").items())
    assert {p.name for p in tmp_path.iterdir()} == {"source", "target", "whole"}


def test_names_without_the_prefix_of_transformers(tmp_path):
    """Experts of a checkpoint of the model without its head: written as they were."""
    batches, file = saved("Mixtral", tmp_path / "source"), tmp_path / "source/model.safetensors"
    tensors = {n.removeprefix("model."): t for n, t in load_file(file).items()}
    save_file({**tensors, "of.nobody": torch.ones(3)}, file)
    model = in_memory(tmp_path / "source")
    oneshot.prune(model, batches, oneshot.ria(), sparsity=0.5, strict=False)
    model.save_pretrained(tmp_path / "reference")
    oneshot.prune_checkpoint(
        tmp_path / "source", tmp_path / "t", empty(tmp_path / "source"), batches, oneshot.ria(), sparsity=0.5,
        strict=False,
    )  # fmt: skip
    after = load_file(tmp_path / "t/model.safetensors")
    wanted = load_file(tmp_path / "reference/model.safetensors")
    assert after.keys() == {*tensors, "of.nobody"}
    assert all(torch.equal(t, after[n.removeprefix("model.")]) for n, t in wanted.items())


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(folder, words, kind=ValueError):
    model, batches = empty(folder / "source"), [{"input_ids": torch.randint(2, 32, (2, 8))}]
    before = bits(folder / "source")
    with pytest.raises(kind, match=words):
        oneshot.prune_checkpoint(folder / "source", folder / "t", model, batches, oneshot.wanda(), keep=1)
    assert [p.name for p in folder.iterdir()] == ["source"]
    assert all(torch.equal(t, before[n]) for n, t in bits(folder / "source").items())


def rounded(convert, self, given, **more):
    return {n: t.round() if not t.is_meta else t for n, t in convert(self, given, **more).items()}


def failing(convert, self, given, **more):
    raise NotImplementedError("no way back")


def shorter(convert, self, given, **more):
    return {n: t[..., 1:] for n, t in convert(self, given, **more).items()}


@pytest.mark.parametrize(
    ("lossy", "words"),
    [
        (rounded, r"by MergeModulelist.* and back gives back other values of 'model.layers.0.block_sparse"),
        (failing, r"by MergeModulelist.* and back fails: NotImplementedError 'no way back'"),
        (shorter, r"by MergeModulelist.* and back gives back 'model.layers.0.block_sparse_moe.* as \("),
    ],
)
def test_a_conversion_that_cannot_be_undone_is_refused(lossy, words, tmp_path, monkeypatch):
    saved("Mixtral", tmp_path / "source")
    way = core.SplitModulelist.convert
    monkeypatch.setattr(core.SplitModulelist, "convert", lambda self, given, **more: lossy(way, self, given, **more))
    refused(tmp_path, words)


def test_another_loader_than_the_one_that_is_known_is_refused(tmp_path, monkeypatch):
    saved("Mixtral", tmp_path / "source")
    monkeypatch.delattr(core, "rename_source_key")
    refused(tmp_path, r"cannot be read a block at a time with transformers .*, whose loader is another one")


def test_converters_that_give_something_else_are_refused(tmp_path, monkeypatch):
    """As those of transformers 5.0."""
    saved("Mixtral", tmp_path / "source")
    convert = core.WeightConverter.convert
    monkeypatch.setattr(
        core.WeightConverter, "convert", lambda self, *given, **more: (convert(self, *given, **more), {})
    )
    refused(tmp_path, r"cannot be read a block at a time with transformers .*, whose loader is another one")


def test_quantized_weights_are_refused(tmp_path):
    saved("Mixtral", tmp_path / "source")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "source")
    config.quantization_config = {"quant_method": "fp8"}
    with accelerate.init_empty_weights():
        model = transformers.MixtralForCausalLM(config)
    with pytest.raises(ValueError, match=r"`model` must not be quantized, and the config of MixtralForCausalLM has"):
        oneshot.to_checkpoint({}, model, tmp_path / "source")


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    saved("GPTNeoX", tmp_path / "source")
    tensors = load_file(file := tmp_path / "source/model.safetensors")
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    save_file({**tensors, name.removeprefix("gpt_neox."): tensors[name] + 1}, file)
    refused(tmp_path, rf"each tensor once, and 'gpt_neox.layers.0.* and 'layers.0.* are both '{name}'")
