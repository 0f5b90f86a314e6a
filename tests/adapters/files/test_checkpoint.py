"""Checkpoints as mappings: read when asked for, wherever they lie; and what does not add up is refused."""

from __future__ import annotations

import json
import os
import pickle
from functools import partial

import pytest
import safetensors.torch
import torch

import masklib as ml
from masklib.adapters.files import open_checkpoint

TENSORS = {
    "a.weight": torch.arange(-6.0, 6.0).view(3, 4),
    "b.weight": torch.linspace(-1, 1, 10).view(2, 5).to(torch.bfloat16),
    "c.half": torch.linspace(-3, 3, 6).half(),
    "d.ints": torch.arange(5),
    "e.bool": torch.tensor([True, False]),
    "f.double": torch.tensor(0.1, dtype=torch.float64),
    "g.empty": torch.empty(0, 3),
    **{f"h.{d}": torch.tensor([0.5, -2.0]).to(d) for d in (torch.float8_e4m3fn, torch.float8_e5m2)},
    **{f"i.{d}": torch.tensor([1, 2], dtype=d) for d in (torch.uint8, torch.int8, torch.int16, torch.int32)},
}
OLD = {name: tensor for name, tensor in TENSORS.items() if "float8" not in name}


def save(folder, shards, index=None, **others):
    """Shards and their index, which may say anything."""
    folder.mkdir(exist_ok=True)
    for file, tensors in shards.items():
        safetensors.torch.save_file(tensors, folder / file, metadata={"format": "pt"})
    names = {name: file for file, tensors in shards.items() for name in tensors}
    text = json.dumps({"metadata": {}, "weight_map": names if index is None else index, **others})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def halves():
    names = list(TENSORS)
    return {
        "model-00001-of-00002.safetensors": {name: TENSORS[name] for name in names[:5]},
        "model-00002-of-00002.safetensors": {name: TENSORS[name] for name in names[5:]},
    }


def one_file(folder):
    folder.mkdir()
    safetensors.torch.save_file(TENSORS, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def alone(folder):
    return one_file(folder) / "model.safetensors"


def several(folder):
    save(folder, halves())
    return [str(folder / file) for file in halves()]


def index(folder):
    return save(folder, halves()) / "model.safetensors.index.json"


def pickled(folder):
    folder.mkdir()
    torch.save(TENSORS, folder / "pytorch_model.bin")
    (folder / "training_args.bin").write_bytes(b"whatever")
    return folder


def pickled_long_ago(folder):
    """Before torch 1.6; that format has no float8."""
    folder.mkdir()
    torch.save(OLD, folder / "x.pt", _use_new_zipfile_serialization=False)
    return folder


def pickled_shards(folder):
    folder.mkdir()
    for i, tensors in enumerate(halves().values()):
        torch.save(tensors, folder / f"{i}.bin")
    names = {name: f"{i}.bin" for i, tensors in enumerate(halves().values()) for name in tensors}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


FORMS = {
    "a folder with a file": one_file,
    "a file": alone,
    "shards": lambda folder: save(folder, halves()),
    "a list": several,
    "an index": index,
    "pickled": pickled,
    "pickled long ago": pickled_long_ago,
    "pickled shards": pickled_shards,
}


def same(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
    )


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_hold_the_same(form, tmp_path):
    checkpoint = open_checkpoint(FORMS[form](tmp_path / "x"))
    expected = OLD if form == "pickled long ago" else TENSORS
    assert set(checkpoint) == set(expected)
    assert len(checkpoint) == len(expected)
    assert all(same(checkpoint[name], tensor) for name, tensor in expected.items())
    assert "nothing" not in checkpoint
    assert str(tmp_path) in repr(checkpoint)
    with pytest.raises(KeyError, match="'nothing' is not in Checkpoint"):
        checkpoint["nothing"]
    if "pickled" not in form:
        assert set(checkpoint.entries) == set(TENSORS)
        assert checkpoint.metadata == {path: {"format": "pt"} for path in checkpoint.files}
        assert all(checkpoint.entries[n].nbytes == t.nbytes for n, t in TENSORS.items())
        twin = pickle.loads(pickle.dumps({**checkpoint.entries}))
        assert twin == checkpoint.entries


@pytest.mark.parametrize("form", FORMS)
def test_the_core_takes_it_where_it_takes_a_mapping(form, tmp_path):
    checkpoint = open_checkpoint(FORMS[form](tmp_path / "x"))
    floats = [n for n, t in TENSORS.items() if t.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)]
    there = ml.select(checkpoint, lambda name, p: name in floats)
    here = {name: TENSORS[name] for name in there}
    for method in (ml.l1_unstructured, ml.layerwise(ml.l1_unstructured), partial(ml.random_unstructured, key=1)):
        a, b = method(there, amount=0.5), method(here, amount=0.5)
        assert all(torch.equal(a[name], b[name]) for name in here)
    dense = ml.dense(checkpoint)
    assert ml.sparsity(dense) == 0
    applied = ml.apply(checkpoint, {name: torch.zeros_like(mask) for name, mask in dense.items() if name in floats})
    assert all(not applied[name].any() for name in floats)


