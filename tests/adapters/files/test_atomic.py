"""Files and folders appear whole or not at all: after errors, on full disks; and targets that are refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from atomic_writes import LIGHT, fill, names, write

from masklib.adapters.files._atomic import whole_file, whole_folder
from masklib.adapters.files._sink import Sink


def test_a_file_is_new_or_takes_the_place_of_an_old_one(tmp_path):
    path = tmp_path / ("x" * 255)  # as long as a name can be
    write(path, b"old")
    path.chmod(0o640)
    with path.open("rb") as reader:
        write(path)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == [path.name]


def test_new_files_have_the_permissions_of_any_new_file(tmp_path):
    write(tmp_path / "ours")
    (tmp_path / "theirs").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_what_an_old_file_protects_is_never_open_to_others(tmp_path):
    write(tmp_path / "x", b"old")
    (tmp_path / "x").chmod(0o600)
    (tmp_path / "y").mkdir(mode=0o700)
    with whole_file(tmp_path / "x"), whole_folder(tmp_path / "y"):
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.name.endswith(".tmp")}
        assert modes == {0o600, 0o700}
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "y").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_is_new_or_was_empty(tmp_path, before):
    path = tmp_path / "x"
    if before:
        path.mkdir()
    fill(path)
    assert (path / "a").read_bytes() == b"new"
    assert (names(tmp_path), names(path)) == (["x"], ["a"])


def interrupted(place, error):
    with place as place:
        place.write(b"ne") if isinstance(place, Sink) else (place / "a").write_bytes(b"ne")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there(tmp_path, error):
    write(tmp_path / "file", b"old")
    with pytest.raises(error):
        interrupted(whole_file(tmp_path / "file"), error)
    with pytest.raises(error):
        interrupted(whole_folder(tmp_path / "folder"), error)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def refused(attempt):
    """The error of the system that an attempt ends in, if any."""
    try:
        attempt()
    except OSError as error:
        return error


def fails_at(monkeypatch, call, at, kind):
    """Let one call of the system fail, the first or a later one."""
    real, left = getattr(os, call), [at]

    def fails(*args, **options):
        left[0] -= 1
        if left[0] == -1:
            raise OSError(kind, os.strerror(kind))
        return real(*args, **options)

    monkeypatch.setattr(os, call, fails)


SYSTEM = ["open", "dup", "write", "fsync", "replace", "rename", "mkdir", "fchmod", "stat", "fstat"]


@pytest.mark.parametrize(("call", "kind"), [*((call, errno.ENOSPC) for call in SYSTEM), ("fsync", errno.EIO)])
def test_what_the_system_refuses_is_said_and_leaves_what_was_there(tmp_path, monkeypatch, call, kind):
    """A full disk may show at any call: here at each of them, one after another."""
    errors = []
    for at in range(12):
        folder = tmp_path / str(at)
        folder.mkdir()
        write(folder / "file", b"old")
        for attempt in (lambda: write(folder / "file"), lambda: fill(folder / "folder")):
            with monkeypatch.context() as patch:
                fails_at(patch, call, at, kind)
                errors.append(refused(attempt))
        late = [error is not None and "is written, but" in str(error) for error in errors[-2:]]
        assert (folder / "file").read_bytes() == (b"new" if late[0] or errors[-2] is None else b"old")
        whole = late[1] or errors[-1] is None
        assert names(folder) == (["file", "folder"] if whole else ["file"])
        assert not whole or (folder / "folder" / "a").read_bytes() == b"new"
    told = [error for error in errors if error]
    assert told
    assert all(
        e.errno == kind and any(s in str(e) for s in ("be written: ", "be found: ", "is written, but")) for e in told
    )


def test_the_system_may_take_less_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda number, data, real=os.write: real(number, data[:2]))
    monkeypatch.setattr(os, "pwrite", lambda number, data, at, real=os.pwrite: real(number, data[:2], at))
    with whole_file(tmp_path / "x") as sink:
        assert sink.write(b"12345") == 5
        assert sink.write_at(b"abc", 7) == 3
    assert (tmp_path / "x").read_bytes() == b"12345\0\0abc"


@pytest.mark.parametrize("call", ["write", "write_at"])
def test_who_still_writes_after_an_error_writes_into_no_other_file(tmp_path, call):
    """The number of a file that was closed is soon that of another one."""
    with pytest.raises(KeyError), whole_file(tmp_path / "x") as sink:
        raise KeyError
    others = [open(tmp_path / f"{i}", "wb") for i in range(8)]  # noqa: SIM115, closed below
    assert sink.number not in [file.fileno() for file in others]
    with pytest.raises(ValueError, match=r"'.*x' is not written any more"):
        getattr(sink, call)(b"x", *([0] if call == "write_at" else []))
    number = sink.number
    del sink
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    for file in others:
        file.close()
        assert Path(file.name).read_bytes() == b""


LIMITED = """
import resource, signal, sys
from masklib.adapters.files._atomic import whole_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole_file(sys.argv[1]) as sink:
        for _ in range(100):
            sink.write(b"x" * 64)
