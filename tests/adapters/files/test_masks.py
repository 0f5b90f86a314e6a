"""Mask files: every mask comes back, others can open them, and what was changed is refused."""

from __future__ import annotations

import json
import math
import os
import random
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from test_budgets import resnet_50, shaped

import masklib as ml
import masklib.adapters.prune as prune
from masklib import budgets
from masklib.adapters.files import _masks, load_masks, save_masks, sparse_size
from masklib.adapters.files._bits import ones, pack, packed_shape, padding_is_zero, unpack
from masklib.adapters.files._writer import lay_out
from masklib.testing import shapes

MASKS = {
    "b.weight": torch.tensor([[True, False, True], [False, False, True]]),
    "a.conv": torch.arange(2 * 3 * 3 * 3).view(2, 3, 3, 3) % 5 != 0,
    "0-d": torch.tensor(True),
    "empty": torch.empty(0, 3, dtype=torch.bool),
    "no columns": torch.empty(3, 0, dtype=torch.bool),
    "nine": torch.tensor([True] * 8 + [False]),
    "é/ü": torch.zeros(4, 16, dtype=torch.bool),
}
STEP = partial(ml.l1_unstructured, amount=0.5)


def equal(a, b):
    return list(a) == list(b) and all(
        a[n].dtype == torch.bool and a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in b
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "masks.safetensors"


# ---- bits ------------------------------------------------------------------------------------------------------------


def slow_pack(mask):
    """One bit after another."""
    rows = [[bool(x) for x in row.reshape(-1)] for row in (mask if mask.dim() > 1 else mask.reshape(1, -1))]
    width = math.ceil(mask[0].numel() / 8) if mask.dim() > 1 and len(mask) else math.ceil(mask.numel() / 8)
    return [[sum(bit << i for i, bit in enumerate(row[8 * j : 8 * j + 8])) for j in range(width)] for row in rows]


@given(shapes(), st.randoms(use_true_random=False))
def test_packing_is_the_slow_one_and_comes_back(shape, draw):
    mask = torch.tensor([draw.random() < 0.5 for _ in range(math.prod(shape))], dtype=torch.bool).view(shape)
    data = pack(mask)
    assert data.tolist() == slow_pack(mask)
    assert data.shape == packed_shape(tuple(shape))
    assert torch.equal(unpack(data, tuple(shape)), mask)
    assert ones(data) == int(mask.sum())
    assert padding_is_zero(data, tuple(shape))


def test_packing_is_layout_blind():
    mask = MASKS["a.conv"]
    assert pack(mask.to(memory_format=torch.channels_last)).tolist() == pack(mask).tolist()
    assert pack(mask.transpose(0, 1)).tolist() == pack(mask.transpose(0, 1).contiguous()).tolist()


# ---- files -----------------------------------------------------------------------------------------------------------


def test_every_mask_comes_back_in_order(path):
    save_masks(path, MASKS)
    masks, history, version = load_masks(path)
    assert equal(masks, MASKS)
    assert (history, version) == ((), ml.__version__)
    masks["nine"].logical_not_()  # of its own, and writable
    assert equal(load_masks(str(path)).masks, MASKS)


@given(st.dictionaries(st.text("aé.", max_size=3), st.tuples(shapes(), st.integers(0, 2**32)), max_size=4))
def test_any_masks_come_back(tmp_path_factory, drawn):
    drawn = {name: value for name, value in drawn.items() if ".." not in name}
    path = tmp_path_factory.mktemp("masks") / "x"
    masks = {n: torch.rand(s, generator=torch.Generator().manual_seed(k)) < 0.5 for n, (s, k) in drawn.items()}
    save_masks(path, masks)
    assert equal(load_masks(path).masks, masks)


def test_the_library_and_a_person_can_read_it(path):
    save_masks(path, MASKS, [STEP])
    theirs = safetensors.torch.load_file(path)
    assert {name: data.numpy().tolist() for name, data in theirs.items()} == {
        n: pack(m).tolist() for n, m in MASKS.items()
    }
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    facts = json.loads(metadata["masks"])
    assert facts["b.weight"] == {"shape": [2, 3], "kept": 3, "sparsity": 0.5, "crc32": facts["b.weight"]["crc32"]}
    assert json.loads(metadata["sparsity"]) == float(ml.sparsity(MASKS))
    assert json.loads(metadata["history"]) == [{"method": "l1_unstructured", "with": {"amount": 0.5}}]
    assert metadata["masklib"] == ml.__version__


def test_compressed_tensors_layout(path):
    """Of a matrix: little-endian bits along the last axis, rows x ceil(columns / 8)."""
    mask = torch.rand(5, 19, generator=torch.Generator().manual_seed(0)) < 0.5
    save_masks(path, {"w": mask})
    expected = np.packbits(mask.numpy(), axis=-1, bitorder="little")
    assert np.array_equal(safetensors.torch.load_file(path)["w"].numpy(), expected)


def test_a_file_takes_the_place_of_an_old_one_or_leaves_it(path):
    save_masks(path, MASKS)
    with pytest.raises(TypeError, match="must be bool"):
        save_masks(path, {"w": torch.ones(2)})
    assert equal(load_masks(path).masks, MASKS)
    save_masks(path, {"nine": MASKS["nine"]})
    assert list(load_masks(path).masks) == ["nine"]
    assert len(list(path.parent.iterdir())) == 1


def test_masks_go_where_masks_go(path):
    weights = {name: torch.randn(mask.shape) for name, mask in MASKS.items()}
    save_masks(path, ml.l1_unstructured(weights, amount=0.5), [STEP])
    loaded = load_masks(path)
    applied = ml.apply(weights, loaded.masks)
    assert all(torch.equal(applied[name] != 0, loaded.masks[name]) for name in weights)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def first_dead(shape, dead):
    mask = torch.ones(math.prod(shape), dtype=torch.bool)
    mask[:dead] = False
    return mask.view(shape)


def test_sizes_are_those_of_the_paper(path):
    """Evci et al. 2020, table 1: ResNet-50 in 10^6 bytes; and the file itself is what it says the bits are."""
    params = shaped(*(shape for shape, _ in resnet_50()))
    for sparsity, size in ((0.0, 102.122), (0.8, 23.683), (0.9, 13.499), (0.95, 8.399)):
        s = budgets.erk(params, sparsity)
        masks = {n: first_dead(t.shape, math.floor(s[n] * t.numel())) for n, t in params.items()}
        assert sparse_size(masks, others=27_560) / 1e6 == pytest.approx(size, abs=1e-3)
    save_masks(path, masks)
    bits = sum(t.numel() for t in params.values())
    padding = sum(7 * t.shape[0] for t in params.values())
    assert bits / 8 <= path.stat().st_size <= (bits + padding) / 8 + 20_000
    assert sparse_size({}, others=3, itemsize=2) == 6


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (TypeError, "`masks` must be a mapping", {"masks": torch.ones(2).bool()}),
        (TypeError, "`mask` must be bool|must be bool", {"masks": {"a": torch.ones(2)}}),
        (TypeError, "`others` must be an int", {"masks": {}, "others": 0.5}),
        (ValueError, "`others` must be a number from 0 on, got -1", {"masks": {}, "others": -1}),
        (TypeError, "`itemsize` must be an int", {"masks": {}, "itemsize": True}),
    ],
)
def test_wrong_sizes_are_refused(kind, message, arguments):
    with pytest.raises(kind, match=message):
        sparse_size(**arguments)


