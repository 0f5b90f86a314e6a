"""Stored checkpoints of a small model: a file, and a folder with what people have beside it."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file
from streamed_checkpoints import model


@pytest.fixture
def folder(tmp_path):
    """A sharded checkpoint with what comes along, and what does not."""
    source, tensors = tmp_path / "source", model()
    source.mkdir()
    names = list(tensors)
    files = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({n: tensors[n] for n in part}, source / file, metadata={"format": "pt", "of": file})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: file for file, part in files.items() for n in part}}
    (source / "a.safetensors.index.json").write_text(json.dumps(index))
    (source / "config.json").write_text('{"model_type": "x"}')
    (source / "tokenizer.model").write_bytes(bytes(range(256)) * 9000)
    (source / "pytorch_model.bin").write_bytes(b"old weights")
    (source / "original").mkdir()
    return source


@pytest.fixture
def file(tmp_path):
    save_file(model(), tmp_path / "source.safetensors", metadata={"format": "pt"})
    return tmp_path / "source.safetensors"
