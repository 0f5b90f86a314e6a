"""What fails while a checkpoint is written leaves the old file, and every other file, as it was."""

from __future__ import annotations

import errno
import os
import threading
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

import masklib as ml
from masklib.adapters.files import prune_checkpoint

HALF = partial(ml.l1_unstructured, sparsity=0.5)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_thread_that_is_late_writes_into_no_other_file(tmp_path, monkeypatch, two_threads):
    """One thread finds the disk full; the other one is inside a write then, and has more to write."""
    save_file({f"{i}.weight": torch.randn(1024, 1024).half() for i in range(6)}, tmp_path / "a.safetensors")
    inside, go_on, done, real = threading.Event(), threading.Event(), threading.Event(), os.pwrite

    def pwrite(number, data, at):
        if threading.current_thread() is threading.main_thread():
            assert inside.wait(20)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inside.set()
        assert go_on.wait(20)
        written = real(number, data, at)
        done.set()
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match=r"'.*b.safetensors' cannot be written: No space left on device"):
        prune_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", HALF)
    others = [open(tmp_path / f"{i}", "wb") for i in range(16)]  # noqa: SIM115, closed below
    go_on.set()
    assert done.wait(20)
    for file in others:
        file.close()
        assert os.path.getsize(file.name) == 0
    assert {name for name in os.listdir(tmp_path) if not name.isdigit()} == {"a.safetensors"}


def test_what_the_dead_left_over_does_not_come_along(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    save_file({"fc.weight": torch.randn(4, 4)}, source / "model.safetensors")
    (source / ".masklib-0123456789abcdef-0123456789abcdef.tmp").write_bytes(b"half")
    report = prune_checkpoint(source, tmp_path / "target", HALF)
    assert os.listdir(tmp_path / "target") == ["model.safetensors"]
    assert report.left_out == (".masklib-0123456789abcdef-0123456789abcdef.tmp",)