# ---- histories -------------------------------------------------------------------------------------------------------


def my_method(scores, default_mask=None, *, share):
    return ml.compute_mask(scores, default_mask, amount=share)


class Callable:
    def __call__(self, scores, default_mask=None):
        return ml.identity(scores, default_mask)


HISTORY = {
    "a name": (ml.identity, "identity", {}),
    "numbers": (partial(ml.n_of_m, keep=2, of=4), "n_of_m", {"keep": 2, "of": 4}),
    "numpy and 0-d": (
        partial(ml.l1_unstructured, amount=np.float64(0.5), key=torch.tensor(3)),
        "l1_unstructured",
        {"amount": 0.5, "key": 3},
    ),
    "a structure": (
        partial(ml.compute_mask, keep=1, groups=ml.windows(4)),
        "compute_mask",
        {"keep": 1, "groups": "windows(of=4)"},
    ),
    "layerwise": (ml.layerwise(ml.l1_unstructured), "layerwise(l1_unstructured)", {}),
    "a budget": (
        partial(ml.layerwise(ml.l1_unstructured), sparsity={"a": 0.5, "b": 0.0}),
        "layerwise(l1_unstructured)",
        {"sparsity": {"a": 0.5, "b": 0.0}},
    ),
    "a chain": (
        ml.chain(STEP, ml.layerwise(partial(ml.n_of_m, keep=1, of=2))),
        "chain(l1_unstructured(amount=0.5), layerwise(n_of_m(keep=1, of=2)))",
        {},
    ),
    "one's own": (partial(my_method, share=1), f"{__name__}.my_method", {"share": 1}),
    "a tensor": (
        partial(ml.custom_from_mask, mask=MASKS["nine"]),
        "custom_from_mask",
        {"mask": "tensor of bool, shape [9]"},
    ),
    "infinity": (partial(my_method, share=math.inf), f"{__name__}.my_method", {"share": "inf"}),
    "a function": (partial(my_method, share=torch.abs), f"{__name__}.my_method", {"share": None}),
    "an object": (partial(my_method, share=object()), f"{__name__}.my_method", {"share": "object"}),
    "a callable": (Callable(), f"{__name__}.Callable", {}),
    "None": (partial(my_method, share=None), f"{__name__}.my_method", {"share": None}),
}


