"""Checkpoints that are not pruned, and why: bad calls, NaN, full disks, files that change; nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from streamed_checkpoints import HALF, METHODS, model
from wrong import told

import masklib as ml
from masklib.adapters.files import prune_checkpoint


@pytest.mark.parametrize("name", METHODS)
def test_nan_is_told_and_nothing_is_written(name, tmp_path):
    if name.startswith("random"):
        return
    tensors = model() | {"model.layers.1.q.weight": torch.full((8, 8), torch.nan)}
    save_file(tensors, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"^64 NaN in scores of 'model\.layers\.1\.q\.weight'\. "):
        prune_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", METHODS[name])
    assert (tmp_path / "b.safetensors").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]


BAD = {
    "`source` must be a path": lambda a, b: prune_checkpoint(None, b, HALF),
    "`source` must be a path ": lambda a, b: prune_checkpoint([a], b, HALF),
    "cannot be read: No such file": lambda a, b: prune_checkpoint("nowhere.safetensors", b, HALF),
    "`target` must be a path": lambda a, b: prune_checkpoint(a, 3, HALF),
    "`target` must be a file or new": lambda a, b: prune_checkpoint(a, Path(a).parent, HALF),
    "`method` must be a method with its numbers bound": lambda a, b: prune_checkpoint(a, b, 0.5),
    "`method` must be a method with its numbers bound, or": lambda a, b: prune_checkpoint(a, b, "l1"),
    "`history[0]` must be callable": lambda a, b: prune_checkpoint(a, b, [0.5]),
    "Give exactly one of `amount`": lambda a, b: prune_checkpoint(a, b, ml.l1_unstructured),
    "`method(scores, default_mask)` must be of the form": lambda a, b: prune_checkpoint(a, b, lambda s, m: 3),
    "`method(scores, default_mask)` must have exactly": lambda a, b: prune_checkpoint(a, b, lambda s, m: {}),
    "must be bool (True = kept)": lambda a, b: prune_checkpoint(a, b, lambda s, m: s),
    "needs all of a tensor that is read in parts": lambda a, b: prune_checkpoint(
        a, b, lambda s, m: HALF(ml.scores.lamp(s), m)
    ),
    "`names` must be names, globs": lambda a, b: prune_checkpoint(a, b, HALF, names=3),
    "`names` must be names, globs, or": lambda a, b: prune_checkpoint(a, b, HALF, names=[3]),
    "`names` has ['nothing.*'], which fit no tensor": lambda a, b: prune_checkpoint(a, b, HALF, names="nothing.*"),
    "`names('": lambda a, b: prune_checkpoint(a, b, HALF, names=lambda n, t: None),
    "`names` picks no tensor to prune": lambda a, b: prune_checkpoint(a, b, HALF, names=[]),
    "`masks` must be bool tensors by name, or the path": lambda a, b: prune_checkpoint(a, b, HALF, masks=3),
    "For example masks=load_masks(path).masks.": lambda a, b: prune_checkpoint(a, b, HALF, masks=({}, (), "0.1")),
    "`masks` must be a file of masks of this version": lambda a, b: prune_checkpoint(a, b, HALF, masks=a),
    "`source` 'no' cannot be read: No such file": lambda a, b: prune_checkpoint("no", b, HALF),
    "`target` 'no' cannot be found: No such file": lambda a, b: prune_checkpoint(a, "no/b.safetensors", HALF),
    "`target` must be a path that the system knows, got '~/b'": lambda a, b: prune_checkpoint(a, "~/b", HALF),
    "`target` must be a file, got 'b/', which ends as a folder does": lambda a, b: prune_checkpoint(a, "b/", HALF),
    "Pass 'b.safetensors'.": lambda a, b: prune_checkpoint(a, "b.bin", HALF),
    "why not: {'model.norm.weight': 'of one dim'}. Pass": lambda a, b: prune_checkpoint(
        a, b, HALF, names="model.norm*"
    ),
    "`masks` of 'model.layers.0.q.weight' must be bool": lambda a, b: prune_checkpoint(
        a, b, HALF, masks={"model.layers.0.q.weight": torch.ones(8, 8)}
    ),
    "`masks` must be of tensors that are pruned, got 'steps', which stays": lambda a, b: prune_checkpoint(
        a, b, HALF, masks={"steps": torch.ones(3) > 0}
    ),
    "got 'x', which stays as it is: it has no such tensor": lambda a, b: prune_checkpoint(
        a, b, HALF, masks={"x": torch.ones(3) > 0}
    ),
    "`progress` must be callable": lambda a, b: prune_checkpoint(a, b, HALF, progress=3),
    "must be real floating or integer": lambda a, b: prune_checkpoint(a, b, HALF, names=lambda n, t: n == "flags"),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_a_bad_call_has_a_sentence_and_writes_nothing(message, tmp_path):
    source = tmp_path / "a.safetensors"
    save_file({**model(), "flags": torch.ones(2, 2) > 0}, source)
    before = source.read_bytes()
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        BAD[message](str(source), str(tmp_path / "b.safetensors"))
    assert message.strip() in str(caught.value)
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert source.read_bytes() == before


def test_wrong_things_are_told_in_our_words(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda number: None)
    arguments = {"source": str(file), "target": "b", "method": HALF, "names": None, "masks": None}
    assert told(prune_checkpoint, lambda: dict(arguments), (ValueError, TypeError, OSError)) == ""


def test_pickles_are_refused(tmp_path):
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"`source` must be a safetensors file or a folder of them, got \['a\.pt'\]"):
        prune_checkpoint(tmp_path / "a.pt", tmp_path / "b.safetensors", HALF)


def test_a_disk_that_is_too_small_is_told_first(file, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 10}))
    with pytest.raises(OSError, match=r"needs [\d,]+ bytes, and the disk has 10 free"):
        prune_checkpoint(file, tmp_path / "b.safetensors", lambda s, m: pytest.fail("ranked"))


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_file_that_changes_meanwhile_is_refused(is_wrong, file, tmp_path):
    def method(scores, mask):
        os.utime(file, (1, 1))
        return 3 if is_wrong else HALF(scores, mask)

    with pytest.raises(ValueError, match="changed since it was opened"):
        prune_checkpoint(file, tmp_path / "b.safetensors", method)
    assert not (tmp_path / "b.safetensors").exists()
