"""Headers: what the library writes is read alike, and everything that does not add up is refused in a sentence."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from masklib.adapters.files._atomic import whole_file
from masklib.adapters.files._dtypes import NAME
from masklib.adapters.files._header import read_header
from masklib.adapters.files._writer import lay_out, writing

TENSORS = {
    "b": torch.arange(6.0).view(2, 3),
    "a": torch.ones(3, dtype=torch.bfloat16),
    "é/ü": torch.zeros(5, dtype=torch.bool),
    "0-d": torch.tensor(2.0, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "fp8": torch.ones(3).to(torch.float8_e4m3fn),
}


def file_of(header: object, data: bytes = b"") -> bytes:
    """A file with any header: text, bytes, or what becomes JSON."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def one(dtype="F32", shape=(2,), offsets=(0, 8), **others):
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **others}}


EIGHT = b"\0" * 8
GOOD = '"dtype":"F32","shape":[2],"data_offsets":[0,8]'
HUGE = {"dtype": "F32", "shape": [2**40, 2**40, 0], "data_offsets": [8, 8]}
BAD = {
    "nothing": (b"", "it has 0 bytes"),
    "seven bytes": (b"\0" * 7, "it has 7 bytes"),
    "an empty header": (EIGHT, "not JSON"),
    "a longer header": (struct.pack("<Q", 9) + b"{}", "its header has 9 bytes, and only 2 are there"),
    "a huge header": (struct.pack("<Q", 100_000_001) + b"{}", "where 100000000 are allowed"),
    "a negative length": (b"\xff" * 8 + b"{}", "where 100000000 are allowed"),
    "no UTF-8": (file_of(b'{"\xff":1}'), "not UTF-8 text"),
    "no JSON": (file_of("{"), "not JSON"),
    "two values": (file_of("{}{}"), "not JSON"),
    "a list": (file_of("[]"), "no JSON object"),
    "space first": (file_of(" {}"), "no JSON object"),
    "deep": (file_of('{"a":' + "[" * 100_000), "nested too deeply"),
    "nan": (file_of('{"a":NaN}'), "NaN is no number"),
    "a long number": (file_of('{"a":' + "9" * 5000 + "}"), "not JSON"),
    "a name twice": (file_of(f'{{"w":{{{GOOD}}},"w":{{{GOOD}}}}}', EIGHT), "the key 'w' twice"),
    "a key twice": (file_of(f'{{"w":{{{GOOD},"shape":[1]}}}}', EIGHT), "the key 'shape' twice"),
    "metadata twice": (file_of('{"__metadata__":{},"__metadata__":{}}'), "the key '__metadata__' twice"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "text only"),
    "no metadata": (file_of({"__metadata__": None}), "text only"),
    "info is a list": (file_of({"w": []}), "must have a dtype, a shape and data_offsets"),
    "info lacks": (file_of({"w": {"dtype": "F32", "shape": []}}), "must have a dtype, a shape"),
    "info has more": (file_of(one(more=1), EIGHT), "must have a dtype, a shape"),
    "an unknown dtype": (file_of(one("F33"), EIGHT), "'F33' is no dtype"),
    "half a byte": (file_of(one("F4", [16]), EIGHT), "numbers of F4 share bytes"),
    "minus zero": (
        file_of('{"w":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
        "the safetensors library refuses it",
    ),
    "small letters": (file_of(one("f32"), EIGHT), "'f32' is no dtype"),
    "a dtype that is a number": (file_of(one(32), EIGHT), "must be text, got 32"),
    "a dtype that is a list": (file_of(one(["F32"]), EIGHT), "must be text"),
    "a shape that is text": (file_of(one(shape="2"), EIGHT), "must be a list of numbers"),
    "a bool in a shape": (file_of(one("F64", [True]), EIGHT), "must be a list of numbers"),
    "a float in a shape": (file_of(one(shape=[2.0]), EIGHT), "must be a list of numbers"),
    "a negative size": (file_of(one(shape=[-1, -2]), EIGHT), "must be a list of numbers"),
    "a huge size": (file_of(one(shape=[2**62, 4])), "no tensor can have the shape"),
    "a huge empty one": (file_of(one() | {"v": HUGE}, EIGHT), "no tensor can have the shape"),
    "many dims": (file_of(one(shape=[1] * 65), EIGHT), "no tensor can have the shape"),
    "a wrong shape": (file_of(one(shape=[3]), EIGHT), "of shape [3] takes 12 bytes, and 8 are there"),
    "a smaller shape": (file_of(one(shape=[1]), EIGHT), "of shape [1] takes 4 bytes, and 8 are there"),
    "one offset": (file_of(one(offsets=[0]), EIGHT), "two rising numbers"),
    "falling offsets": (file_of(one(offsets=[8, 0]), EIGHT), "two rising numbers"),
    "negative offsets": (file_of(one(offsets=[-8, 0]), EIGHT), "two rising numbers"),
    "float offsets": (file_of(one(offsets=[0.0, 8.0]), EIGHT), "two rising numbers"),
    "bool offsets": (file_of(one("U8", [1], [False, True]), b"\0"), "two rising numbers"),
    "cut off": (file_of(one(), EIGHT[:7]), "the file is cut off"),
    "left over": (file_of(one(), EIGHT + b"\0"), "1 bytes are left over"),
    "data of nothing": (file_of({}, b"\0"), "1 bytes are left over"),
    "a hole": (file_of(one(offsets=[8, 16]), EIGHT * 2), "leaves a hole"),
    "an overlap": (file_of(one() | {"v": one(offsets=[4, 12])["w"]}, EIGHT + b"\0" * 4), "overlaps"),
    "one place twice": (file_of(one() | {"v": one()["w"]}, EIGHT), "overlaps"),
    "an empty one inside": (file_of(one() | {"v": one(shape=[0], offsets=[4, 4])["w"]}, EIGHT), "overlaps"),
    "a way up": (file_of({"../x": one()["w"]}, EIGHT), "out of its folder"),
    "a way up inside": (file_of({"a/../../x": one()["w"]}, EIGHT), "out of its folder"),
    "an absolute name": (file_of({"/etc/x": one()["w"]}, EIGHT), "out of its folder"),
    "a drive": (file_of({"C:\\x": one()["w"]}, EIGHT), "out of its folder"),
    "NUL": (file_of({"a\0": one()["w"]}, EIGHT), "a control character"),
    "a control of Latin-1": (file_of({"a\x9b31m": one()["w"]}, EIGHT), "a control character"),
    "a turned name": (file_of({"a\u202eb": one()["w"]}, EIGHT), "a control character"),
    "a line end": (file_of({"a\n": one()["w"]}, EIGHT), "a control character"),
    "half a character": (file_of('{"\\ud800":{' + GOOD + "}}", EIGHT), "half of a character"),
    "a long name": (file_of({"\n" * 10**5: one()["w"]}, EIGHT), "a control character"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_add_up_is_refused_in_a_sentence(what, tmp_path):
    data, message = BAD[what]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_header(path)
    assert type(caught.value) is ValueError
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"`path` must hold a file that adds up, got {str(path)!r}: ")
    assert len(str(caught.value)) < 600 + len(str(path))


def test_what_the_library_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path, metadata={"format": "pt", "é": "\n\0"})
    header, data = read_header(path), path.read_bytes()
    assert header.metadata == {"format": "pt", "é": "\n\0"}
    assert header.size == len(data)
    assert data.startswith(header.raw)
    assert {n: (e.dtype, e.shape) for n, e in header.entries.items()} == {
        n: (t.dtype, tuple(t.shape)) for n, t in TENSORS.items()
    }
    for name, entry in header.entries.items():
        assert data[entry.offset :][: entry.nbytes] == TENSORS[name].view(-1).view(torch.uint8).numpy().tobytes()


def written(path, tensors, metadata=None, chunk=3):
    header = lay_out(path, {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}, metadata)
    with whole_file(path) as sink, writing(sink, header) as writer:
        for name in header.entries:
            data = tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()
            for at in range(0, len(data), chunk):
                writer.write(name, data[at : at + chunk])
    return header


def test_what_is_written_is_what_the_library_writes_to_the_byte(tmp_path):
    every = {f"{name}{i}": torch.zeros(2, dtype=dtype) for dtype, name in NAME.items() for i in (1, 0)}
    for tensors in (TENSORS, every, {}):
        written(tmp_path / "ours", tensors, {"one": "é"})
        try:
            safetensors.torch.save_file(tensors, tmp_path / "theirs", metadata={"one": "é"})
        except (KeyError, safetensors.SafetensorError):  # a dtype that an older one lacks
            continue
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@given(st.dictionaries(st.text("abé/.", max_size=3), st.sampled_from(list(TENSORS)), max_size=5), st.integers(1, 9))
def test_read_after_write_is_what_was_laid_out(tmp_path_factory, names, chunk):
    names = {name: which for name, which in names.items() if ".." not in name and not name.startswith("/")}
    path = tmp_path_factory.mktemp("files") / "x.safetensors"
    header = written(path, {name: TENSORS[which] for name, which in names.items()}, {"a": "b"}, chunk)
    assert read_header(path)._replace(stamp=()) == header
    assert list(read_header(path).entries) == list(header.entries)


def test_the_second_reader_has_a_word(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    monkeypatch.setattr("masklib.adapters.files._second._told", lambda view: ("F32", (1,)))
    with pytest.raises(ValueError, match="the safetensors library reads other names"):
        read_header(path)


@pytest.mark.parametrize(
    ("message", "specs"),
    [
        ("that of the metadata", {"__metadata__": (torch.float32, ())}),
        ("out of its folder", {"../x": (torch.float32, ())}),
        ("must have a dtype of safetensors", {"x": (torch.complex128, ())}),
    ],
)
def test_what_cannot_be_written_is_refused(message, specs):
    with pytest.raises(ValueError, match=message):
        lay_out(Path("x"), specs)


def test_a_chunk_longer_than_its_tensor_is_refused_before_it_is_written(tmp_path):
    header = lay_out(tmp_path / "x", {"a": (torch.uint8, (2,))})
    with pytest.raises(ValueError, match=r"`name` must be 'a' with at most its bytes"):
        given_chunks(tmp_path / "x", header, [("a", b"123")])


def given_chunks(path, header, chunks):
    with whole_file(path) as sink, writing(sink, header) as writer:
        for chunk in chunks:
            writer.write(*chunk)


def test_data_in_another_order_or_too_many_or_too_few_leave_no_file(tmp_path):
    path = tmp_path / "x"
    header = lay_out(path, {"a": (torch.uint8, (2,)), "b": (torch.uint8, (2,)), "e": (torch.uint8, (0,))})
    for chunks in [
        [("b", b"12")],
        [("a", b"123")],
        [("a", b"12"), ("b", b"1")],
        [("a", b"12"), ("a", b"1")],
        [("c", b"1")],
    ]:
        with pytest.raises(ValueError, match=r"missing: |`name` must be"):
            given_chunks(path, header, chunks)
        assert not list(tmp_path.iterdir())


# ---- damage ----------------------------------------------------------------------------------------------------------


def read_by_the_library(path):
    """Names, dtypes, shapes and bytes as the library reads them; bytes that are no bool, as they are."""
    with safetensors.safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        return file.metadata() or {}, {name: (t.dtype, tuple(t.shape), raw(t)) for name, t in held.items()}


def raw(tensor):
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def refused(path, data):
    """Refused in our words, or what the library reads; never an error of another kind."""
    path.write_bytes(data)
    try:
        header = read_header(path)
    except ValueError as error:
        return str(error).startswith("`path` must hold a file that adds up")
    held = {n: (e.dtype, e.shape, bytes(data[e.offset : e.offset + e.nbytes])) for n, e in header.entries.items()}
    assert read_by_the_library(path) == (header.metadata, held)
    return False


def test_damaged_files_are_refused_or_what_the_library_reads(tmp_path):
    """A flipped bit in a name makes another name, which nobody can tell; in all else it is refused."""
    path, draw = tmp_path / "x", random.Random(0)
    written(path, {"ab": torch.arange(3.0), "c": torch.tensor([[1, 2]], dtype=torch.int16)}, {"format": "pt"})
    data = path.read_bytes()
    length = len(read_header(path).raw)
    for byte in range(length):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[byte] ^= 1 << bit
            if not refused(path, flipped):
                header = read_header(path)
                assert [(e.dtype.itemsize, e.numel, e.offset) for e in header.entries.values()] == [
                    (4, 3, length),
                    (2, 2, length + 12),
                ]
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.choice((2, 3, 20))):
            damaged[draw.randrange(length)] ^= 1 << draw.randrange(8)
        refused(path, damaged)
    for at in range(0, len(data), 5):
        assert refused(path, data[:at])
        assert refused(path, data[:at] + b"1" + data[at:])
    assert not refused(path, data)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 16) | st.floats() | st.sampled_from(["F32", "U8", "../x", "w", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "w"]), inner)
    ),
    max_leaves=6,
)
INFOS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F4"]) | JSONS,
        "shape": st.lists(st.integers(0, 3)) | JSONS,
        "data_offsets": st.lists(st.integers(0, 12), max_size=2) | JSONS,
    }
)


@given(
    st.dictionaries(st.sampled_from(["w", "v", "__metadata__", "/x"]), INFOS | JSONS, max_size=3), st.integers(0, 12)
)
def test_any_header_is_refused_or_what_the_library_reads(tmp_path_factory, header, size):
    refused(tmp_path_factory.mktemp("x") / "x", file_of(header, bytes(range(size))))