@pytest.mark.parametrize("what", HISTORY)
def test_a_history_is_said_by_names_and_numbers_and_comes_back(what, path):
    step, method, given = HISTORY[what]
    save_masks(path, MASKS, [step])
    (told,) = load_masks(path).history
    assert told["method"] == method
    if what != "a function":
        assert told["with"] == given
    save_masks(path, MASKS, [*load_masks(path).history, STEP])
    assert load_masks(path).history == (told, {"method": "l1_unstructured", "with": {"amount": 0.5}})


def test_the_drop_ins_history_is_one(path):
    layer = prune.l1_unstructured(torch.nn.Linear(4, 2), "weight", 0.5)
    hook = next(iter(layer._forward_pre_hooks.values()))
    save_masks(path, {"weight": layer.weight_mask != 0}, hook.history())
    assert [step["method"] for step in load_masks(path).history] == ["l1_unstructured"]


# ---- what is refused -------------------------------------------------------------------------------------------------


class DTensor(torch.Tensor):
    """What is told by its name, so that nobody loads its module for the question."""


ITSELF: list = []
ITSELF.append(ITSELF)
BAD = [
    (TypeError, "`masks` must be a mapping of tensors by name", {"masks": torch.ones(2).bool()}),
    (TypeError, "`masks` of 'w' must be bool", {"masks": {"w": torch.ones(2)}}),
    (TypeError, "`masks` of 'w' must be a torch.Tensor", {"masks": {"w": [True]}}),
    (TypeError, "`masks` must be keyed by names", {"masks": {1: MASKS["nine"]}}),
    (ValueError, "got '__metadata__': it is that of the metadata", {"masks": {"__metadata__": MASKS["nine"]}}),
    (ValueError, "is a path out of its folder", {"masks": {"../x": MASKS["nine"]}}),
    (ValueError, "has a control character", {"masks": {"a\0": MASKS["nine"]}}),
    (ValueError, "which has half of a character alone", {"masks": {"\ud800": MASKS["nine"]}}),
    (ValueError, "`masks` of 'w' has no values yet", {"masks": {"w": MASKS["nine"].to("meta")}}),
    (
        TypeError,
        "a DTensor. Save it with torch.distributed.checkpoint",
        {"masks": {"w": MASKS["nine"].as_subclass(DTensor)}},
    ),
    (TypeError, "`history` must be a sequence of steps", {"history": STEP}),
    (TypeError, "`history` must be a sequence of steps", {"history": "l1"}),
    (TypeError, r"`history\[0\]` must be a step", {"history": ["l1"]}),
    (TypeError, r"`history\[1\]` must be a step", {"history": [STEP, {"method": "l1"}]}),
    (ValueError, "`history` must have an end", {"history": [partial(ml.identity, a=ITSELF)]}),
    (TypeError, "`path` must be a path", {"path": 3}),
    (ValueError, "which is a folder", {"path": "."}),
]


