"""Language models pruned on a GPU, or block by block on it: the masks of the CPU but for sums that round otherwise."""

from __future__ import annotations

import pytest
import torch
from stored_models import bits, empty, in_memory, saved
from torch.utils import _pytree as pytree

import masklib as ml
from masklib.adapters import oneshot

RULES = {n: getattr(oneshot, n) for n in ("magnitude", "wanda", "ria", "sparsegpt", "admm")}
FAMILIES = ("llama", "qwen3", "gpt2", "gemma3")


def to(batches, device):
    return [pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), b) for b in batches]


def differ(a, b):
    """The share of positions at which masks differ."""
    return sum(int((a[n] != b[n].cpu()).sum()) for n in a) / sum(m.numel() for m in a.values())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("pattern", ["50 %", "2:4"])
def test_a_model_on_a_gpu(rule, name, pattern, tmp_path, gpu):
    batches = saved(name, tmp_path)
    number, options = ({"sparsity": 0.5}, {}) if pattern == "50 %" else ({"keep": 2}, {"groups": ml.windows(4)})
    here, there = in_memory(tmp_path), in_memory(tmp_path).to(gpu)
    expected = oneshot.prune(here, batches, RULES[rule](**options), **number)
    found = oneshot.prune(there, to(batches, gpu), RULES[rule](**options), **number)
    assert all(m.is_cuda for m in found.masks.values())
    assert {n: int(m.sum()) for n, m in found.masks.items()} == {n: int(m.sum()) for n, m in expected.masks.items()}
    assert differ(expected.masks, found.masks) <= (0.0 if rule == "magnitude" else 0.05)
    params = dict(there.named_parameters())
    assert all((params[n][~m] == 0).all() for n, m in found.masks.items())


@pytest.mark.parametrize("rule", ["wanda", "sparsegpt", "admm"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_block_at_a_time_on_a_gpu(rule, name, tmp_path, gpu):
    """Streamed from files it is what it is in memory, to the bit; the rest of the model stays on the CPU."""
    batches = saved(name, tmp_path / "source", max_shard_size="20KB")
    model = in_memory(tmp_path / "source")
    found = oneshot.prune(model, batches, RULES[rule](), sparsity=0.5, device=gpu)
    assert all(t.device.type == "cpu" for t in (*model.state_dict().values(), *found.masks.values()))
    model.save_pretrained(tmp_path / "expected")
    call = (tmp_path / "target", empty(tmp_path / "source"), batches, RULES[rule]())
    oneshot.prune_checkpoint(tmp_path / "source", *call, sparsity=0.5, device="cuda")
    expected, streamed = bits(tmp_path / "expected"), bits(tmp_path / "target")
    assert expected.keys() == streamed.keys()
    assert all(torch.equal(t, streamed[n]) for n, t in expected.items())


def test_what_is_measured_on_a_gpu(tmp_path, gpu):
    batches = saved("llama", tmp_path)
    here, there = in_memory(tmp_path), in_memory(tmp_path).to(gpu)
    pairs = [(here, batches), (there, to(batches, gpu))]
    a, b = (oneshot.measure(m, x, ml.scores.wanda) for m, x in pairs)
    assert all(torch.allclose(t, b[n].cpu(), rtol=1e-3) for n, t in a.items())
    a, b = (oneshot.measure(m, x, ml.scores.curvature, loss=oneshot.next_token_loss) for m, x in pairs)
    assert all(torch.allclose(t, b[n].cpu(), rtol=1e-2, atol=1e-6) for n, t in a.items())
    a, b = (oneshot.perplexity(m, [t["input_ids"] for t in x]) for m, x in pairs)
    assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype, tmp_path, gpu):
    batches = saved("llama", tmp_path, dtype)
    for autocast in (False, True):
        model = in_memory(tmp_path).to(gpu)
        with torch.autocast("cuda", dtype, enabled=autocast):
            found = oneshot.prune(model, to(batches, gpu), oneshot.sparsegpt(), sparsity=0.5)
        assert float(ml.sparsity(found.masks)) == pytest.approx(0.5, abs=0.01)
        assert all(torch.isfinite(p).all() for p in model.parameters())
