"""Checkpoints that are pruned as a stream: the same bits as in memory, and all else as it was."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from streamed_checkpoints import HALF, METHODS, model, tiny

import masklib as ml
from masklib.adapters.files import load_masks, open_checkpoint, prune_checkpoint, save_masks


@pytest.fixture(params=[False, True], ids=["as they are", "tiny chunks"])
def chunks(request, monkeypatch):
    if request.param:
        tiny(monkeypatch)


def zeroed(tensors, masks):
    return {n: ml.apply(t, masks[n]) if n in masks else t for n, t in tensors.items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("name", METHODS)
def test_a_file_becomes_what_it_becomes_in_memory(name, file, tmp_path, chunks):
    method, tensors = METHODS[name], load_file(file)
    report = prune_checkpoint(file, tmp_path / "b.safetensors", method)
    step = method if callable(method) else ml.chain(*method)
    masks = step({n: tensors[n] for n in report.tensors}, None)
    assert_same(load_file(tmp_path / "b.safetensors"), zeroed(tensors, masks))
    assert {n: t.dead for n, t in report.tensors.items()} == {n: int((~m).sum()) for n, m in masks.items()}
    assert report.sparsity == ml.sparsity(masks)
    dry = prune_checkpoint(file, None, method)
    assert (dry.tensors, dry.skipped, dry.bytes_written) == (report.tensors, report.skipped, 0)


def test_a_folder_comes_along_whole(folder, tmp_path, chunks):
    before = open_checkpoint(folder)
    report = prune_checkpoint(folder, tmp_path / "target", HALF)
    after = open_checkpoint(tmp_path / "target")
    masks = HALF({n: before[n] for n in report.tensors})
    assert_same(dict(after), zeroed(dict(before), masks))
    assert report.left_out == ("original/", "pytorch_model.bin")
    assert sorted(os.listdir(tmp_path / "target")) == [
        "a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors", "a.safetensors.index.json", "config.json",
        "tokenizer.model",
    ]  # fmt: skip
    for path in ("config.json", "tokenizer.model", "a.safetensors.index.json"):
        assert (tmp_path / "target" / path).read_bytes() == (folder / path).read_bytes()
    for (old, one), (new, other) in zip(before.headers.items(), after.headers.items()):
        assert (one.raw, one.size, old.name) == (other.raw, other.size, new.name)


def test_the_index_stands_for_its_folder(folder, tmp_path):
    report = prune_checkpoint(folder / "a.safetensors.index.json", tmp_path / "target", HALF)
    assert report.sparsity == 0.5
    assert (tmp_path / "target" / "config.json").exists()


def test_a_file_may_be_its_own_target(file, tmp_path):
    before = load_file(file)
    report = prune_checkpoint(file, file, HALF)
    assert_same(load_file(file), zeroed(before, HALF({n: before[n] for n in report.tensors})))
    assert os.listdir(tmp_path) == ["source.safetensors"]


def test_a_folder_does_not_become_a_file(folder, tmp_path):
    with pytest.raises(ValueError, match=r"`target` must be a folder, as `source` is one, got '.*b\.safetensors'\."):
        prune_checkpoint(folder, tmp_path / "b.safetensors", HALF)


def test_a_folder_may_not(folder):
    held = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(ValueError, match=r"^`target` must be a new or an empty folder"):
        prune_checkpoint(folder, folder, HALF)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == held


# ---- which tensors --------------------------------------------------------------------------------------------------


def test_who_is_pruned_by_default_and_why_the_others_are_not(file):
    report = prune_checkpoint(file, None, HALF)
    assert set(report.tensors) == {f"model.layers.{i}.{n}.weight" for i in range(3) for n in ("q", "mlp")}
    reasons = {n: r for n, r in report.skipped.items() if "bias" not in n}
    assert reasons == {
        "steps": "of torch.int64", "model.norm.weight": "of one dim", "model.embed_tokens.weight": "an embedding",
        "lm_head.weight": "tied to 'model.embed_tokens.weight', an embedding",
    }  # fmt: skip
    assert report.skipped["model.layers.0.q.bias"] == "of one dim"
    assert set(report.tensors) | set(report.skipped) == set(model())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wte.weight", "an embedding"), ("shared.weight", "an embedding"), ("word_embeddings.weight", "an embedding"),
        ("vit.pos_embed", "an embedding"), ("vit.cls_token", "a token"), ("attn.in_proj_bias", "a bias"),
        ("vit.patch_embed.proj.weight", ""), ("a.embeddings.projection.weight", ""), ("embed_out_proj.weight", ""),
        ("lstm.weight_ih_l0", ""), ("experts.gate_up_proj", ""), ("lora_A.default.weight", ""), ("weight", ""),
    ],
)  # fmt: skip
def test_names_tell_what_is_a_weight(tmp_path, name, reason):
    save_file({name: torch.ones(2, 2), "other.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    report = prune_checkpoint(tmp_path / "a.safetensors", None, HALF)
    assert report.skipped.get(name, "") == reason


def test_globs_take_matrices_and_names_take_what_they_name(file):
    report = prune_checkpoint(file, None, HALF, names="model.layers.0.*")
    assert set(report.tensors) == {"model.layers.0.q.weight", "model.layers.0.mlp.weight"}
    assert report.skipped["model.layers.0.q.bias"] == "of one dim"
    assert report.skipped["steps"] == "not among `names`"
    report = prune_checkpoint(file, None, HALF, names=["model.layers.0.q.bias", "*.1.q.weight"])
    assert set(report.tensors) == {"model.layers.0.q.bias", "model.layers.1.q.weight"}
    report = prune_checkpoint(file, None, HALF, names=lambda n, t: t.shape == (24, 8))
    assert set(report.tensors) == {f"model.layers.{i}.mlp.weight" for i in range(3)}


def test_what_is_stored_twice_stays_equal_and_counts_once(file, tmp_path):
    method = partial(ml.random_unstructured, key=0, sparsity=0.25)
    report = prune_checkpoint(file, tmp_path / "b.safetensors", method, names=["lm_head.weight"])
    after = load_file(tmp_path / "b.safetensors")
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert (report.dead, report.size) == (80, 320)
    assert {t.tied for t in report.tensors.values()} == {None, "lm_head.weight"}


def test_equal_layers_are_not_taken_for_one(tmp_path):
    save_file({n: torch.ones(4, 4) for n in ("a.weight", "b.weight")}, tmp_path / "a.safetensors")
    prune_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", HALF)
    after = load_file(tmp_path / "b.safetensors")
    assert [int(after[n].count_nonzero()) for n in ("a.weight", "b.weight")] == [0, 16]


def test_float8_is_ranked_unless_it_is_scaled(tmp_path):
    w = torch.linspace(-2, 2, 32).view(4, 8).to(torch.float8_e4m3fn)
    save_file({"a.weight": w}, tmp_path / "a.safetensors")
    prune_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", HALF)
    after = load_file(tmp_path / "b.safetensors")["a.weight"]
    assert torch.equal(after.float(), w.float() * HALF(w.float()))
    scaled = {"a.weight": w, "a.weight_scale": torch.ones(4, 1), "b.weight": torch.ones(2, 2)}
    save_file(scaled, tmp_path / "a.safetensors")
    report = prune_checkpoint(tmp_path / "a.safetensors", None, HALF)
    assert report.skipped["a.weight"] == "quantized: its numbers are to be scaled by 'a.weight_scale'"


@pytest.mark.parametrize("names", [dict.fromkeys(["*.q.weight"]), {"*.q.weight": 1}.keys(), iter(["*.q.weight"])])
def test_names_may_be_any_iterable(names, file):
    found = prune_checkpoint(file, None, HALF, names=names).tensors
    assert list(found) == [n for n in open_checkpoint(file) if n.endswith("q.weight")]


# ---- masks ----------------------------------------------------------------------------------------------------------


def test_masks_are_where_a_method_starts(file, tmp_path, chunks):
    tensors = load_file(file)
    some = {n: t for n, t in tensors.items() if "layers" in n and "weight" in n}
    masks = ml.random_unstructured(some, key=1, sparsity=0.3)
    expected = zeroed(tensors, HALF(some, masks))
    save_masks(tmp_path / "masks.safetensors", masks)
    for given_masks in (masks, tmp_path / "masks.safetensors", load_masks(tmp_path / "masks.safetensors").masks):
        report = prune_checkpoint(file, tmp_path / "b.safetensors", HALF, masks=given_masks)
        assert_same(load_file(tmp_path / "b.safetensors"), expected)
        assert report.sparsity == 0.5
    part = {n: masks[n] for n in list(masks)[:2]}
    prune_checkpoint(file, tmp_path / "b.safetensors", ml.identity, masks=part)
    assert_same(load_file(tmp_path / "b.safetensors"), zeroed(tensors, part))


@settings(max_examples=15)
@example([2, 9, 9], 0)
@example([50], 0)
@given(st.lists(st.integers(0, 9), max_size=3), st.integers(0, 99))
def test_a_mask_of_any_shape_is_read_in_runs(tmp_path_factory, shape, seed):
    folder = tmp_path_factory.mktemp("masks")
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    save_file({"w": torch.ones(shape)}, folder / "w.safetensors")
    save_masks(folder / "m.safetensors", {"w": mask})
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, 3)
        prune_checkpoint(
            folder / "w.safetensors", folder / "b.safetensors", ml.identity, names=["w"], masks=folder / "m.safetensors"
        )
    assert torch.equal(load_file(folder / "b.safetensors")["w"], mask.float())


def test_a_damaged_mask_file_is_refused(file, tmp_path):
    some = {n: t for n, t in load_file(file).items() if "layers" in n and "weight" in n}
    save_masks(tmp_path / "m.safetensors", HALF(some))
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-9] ^= 4
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.safetensors.*keeps \d+ weights"):
        prune_checkpoint(file, tmp_path / "b.safetensors", HALF, masks=tmp_path / "m.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("size", [3, 2**18])
def test_any_flipped_bit_of_a_mask_file_is_refused(size, tmp_path, monkeypatch):
    tiny(monkeypatch, size)
    save_file({"w": torch.ones(3, 11)}, tmp_path / "w.safetensors")
    save_masks(tmp_path / "m.safetensors", {"w": torch.arange(33).view(3, 11) % 3 > 0})
    good = (tmp_path / "m.safetensors").read_bytes()
    for bit in range(6 * 8):
        data = bytearray(good)
        data[-1 - bit // 8] ^= 1 << bit % 8
        (tmp_path / "m.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match=r"m\.safetensors"):
            prune_checkpoint(tmp_path / "w.safetensors", None, HALF, masks=tmp_path / "m.safetensors")


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report_prints(folder, tmp_path):
    text = str(prune_checkpoint(folder, tmp_path / "target", HALF))
    assert "model.layers.1.q.weight                 8x8  bfloat16" in text
    assert "384 of 768 weights are dead: 50.00 %" in text
    assert "not pruned: model.embed_tokens.weight: an embedding" in text
    assert "left out: original/, pytorch_model.bin" in text


def test_progress_counts_what_is_read_and_written(file, tmp_path):
    seen = []
    report = prune_checkpoint(file, tmp_path / "b.safetensors", HALF, progress=lambda *n: seen.append(n))
    assert seen[-1] == (report.bytes_read, report.bytes_written)
    header = next(iter(open_checkpoint(file).headers.values()))
    assert report.bytes_written == header.size - len(header.raw)


def test_many_threads_come_to_the_same(tmp_path, monkeypatch):
    """Shares of the chunks go to threads only from a size on, which is made small."""
    tiny(monkeypatch, 16)
    monkeypatch.setattr("masklib.selection._threads._GRAIN", 16)
    save_file(model(5), tmp_path / "a.safetensors")
    results = []
    for threads in (1, 4):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            prune_checkpoint(tmp_path / "a.safetensors", tmp_path / f"{threads}.safetensors", METHODS["history"])
        finally:
            torch.set_num_threads(before)
        results.append((tmp_path / f"{threads}.safetensors").read_bytes())
    assert results[0] == results[1]