@pytest.mark.parametrize("form", [alone, pickled])
def test_each_tensor_is_of_its_own(tmp_path, form):
    """Not a view of one shared mapping: what is done to one reading shows nowhere else."""
    checkpoint = open_checkpoint(form(tmp_path / "x"))
    first = checkpoint["a.weight"]
    first.zero_()
    assert first.untyped_storage().nbytes() == first.nbytes
    assert same(checkpoint["a.weight"], TENSORS["a.weight"])
    assert checkpoint["a.weight"].is_contiguous()


def test_nothing_is_read_until_it_is_asked_for(tmp_path, monkeypatch):
    path = save(tmp_path / "x", halves())
    read = []
    real = open_checkpoint.__globals__["tensor_of"]
    monkeypatch.setitem(open_checkpoint.__globals__, "tensor_of", lambda h, e: (read.append(e.name), real(h, e))[1])
    checkpoint = open_checkpoint(path)
    assert list(checkpoint) == [*checkpoint.keys()]
    assert len(checkpoint.entries) == len(checkpoint)
    assert read == []
    assert checkpoint["d.ints"].tolist() == [0, 1, 2, 3, 4]
    assert read == ["d.ints"]


@pytest.mark.parametrize("kind", ["safetensors", "pickled"])
def test_a_file_that_changed_since_is_refused(tmp_path, kind):
    path = alone(tmp_path / "x") if kind == "safetensors" else pickled(tmp_path / "x") / "pytorch_model.bin"
    checkpoint = open_checkpoint(path)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"changed since it was opened. Call open_checkpoint again"):
        checkpoint["a.weight"]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="cannot be read: No such file"):
        checkpoint["a.weight"]


