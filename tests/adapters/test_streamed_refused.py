"""Models and checkpoints that cannot be pruned a block at a time."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from stored_models import accelerate, empty, in_memory, saved, transformers

from masklib.adapters import oneshot


class Looped(torch.nn.Module):
    """Its blocks are run twice."""

    def __init__(self, blocks=2):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(blocks)])

    def forward(self, x):
        for block in [*self.blocks, *self.blocks]:
            x = block(x)
        return x


class Passing(Looped):
    """A block is called with what the block before it makes beside its state."""

    def forward(self, x):
        y = x
        for block in self.blocks:
            x, y = block(x, y.abs()), x
        return x


class Two(torch.nn.Linear):
    def forward(self, x, extra):
        return super().forward(x + extra)


class Branching(Looped):
    """What comes behind its blocks looks at values."""

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x if x.sum() > 0 else -x


def passing():
    model = Passing(3)
    model.blocks = torch.nn.ModuleList([Two(4, 4) for _ in range(3)])
    return model


def of_meta(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Looped(), "'blocks.0' was called twice for a batch"),
        (lambda: Looped(1), "'blocks.0' was called twice for a batch"),
        (passing, "'blocks.2' is called with something beside its state that the blocks before it compute"),
        (Branching, "`model` must run without values behind its blocks, and Branching does not"),
    ],
)
def test_models_that_cannot_be_streamed(build, words, tmp_path):
    model = build()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with accelerate.init_empty_weights():
        skeleton = build()
    with pytest.raises(ValueError, match=re.escape(words)):
        oneshot.prune_checkpoint(
            tmp_path / "a.safetensors",
            tmp_path / "b.safetensors",
            skeleton,
            [torch.randn(3, 4)],
            oneshot.wanda(),
            keep=1,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert all(p.is_meta for p in skeleton.parameters())
    assert not any("forward" in vars(m) for m in skeleton.modules())


def test_in_memory_too_what_depends_on_other_blocks_is_refused():
    model = passing()
    with pytest.raises(ValueError, match=r"'blocks.2' is called with something beside its state"):
        oneshot.prune(model, [torch.randn(3, 4)], oneshot.wanda(), keep=1)
    with pytest.raises(ValueError, match=r"'blocks.0' was called twice"):
        oneshot.prune(Looped(), [torch.randn(3, 4)], oneshot.wanda(), keep=1)


def test_models_and_checkpoints_that_do_not_fit(tmp_path):
    source = tmp_path / "source"
    batches = saved("qwen3", source)

    def pruned(model, source=source, **options):
        oneshot.prune_checkpoint(source, tmp_path / "t", model, batches, oneshot.wanda(), keep=1, **options)

    with pytest.raises(
        ValueError, match=r"`model` must have no values, got Qwen3ForCausalLM with those of 'model.embed"
    ):
        pruned(in_memory(source))
    with pytest.raises(ValueError, match=r"`model` must have its buffers, and 'model.rotary_emb.inv_freq'"):
        pruned(of_meta(source))
    saved("llama", tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"`source` must have the tensors of Qwen3ForCausalLM, and nothing in it becomes 'model.layers"
    ):
        pruned(empty(source), tmp_path / "other")
    tensors = load_file(source / "model.safetensors")
    (tmp_path / "wide").mkdir()
    save_file(tensors | {"model.norm.weight": torch.ones(5)}, tmp_path / "wide/model.safetensors")
    with pytest.raises(ValueError, match=r"`source` must have 'model.norm.weight' as \(16,\) of torch.float32"):
        pruned(empty(source), tmp_path / "wide")
    with pytest.raises(ValueError, match=r"`device` must be one of this machine, got 'cuda:99'"):
        pruned(empty(source), device="cuda:99")
    with pytest.raises(TypeError, match=r"`progress` must be callable"):
        pruned(empty(source), progress=3)
    with pytest.raises(OSError, match=r"`mask_file` .* cannot be found"):
        pruned(empty(source), mask_file=tmp_path / "no" / "masks")
    with pytest.raises(ValueError, match=r"`work` must be a new or an empty folder"):
        pruned(empty(source), work=source)
    assert {p.name for p in tmp_path.iterdir()} == {"source", "other", "wide"}


def test_a_weight_of_two_blocks_is_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    model = model.to("meta")
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"no parameter in two blocks, and '0.weight' is '1.weight'"):
        oneshot.prune_checkpoint(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", model, [torch.ones(2, 4)], oneshot.wanda(), keep=1
        )
