"""What fails while a checkpoint is written leaves the old file, and every other file, as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
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


def test_links_come_along_if_they_lead_to_where_the_weights_lie(tmp_path):
    """As in the cache of a hub; another link could lead to a key of its owner's, which would be given away."""
    blobs, snapshot, secret = tmp_path / "blobs", tmp_path / "snapshot", tmp_path / "secret"
    for folder in (blobs, snapshot, secret):
        folder.mkdir()
    save_file({"fc.weight": torch.randn(4, 4)}, blobs / "0")
    (blobs / "1").write_text("{}")
    (secret / "key").write_text("secret")
    for name, to in {"model.safetensors": "blobs/0", "config.json": "blobs/1", "key.json": "secret/key"}.items():
        (snapshot / name).symlink_to(tmp_path / to)
    (snapshot / "alias.json").symlink_to("config.json")
    (snapshot / "README.md").write_text("beside")
    report = prune_checkpoint(snapshot, tmp_path / "target", HALF)
    assert sorted(os.listdir(tmp_path / "target")) == ["README.md", "alias.json", "config.json", "model.safetensors"]
    assert report.left_out == ("key.json",)
    assert not any((tmp_path / "target" / name).is_symlink() for name in os.listdir(tmp_path / "target"))


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
import torch
from safetensors.torch import save_file
import masklib as ml
from masklib.adapters.files import load_masks, prune_checkpoint, save_masks

torch.set_num_threads(1)
CALLS = ("open", "dup", "write", "pwrite", "fsync", "replace", "rename", "mkdir", "close", "stat", "fchmod")
HALF = partial(ml.l1_unstructured, sparsity=0.5)
root = Path(sys.argv[1])

def at(point, work):
    # a child that is killed at its point-th call of the system; or how many it made
    ends = os.pipe()
    if child := os.fork():
        os.close(ends[1])
        died = os.waitpid(child, 0)[1] != 0
        with open(ends[0], "rb") as pipe:
            return died, int(pipe.read() or 0)
    count = [0]
    for name in CALLS:
        def call(*args, real=getattr(os, name), **options):
            count[0] += 1
            if count[0] == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)
        setattr(os, name, call)
    write = os.write
    try:
        work()
        write(ends[1], str(count[0]).encode())
        os._exit(0)
    finally:
        os._exit(3)

def content(path):
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()

def check(path, work, old):
    # old: the bytes of the file; None for a folder that is not there
    def restore():
        if old is not None:
            path.write_bytes(old)
        elif path.exists():
            path.rename(root.parent / f"{os.urandom(8).hex()}")
    restore()
    died, calls = at(0, work)
    assert not died and calls
    new = content(path)
    assert new != old
    kills = 0
    for point in range(1, calls + 1, max(1, calls // 24)):
        restore()
        died, _ = at(point, work)
        kills += died
        assert (content(path) if path.exists() else None) in (old, new), point
        visible = [name for name in os.listdir(path.parent) if name.endswith(".tmp")]
        assert len(visible) <= 1 and all(name.startswith(".masklib-") for name in visible)
    restore()
    assert at(0, work)[0] is False and content(path) == new
    assert not [name for name in os.listdir(path.parent) if name.endswith(".tmp")]
    print(kills)

g = torch.Generator().manual_seed(0)
tensors = {f"{i}.weight": torch.randn(64, 64, generator=g) for i in range(8)}
save_file(tensors, root / "a.safetensors")
check(root / "a.safetensors", lambda: prune_checkpoint(root / "a.safetensors", root / "a.safetensors", HALF),
      (root / "a.safetensors").read_bytes())
source = root / "source"
source.mkdir()
save_file(tensors, source / "model.safetensors")
(source / "config.json").write_text("{}")
check(root / "target", lambda: prune_checkpoint(source, root / "target", HALF), None)
save_masks(root / "m", {"w": torch.ones(9, 9, dtype=torch.bool)})
masks = ml.l1_unstructured(tensors, amount=0.5)
check(root / "m", lambda: save_masks(root / "m", masks), (root / "m").read_bytes())
"""


def test_a_kill_at_twenty_points_leaves_the_old_or_the_new(tmp_path):
    """Of a file that is its own target, of a folder, and of a mask file; each kill sweeps what the one before left."""
    root = tmp_path / "root"
    root.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(int(kills) >= 20 for kills in done.stdout.split()[:2]), done.stdout
    assert len(done.stdout.split()) == 3