def test_a_tensor_that_is_larger_than_memory_is_said_to_be(tmp_path, monkeypatch):
    def no_memory(*size, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    checkpoint = open_checkpoint(alone(tmp_path / "x"))
    monkeypatch.setattr(torch, "empty", no_memory)
    with pytest.raises(ValueError, match=r"'a.weight' of .* must fit in memory, and has 48 bytes"):
        checkpoint["a.weight"]


def test_a_bool_that_is_neither_is_refused(tmp_path):
    path = alone(tmp_path / "x")
    entry = open_checkpoint(path).entries["e.bool"]
    with path.open("r+b") as file:
        file.seek(entry.offset)
        file.write(b"\2")
    with pytest.raises(ValueError, match=r"'e.bool' must be bool, and holds bytes that are neither 0 nor 1"):
        open_checkpoint(path)["e.bool"]


def test_links_are_followed_when_reading(tmp_path):
    """The cache of a hub keeps files elsewhere, and links to them."""
    real = save(tmp_path / "real", halves())
    (tmp_path / "links").mkdir()
    for name in os.listdir(real):
        (tmp_path / "links" / name).symlink_to(real / name)
    checkpoint = open_checkpoint(tmp_path / "links")
    assert all(same(checkpoint[name], tensor) for name, tensor in TENSORS.items())


# ---- what is refused -------------------------------------------------------------------------------------------------

A, B = halves()
NAMES = {name: file for file, tensors in halves().items() for name in tensors}
HOSTILE = [
    "../x.safetensors",
    "/etc/passwd",
    "a/b.safetensors",
    "",
    ".",
    "..",
    "a\0",
    "C:\\x",
    "a\\b",
    3,
    None,
    ["x"],
    "\ud800",
]


@pytest.mark.parametrize("file", HOSTILE, ids=ascii)
def test_an_index_names_files_of_its_folder_only(file, tmp_path):
    folder = save(tmp_path / "x", halves(), {**NAMES, "a.weight": file})
    with pytest.raises(ValueError, match=r"no file name|not that of a file in its own folder"):
        open_checkpoint(folder)


def changed(folder, text):
    (folder / "model.safetensors.index.json").write_bytes(text)
    return folder


INDICES = {
    "no JSON": (b"{", "the index is not JSON"),
    "no UTF-8": (b"\xff", "the index is not UTF-8"),
    "a list": (b"[]", "must be an object with a `weight_map`"),
    "no map": (b"{}", "must be an object with a `weight_map`"),
    "an empty map": (b'{"weight_map": {}}', "must be an object with a `weight_map`"),
    "a map that is a list": (b'{"weight_map": []}', "must be an object with a `weight_map`"),
    "a name twice": (b'{"weight_map": {"a": "x", "a": "x"}}', "the key 'a' twice"),
    "two maps": (b'{"weight_map": {"a": "x"}, "weight_map": {"a": "x"}}', "the key 'weight_map' twice"),
    "a missing file": (
        json.dumps({"weight_map": {**NAMES, "z": "z.safetensors"}}).encode(),
        "not there: ['z.safetensors']",
    ),
    "a missing tensor": (json.dumps({"weight_map": {**NAMES, "z": A}}).encode(), f"'z' is in '{A}', and it is in none"),
    "an unnamed tensor": (
        json.dumps({"weight_map": {**NAMES, "a.weight": B}}).encode(),
        f"is in '{B}', and it is in '{A}'",
    ),
    "lacks one": (
        json.dumps({"weight_map": {n: f for n, f in NAMES.items() if n != "a.weight"}}).encode(),
        f"'a.weight' is nowhere, and it is in '{A}'",
    ),
}


@pytest.mark.parametrize("what", INDICES)
def test_an_index_that_disagrees_is_refused(what, tmp_path):
    text, message = INDICES[what]
    with pytest.raises(ValueError) as caught:
        open_checkpoint(changed(save(tmp_path / "x", halves()), text))
    assert message in str(caught.value)
    assert str(caught.value).count("`path`") == 1


def test_a_tensor_in_two_files_is_refused(tmp_path):
    shards = halves()
    shards[B]["a.weight"] = TENSORS["a.weight"]
    folder = save(tmp_path / "x", shards)
    for path in (folder, [folder / A, folder / B], [folder / A, folder / A]):
        with pytest.raises(ValueError, match=r"'(a.weight|d.ints)' is in '.*' as well"):
            open_checkpoint(path)


def test_a_shard_that_does_not_add_up_is_refused(tmp_path):
    folder = save(tmp_path / "x", halves())
    data = (folder / B).read_bytes()
    (folder / B).write_bytes(data[:-1])
    with pytest.raises(ValueError, match="the file is cut off"):
        open_checkpoint(folder)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("message", "held"),
    [
        ("torch.load with weights_only=True refuses it", {"a": Evil()}),
        ("must hold tensors by name", [torch.ones(2)]),
        ("must hold tensors by name", {"model": {"a": torch.ones(2)}}),
        ("out of its folder", {"../x": torch.ones(2)}),
        ("must be keyed by names", {1: torch.ones(2)}),
        ("must be a dense tensor|sparse", {"a": torch.ones(2, 2).to_sparse()}),
    ],
)
def test_pickled_files_hold_tensors_by_name_and_run_nothing(message, held, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises((ValueError, TypeError), match=message):
        open_checkpoint(tmp_path / "x.pt")
    assert os.listdir() == ["x.pt"]


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"PK\3\4" + b"\0" * 60, pickle.dumps({"a": 1}), b"x" * 1000])
def test_files_that_are_no_checkpoint_are_refused(data, tmp_path):
    for name in ("x.bin", "x.safetensors", "x"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="`path` must hold a file that adds up"):
            open_checkpoint(tmp_path / name)


def test_folders_without_one_checkpoint_are_refused(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"a folder with one checkpoint, got .* with \[\]. Pass the file"):
        open_checkpoint(folder)
    for name in ("a.safetensors", "b.safetensors"):
        safetensors.torch.save_file({name: torch.ones(1)}, folder / name)
    with pytest.raises(ValueError, match=r"with \['a.safetensors', 'b.safetensors'\]. Pass the file"):
        open_checkpoint(folder)
    save(folder, halves())
    assert set(open_checkpoint(folder)) == set(TENSORS)
    (folder / "model.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model.safetensors.index.json', 'model.safetensors'"):
        open_checkpoint(folder)
    (folder / "b.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="a folder with one checkpoint"):
        open_checkpoint(folder)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match=r"must be an ordinary file, got .* which is a pipe or a device\. Save"):
            open_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"`path` .* cannot be read: No such file"):
        open_checkpoint(tmp_path / "nothing")
    for path in ("", "a\0b"):
        with pytest.raises(ValueError, match="`path` must be a path, got"):
            open_checkpoint(path)
    for path in (None, 3, b"x", [3], {"a": "x"}):
        with pytest.raises(TypeError, match="`path` must be a path"):
            open_checkpoint(path)
    with pytest.raises(ValueError, match="got an empty list"):
        open_checkpoint([])
    folder = one_file(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"which is a folder\. Pass the files in it\."):
        open_checkpoint([folder])