except OSError as error:
    print(error)
"""


def test_a_limit_of_the_system_itself(tmp_path):
    """Writes that are cut short first, and then refused."""
    write(tmp_path / "file", b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIGHT + LIMITED, tmp_path / "file"], capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_all_is_flushed_before_it_is_renamed_and_the_folder_around_it_after(tmp_path, monkeypatch):
    """Without the first a power cut leaves an empty file under the new name, without the second the old name."""
    calls = []
    for call in ("fsync", "replace", "rename"):

        def logged(first, *rest, call=call, real=getattr(os, call)):
            path = os.readlink(f"/proc/self/fd/{first}") if call == "fsync" else str(first)
            calls.append((call, "around" if path == str(tmp_path) else Path(path).name))
            return real(first, *rest)

        monkeypatch.setattr(os, call, logged)
    write(tmp_path / "x")
    name = calls[0][1]
    assert calls == [("fsync", name), ("replace", name), ("fsync", "around")]
    calls.clear()
    with whole_folder(tmp_path / "y") as folder:
        (folder / "inside").mkdir()
        for file in ("a", "inside/b"):
            (folder / file).write_bytes(b"new")
    flushed = {("fsync", name) for name in ("a", "b", "inside", folder.name)}
    assert {*calls[:-2]} == flushed
    assert calls[-2:] == [("rename", folder.name), ("fsync", "around")]


# ---- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [write, fill])
def test_links_are_refused(tmp_path, call):
    """Over a link one of two files would change that nobody named: the link itself, or what it leads to."""
    (tmp_path / "there").mkdir()
    write(tmp_path / "old", b"old")
    for to in ("there", "old", "nowhere"):
        link = tmp_path / f"link-{to}"
        link.symlink_to(tmp_path / to)
        with pytest.raises(ValueError, match=f"must not be a symbolic link, got .*{to}.*Pass what it leads to"):
            call(link)
    assert names(tmp_path) == ["link-nowhere", "link-old", "link-there", "old", "there"]


def test_targets_that_are_something_else_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    write(tmp_path / "full" / "file", b"old")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="which is a folder"):
        write(tmp_path / "full")
    with pytest.raises(ValueError, match="which is no ordinary file"):
        write(tmp_path / "pipe")
    with pytest.raises(ValueError, match="which is a file"):
        fill(tmp_path / "full" / "file")
    with pytest.raises(ValueError, match="which has 1 entries"):
        fill(tmp_path / "full")
    for call in (write, fill):
        with pytest.raises(FileNotFoundError, match="cannot be found: No such file"):
            call(tmp_path / "nowhere" / "x")
        with pytest.raises(NotADirectoryError, match=r"cannot be (found|written)"):
            call(tmp_path / "full" / "file" / "x")
        with pytest.raises(OSError, match="File name too long"):
            call(tmp_path / ("x" * 256))
    assert (names(tmp_path), names(tmp_path / "full")) == (["full", "pipe"], ["file"])


def test_a_write_protected_file_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="is write-protected"):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
