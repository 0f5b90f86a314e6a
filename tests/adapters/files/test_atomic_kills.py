"""Processes that are killed while they write leave the old or the new; what they leave over goes with the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from atomic_writes import LIGHT, fill, names, write

from masklib.adapters.files import _atomic
from masklib.adapters.files._atomic import whole_file

SLOW = """
import sys
from masklib.adapters.files._atomic import new_file, whole_file, whole_folder
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[2] == "file":
    with whole_file(sys.argv[1]) as sink:
        sink.write(b"half")
        print("half", flush=True)
        sys.stdin.readline()
else:
    with whole_folder(sys.argv[1]) as folder, new_file(folder / "a") as sink:
        sink.write(b"half")
        print("half", flush=True)
        sys.stdin.readline()
"""


def started(path, kind):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", LIGHT + SLOW, str(path), kind], **pipes)
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "half\n"
    return process


def ended(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_the_dead_leave_is_removed_by_the_next_and_what_the_living_write_is_not(tmp_path, kind):
    path, call = tmp_path / "x", write if kind == "file" else fill
    dead, alive, other = started(path, kind), started(path, kind), started(tmp_path / "y", kind)
    ended(dead)
    ended(other)
    assert len(names(tmp_path)) == 3
    assert all(name.startswith(".masklib-") and name.endswith(".tmp") for name in names(tmp_path))
    call(path)
    assert len(names(tmp_path)) == 3  # the living one's, the other target's, and x
    ended(alive)
    with (tmp_path / "x").open("rb") if kind == "file" else (tmp_path / "x" / "a").open("rb") as file:
        assert file.read() == b"new"
    call(tmp_path / "y")
    if kind == "file":
        call(path)
        assert names(tmp_path) == ["x", "y"]


AT_EACH = """
import os, signal, sys
from pathlib import Path
from masklib.adapters.files._atomic import new_file, whole_file, whole_folder

def dies_at(point, work):
    # a child that is killed just before, or just after, its point-th call of the system
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    left = [point]
    for name in ("open", "write", "fsync", "replace", "rename", "mkdir", "rmdir", "unlink", "close", "stat", "fchmod"):
        def call(*args, real=getattr(os, name), **options):
            left[0] -= 1
            if left[0] == -1 and point % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **options)
            finally:
                if left[0] == -1:
                    os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, call)
    try:
        work()
    except BaseException:
        os._exit(3)
    os._exit(0)

def file():
    with whole_file(root / "file") as sink:
        sink.write(b"ne")
        sink.write(b"w")

def folder():
    with whole_folder(root / "folder") as place:
        for name in "ab":
            with new_file(place / name) as sink:
                sink.write(b"new")

def content(path):
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()

root = Path(sys.argv[1])
FILE, FOLDER = (file, root / "file", b"new", b"old"), (folder, root / "folder", dict(a=b"new", b=b"new"), None)
for work, path, new, old in (FILE, FOLDER):
    kills = 0
    for point in range(10**6):
        if old is None and path.exists():
            for one in path.iterdir():
                one.unlink()
            path.rmdir()
        elif old is not None:
            path.write_bytes(old)
        died = dies_at(point, work)
        assert (content(path) if path.exists() else None) in (old, new), point
        left = [name for name in os.listdir(root) if name.endswith(".tmp")]
        assert len(left) <= 1, left
        kills += died
        if not died:
            assert content(path) == new and left == [], left
            break
    print(kills)
"""


def test_a_kill_at_every_call_of_the_system_leaves_the_old_or_the_new(tmp_path):
    """Before or after each: never half of anything. What a kill leaves over is gone after the next, so one at most."""
    done = subprocess.run([sys.executable, "-c", LIGHT + AT_EACH, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, folder = map(int, done.stdout.split())
    assert file >= 12
    assert folder >= 20


OFTEN = """
import sys
from masklib.adapters.files._atomic import whole_file
print("ready", flush=True)
for i in range(10**9):
    with whole_file(sys.argv[1]) as sink:
        for _ in range(8):
            sink.write(bytes([i % 256]) * 1000)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    """Twenty kills at moments that differ, of a process that does nothing but write; each run sweeps the one before."""
    path = tmp_path / "x"
    write(path, b"\0" * 8000)
    for moment in range(20):
        process = subprocess.Popen([sys.executable, "-c", LIGHT + OFTEN, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.003 + 0.0017 * moment)
        process.kill()
        process.wait()
        process.stdout.close()
        data = path.read_bytes()
        assert len(data) == 8000
        assert len(set(data)) == 1
        assert len(names(tmp_path)) <= 2
    write(path)
    assert names(tmp_path) == ["x"]


FOLDERS = """
import sys
from masklib.adapters.files._atomic import new_file, whole_folder
for i in range(300):
    try:
        with whole_folder(sys.argv[1]) as folder, new_file(folder / "a") as sink:
            sink.write(b"a")
            raise KeyError
    except KeyError:
        pass
"""


@pytest.mark.parametrize("code", [OFTEN.replace("10**9", "100") + "\n", FOLDERS], ids=["files", "folders"])
def test_many_at_once(tmp_path, code):
    """Four processes that write one target; each sweeps, and none takes away what a living one writes."""
    command = [sys.executable, "-c", LIGHT + code, str(tmp_path / "x")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        _, said = process.communicate()
        assert (process.returncode, said) == (0, b"")
    assert names(tmp_path) == ([] if code is FOLDERS else ["x"])


@pytest.mark.parametrize(("make", "begin"), [("_new_file", write), ("_new_folder", fill)])
def test_an_interruption_right_after_something_is_made_leaves_nothing_when_the_process_ends(
    make, begin, tmp_path, monkeypatch
):
    """A signal may come between two lines, when a file is there and nobody holds its name yet."""
    real = getattr(_atomic, make)

    def interrupted(name):
        os.close(real(name))
        raise KeyboardInterrupt

    monkeypatch.setattr(_atomic, make, interrupted)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "a")
    monkeypatch.setattr(os, "getpid", lambda: -1)  # a fork of it
    _atomic._remove_begun()
    assert len(names(tmp_path)) == 1
    monkeypatch.undo()
    _atomic._remove_begun()
    assert names(tmp_path) == []


def test_what_is_finished_or_given_up_is_not_begun(tmp_path):
    before = dict(_atomic._begun)
    write(tmp_path / "a")
    fill(tmp_path / "b")
    with pytest.raises(ValueError, match="x"), whole_file(tmp_path / "c"):
        raise ValueError("x")
    assert _atomic._begun == before
