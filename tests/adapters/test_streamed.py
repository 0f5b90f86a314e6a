"""A checkpoint pruned a block at a time: to the bit what the model in memory becomes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from stored_models import MODELS, accelerate, bits, empty, in_memory, kind_of, saved, transformers

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.files import load_masks

RULES = {"wanda": oneshot.wanda(), "admm": oneshot.admm()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "4KB"}], ids=["one file", "shards"])
def test_streamed_is_in_memory(name, shards, tmp_path):
    source, target, reference = (tmp_path / n for n in ("source", "target", "reference"))
    batches = saved(name, source, **shards)
    (source / "tokenizer.json").write_text("{}")
    model = in_memory(source, kind_of(name))
    call = {"batches": batches, "rule": oneshot.admm(), "sparsity": 0.5, "strict": False}  # an expert may see no token
    expected = oneshot.prune(model, **call)
    model.save_pretrained(reference, **shards)
    skeleton = empty(source, kind_of(name))
    found = oneshot.prune_checkpoint(source, target, skeleton, **call, mask_file=tmp_path / "masks")
    before, after, wanted = bits(source), bits(target), bits(reference)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[n], wanted[n]) for n in wanted)
    assert {p.name for p in target.iterdir()} == {p.name for p in source.iterdir()}
    assert all(
        torch.equal(a, b)
        for a, b in zip(in_memory(target, kind_of(name)).state_dict().values(), model.state_dict().values())
    )
    masks = load_masks(tmp_path / "masks").masks
    assert masks.keys() == expected.masks.keys()
    assert all(torch.equal(masks[n], m) for n, m in expected.masks.items())
    assert (found.layers, found.left_out, found.masks) == (expected.layers, expected.left_out, {})
    assert all(p.is_meta for p in skeleton.parameters())
    assert {p.name for p in tmp_path.iterdir()} == {"source", "target", "reference", "masks"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype, tmp_path):
    batches = saved("llama", tmp_path / "source", dtype)
    model = in_memory(tmp_path / "source")
    oneshot.prune(model, batches, oneshot.wanda(), sparsity=0.5)
    oneshot.prune_checkpoint(
        tmp_path / "source", tmp_path / "target", empty(tmp_path / "source"), batches, oneshot.wanda(), sparsity=0.5
    )
    after = load_file(tmp_path / "target" / "model.safetensors")
    assert all(t.dtype == dtype and torch.equal(t, model.state_dict()[n]) for n, t in after.items())


def test_one_block_at_a_time_has_values(tmp_path):
    batches = saved("qwen3", tmp_path / "source")
    model, seen = empty(tmp_path / "source"), set()

    def add(state, inputs):
        seen.add(tuple(sorted({n.split(".")[2] for n, p in model.named_parameters() if not p.is_meta})))
        assert model.get_parameter("lm_head.weight").is_meta
        return ml.scores.add_input_norms(state, inputs)

    rule = oneshot.Rule(add, oneshot.wanda().solve)
    oneshot.prune_checkpoint(tmp_path / "source", tmp_path / "target", model, batches, rule, sparsity=0.5)
    assert seen == {("0",), ("1",)}


def test_names_without_the_prefix_of_transformers(tmp_path):
    """As those of the GPT-2 that everybody has."""
    batches = saved("gpt2", tmp_path / "source")
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(tmp_path / "source/model.safetensors").items()}
    save_file({**tensors, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, tmp_path / "source/model.safetensors")
    model = in_memory(tmp_path / "source")
    oneshot.prune(model, batches, oneshot.ria(), sparsity=0.5)
    oneshot.prune_checkpoint(
        tmp_path / "source", tmp_path / "target", empty(tmp_path / "source"), batches, oneshot.ria(), sparsity=0.5
    )
    after = load_file(tmp_path / "target" / "model.safetensors")
    assert all(torch.equal(after[n], model.transformer.state_dict()[n]) for n in tensors if n != "lm_head.weight")
    assert torch.equal(after["h.0.attn.bias"], torch.ones(1, 1, 4, 4))


def test_a_plain_model_and_one_file(tmp_path):
    """No transformers at all; a norm with running sums is read from the file."""
    torch.manual_seed(0)

    def build():
        return torch.nn.Sequential(
            *[torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)) for _ in "abc"]
        )

    model, batches = build(), [torch.randn(16, 8), torch.randn(5, 8)]
    model(batches[0])
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with accelerate.init_empty_weights():
        skeleton = build()
    expected = oneshot.prune(model, batches, oneshot.sparsegpt(), sparsity=0.5)
    oneshot.prune_checkpoint(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", skeleton, batches, oneshot.sparsegpt(), sparsity=0.5
    )
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in load_file(tmp_path / "b.safetensors").items())
    assert len(expected.masks) == 3


class Pair(torch.nn.Linear):
    """Returns more than its state, which is of this batch alone, in a tuple of its own."""

    def forward(self, x, extra=None):
        return super().forward(x), (extra if extra is not None else x.sum(-1, keepdim=True),)


class Handing(torch.nn.Module):
    """Hands on what the first block returns beside its state, as T5 does with its biases."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Pair(4, 4) for _ in range(3)])

    def forward(self, x):
        extra = None
        for block in self.blocks:
            x, (extra,) = block(x, extra)
        return x


def test_what_the_first_block_returns_beside_its_state_is_of_each_batch():
    model, batches, seen = Handing(), [torch.randn(3, 4), torch.randn(3, 4)], []
    model.blocks[1].register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    oneshot.prune(model, batches, oneshot.wanda(), keep=2)
    wanted = [b.sum(-1, keepdim=True) for b in batches]
    assert all(torch.equal(a, b) for a, b in zip(seen[-2:], wanted))


def test_states_on_disk_are_the_states(tmp_path):
    """In memory, with and without a folder of work: the same bits."""
    model, first = MODELS["llama"]()
    torch.manual_seed(1)
    twin = transformers.LlamaForCausalLM(model.config)
    twin.load_state_dict(model.state_dict())
    oneshot.prune(model, [first], oneshot.admm(), sparsity=0.5)
    oneshot.prune(twin, [first], oneshot.admm(), sparsity=0.5, work=tmp_path / "work", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma3"])
def test_the_block_at_hand_on_a_gpu(name, tmp_path):
    """The rest stays on the CPU, the masks too; sums round otherwise there."""
    batches = saved(name, tmp_path / "source")
    model, twin = in_memory(tmp_path / "source"), in_memory(tmp_path / "source")
    here = oneshot.prune(model, batches, oneshot.wanda(), sparsity=0.5)
    there = oneshot.prune(twin, batches, oneshot.wanda(), sparsity=0.5, device="cuda")
    assert all(t.device.type == "cpu" for t in [*twin.state_dict().values(), *there.masks.values()])
    assert sum(int((here.masks[n] != m).sum()) for n, m in there.masks.items()) < 0.02 * sum(
        m.numel() for m in there.masks.values()
    )
    oneshot.prune_checkpoint(
        tmp_path / "source",
        tmp_path / "t",
        empty(tmp_path / "source"),
        batches,
        oneshot.wanda(),
        sparsity=0.5,
        device="cuda",
    )
    streamed = in_memory(tmp_path / "t").state_dict()
    assert all(torch.equal(t, twin.state_dict()[n]) for n, t in streamed.items())