@pytest.mark.parametrize(("kind", "message", "arguments"), BAD)
def test_what_cannot_be_saved_is_refused(kind, message, arguments, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(kind, match=message):
        save_masks(**({"path": path, "masks": MASKS} | arguments))
    assert not list(path.parent.iterdir())


def forged(path, data=None, **changes):
    """A file whose metadata or bits were changed, checksums and all."""
    save_masks(path, MASKS)
    metadata = dict(safe_open(path, "np").metadata())
    facts = json.loads(metadata["masks"])
    for change in changes.pop("facts", {}).items():
        facts["nine"] = {**facts["nine"], change[0]: change[1]}
    metadata = metadata | {"masks": json.dumps(facts)} | changes
    metadata = {key: text for key, text in metadata.items() if text is not None}
    if set(_masks._TEXTS) <= set(metadata) and "crc32" not in changes:
        metadata["crc32"] = _masks._checksum(metadata)
    tensors = safetensors.torch.load_file(path) | (data or {})
    safetensors.torch.save_file(tensors, path, metadata)
    return path


FORGED = {
    "no metadata": ({"layout": None}, "must be a file of masks"),
    "another layout": ({"layout": "masks 2"}, "must be a file of masks of this version"),
    "more metadata": ({"more": "x"}, "must be a file of masks"),
    "a checksum": ({"crc32": "0"}, "its metadata have been changed"),
    "masks no JSON": ({"masks": "{"}, "`masks` of the metadata is not JSON"),
    "masks a list": ({"masks": "[]"}, "must be an object"),
    "a name twice": ({"masks": '{"a": 1, "a": 1}'}, "the key 'a' twice"),
    "history": ({"history": "{}"}, "the history a list of steps"),
    "history of text": ({"history": '["x"]'}, "the history a list of steps"),
    "another sparsity": ({"sparsity": "0.5"}, "does not add up"),
    "a count": ({"facts": {"kept": 7, "sparsity": 2 / 9}}, "does not add up|keeps 8 weights, and its header says 7"),
    "a sparsity": ({"facts": {"sparsity": 0.5}}, "the sparsity of 'nine' is not that of 8 of 9 kept"),
    "a bool": ({"facts": {"kept": True}}, "must be whole and from 0 on"),
    "a float": ({"facts": {"kept": 8.0}}, "must be whole and from 0 on"),
    "a negative size": ({"facts": {"shape": [-9]}}, "must be whole and from 0 on"),
    "a huge size": ({"facts": {"shape": [2**62]}}, "must be whole and from 0 on"),
    "a huge shape": ({"facts": {"shape": [2**40, 2**40]}}, "no mask can have the shape"),
    "another shape": ({"facts": {"shape": [17], "sparsity": 9 / 17}}, "are not those that the metadata name"),
    "more facts": ({"facts": {"more": 1}}, "must be its shape, kept, sparsity and crc32"),
    "padding": ({"data": {"nine": torch.tensor([[255, 2]], dtype=torch.uint8)}}, "bits that belong to no weight"),
    "a bit": (
        {"data": {"nine": torch.tensor([[254, 0]], dtype=torch.uint8)}},
        "keeps 7 weights, and its header says 8",
    ),
    "a bit more": (
        {"data": {"nine": torch.tensor([[255, 1]], dtype=torch.uint8)}},
        "keeps 9 weights, and its header says 8",
    ),
    "two bits": ({"data": {"nine": torch.tensor([[254, 1]], dtype=torch.uint8)}}, "have been changed"),
    "one more": ({"data": {"more": torch.zeros(1, 1, dtype=torch.uint8)}}, "are not those that the metadata name"),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_does_not_add_up_is_refused(what, path):
    changes, message = FORGED[what]
    with pytest.raises(ValueError, match=message) as caught:
        load_masks(forged(path, **changes))
    assert str(caught.value).startswith("`path` must ")


def test_other_files_are_refused(path):
    safetensors.torch.save_file({"w": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"`path` must be a file of masks .* Pass what save_masks wrote\."):
        load_masks(path)
    with pytest.raises(FileNotFoundError, match="cannot be read: No such file"):
        load_masks(path.parent / "nothing")


# ---- flipped bits ----------------------------------------------------------------------------------------------------

FEW = {"a.weight": MASKS["b.weight"], "nine": MASKS["nine"]}


def refused(path, data):
    """Refused in our words, or the same masks as before; never an error of another kind, never other masks."""
    path.write_bytes(data)
    try:
        loaded = load_masks(path)
    except ValueError as error:
        return str(error).startswith("`path` must ")
    assert equal(loaded.masks, FEW)
    assert loaded.history == ({"method": "l1_unstructured", "with": {"amount": 0.5}},)
    assert loaded.version == ml.__version__
    return False


def test_a_file_with_a_flipped_bit_is_refused(path):
    """Every bit of the masks, and one of each byte of the header; the thorough profile takes every bit of that too."""
    save_masks(path, FEW, [STEP])
    data = path.read_bytes()
    every = os.environ.get("MASKLIB_PROFILE") == "thorough"
    for byte in range(len(data)):
        for bit in range(8) if every or byte >= len(data) - 4 else [byte % 8]:
            flipped = bytearray(data)
            flipped[byte] ^= 1 << bit
            assert refused(path, flipped), (byte, bit)


def test_a_file_with_other_damage_is_refused_or_equal(path):
    save_masks(path, FEW, [STEP])
    data, draw = path.read_bytes(), random.Random(0)
    bits = 8 * (len(data) - 4)
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(draw.choice((2, 2, 3, 20))):
            bit = draw.choice((draw.randrange(8 * len(data)), draw.randrange(bits, 8 * len(data))))
            damaged[bit // 8] ^= 1 << bit % 8
        refused(path, damaged)
    for length in range(0, len(data), 7):
        assert refused(path, data[:length])
        assert refused(path, data[:length] + data[length + 1 :])
        assert refused(path, data[:length] + b"\0" + data[length:])
    assert refused(path, data + b"\0")
    assert not refused(path, data)


def test_the_metadata_do_not_depend_on_what_lies_in_the_file():
    """Laying out twice gives the same bytes: what the checksum is taken of is all there is."""
    specs = {name: (torch.uint8, packed_shape(tuple(mask.shape))) for name, mask in MASKS.items()}
    assert lay_out("x", specs).raw == lay_out("x", dict(reversed(specs.items()))).raw
