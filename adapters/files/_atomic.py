"""Files and folders that appear whole or not at all.

They are written beside their target under a name of their own, flushed to the disk, and renamed. Whoever dies on the
way leaves a file or folder `.masklib-*.tmp`; the next one who writes the same target removes it. That it is left over
is told by its lock, which the system takes from the dead: a live one is never touched.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ._names import told
from ._sink import Sink, sink_into
from ._targets import file_target, folder_target

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:  # not on this system: what is left over stays
    fcntl = None

# A folder that may not be read, or on a file system that cannot flush one: all that can be done has been done.
_CANNOT_FLUSH = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP)
# What is being written, and by which process. An interruption may come when a file is made and nobody holds its name.
_begun: dict[Path, int] = {}
_ATTEMPTS = 100  # to make a folder: one has been enough wherever processes swept one another's


@contextmanager
def whole_file(path: Any, argument: str = "path") -> Iterator[Sink]:
    """Write a file beside its target, flush it, and rename it over the target when the block ends without an error.

    Args:
        path: the target: new, or an ordinary file, whose permissions are kept. A reader who has the old file open goes
            on reading the old one.
        argument: the caller's name for it.

    Yields:
        A sink with `write(buffer)`.

    Raises:
        ValueError: if the target is a folder, a symbolic link, or no ordinary file.
        OSError: if the system refuses to write; the target is as it was then.
    """
    target = file_target(path, argument)

    def finish(name: Path) -> None:
        os.replace(name, target)

    with _beside(target, _new_file, finish) as (_, number), sink_into(number, target) as sink:
        yield sink


@contextmanager
def whole_folder(path: Any, argument: str = "target") -> Iterator[Path]:
    """Fill a folder beside its target, flush it, and rename it to the target when the block ends without an error.

    Args:
        path: the target: new, or an empty folder.
        argument: the caller's name for it.

    Yields:
        The folder to fill, by `new_file` say; all that is in it is flushed.

    Raises:
        ValueError: if the target is no folder, or has something in it, or is a symbolic link.
        OSError: if the system refuses to write; the target is as it was then.
    """
    target = folder_target(path, argument)

    def finish(name: Path) -> None:
        _flush_all(name)
        os.rename(name, target)

    with _beside(target, _new_folder, finish) as (name, _):
        yield name


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A folder beside a target for as long as a block takes; if it is left over, the next writer of it removes it."""
    with _beside(target, _new_folder, _remove) as (name, _):
        yield name


@contextmanager
def _beside(target: Path, make: Callable[[Path], int], finish: Callable[[Path], None]) -> Iterator[tuple[Path, int]]:
    """Make something beside the target, and finish it when the block ends without an error; else it is removed."""
    _sweep(target)
    with told(target, "written"):
        name, number = _made(target, make)
    try:
        yield name, number
        with told(target, "written"):
            finish(name)
    except BaseException:
        _remove(name)
        raise
    finally:
        os.close(number)
        _begun.pop(name, None)
    _renamed(target)


@contextmanager
def new_file(path: Path, target: Path | None = None) -> Iterator[Sink]:
    """Write a new file in a folder that is not visible yet.

    Args:
        path: of the file, which must not be there.
        target: where it will be, for messages.
    """
    with told(target or path, "written"):
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with sink_into(number, target or path) as sink:
            yield sink
    finally:
        os.close(number)


# ---- names of their own ----------------------------------------------------------------------------------------------


def _prefix(target: Path) -> str:
    """What the names begin with under which a target is written, of one length however long the target's is."""
    return f".masklib-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}-"


def is_left_over(name: str) -> bool:
    """Whether a file or folder is what is being written, or what the dead left over."""
    return name.startswith(".masklib-") and name.endswith(".tmp")


def _made(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make and lock something beside the target, with its permissions if it is there already."""
    while True:
        name = target.parent / f"{_prefix(target)}{secrets.token_hex(8)}.tmp"
        _begun[name] = os.getpid()
        number = make(name)
        try:
            _lock(number, wait=True)
            if _is_at(name, number):  # another process may have swept it away before it was locked
                _keep_mode(number, target)
                return name, number
        except BaseException:
            os.close(number)
            _remove(name)
            raise
        os.close(number)


@atexit.register
def _remove_begun() -> None:
    """Remove what was begun and neither finished nor given up; a fork leaves alone what its parent writes."""
    for name, process in _begun.items():
        if process == os.getpid():
            _remove(name)


def _is_at(name: Path, number: int) -> bool:
    """Whether an open file is still found under its name."""
    try:
        return os.path.samestat(os.stat(name), os.fstat(number))
    except FileNotFoundError:
        return False


def _keep_mode(number: int, target: Path) -> None:
    """Give what is made the permissions of what it takes the place of, before anything is written that they protect."""
    with suppress(FileNotFoundError):
        os.fchmod(number, stat.S_IMODE(os.stat(target).st_mode))


def _new_file(name: Path) -> int:
    return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def _new_folder(name: Path) -> int:
    """A folder has to be made and opened in two steps, between which another process may sweep it away."""
    for _ in range(_ATTEMPTS):
        os.mkdir(name)
        try:
            return os.open(name, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except BaseException:
            _remove(name)
            raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _lock(number: int, *, wait: bool) -> bool:
    """Lock an open file or folder; False if another process holds it, or the file system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _sweep(target: Path) -> None:
    """Remove what the dead left over of the same target."""
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(_prefix(target)) and is_left_over(name):
                with suppress(OSError):
                    _remove_if_dead(target.parent / name)


def _remove(path: Path) -> None:
    """Remove a file or a folder of ours, as far as the system lets us."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _remove_if_dead(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if _lock(number, wait=False):
            _remove(path)
    finally:
        os.close(number)


# ---- to the disk -----------------------------------------------------------------------------------------------------


def _renamed(target: Path) -> None:
    """Flush the folder around a target that was renamed just now."""
    try:
        _flush_folder(target.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{str(target)!r} is written, but its folder cannot be flushed, so that a power cut may undo it: "
            f"{error.strerror}",
        ) from error


def _flush_folder(path: Path) -> None:
    """Flush a folder: what is in it is found there after a power cut, under its new name."""
    try:
        with _open(path) as number:
            os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def _flush_all(folder: Path) -> None:
    """Flush all that is in a folder."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            with _open(Path(root, name)) as number:
                os.fsync(number)
        _flush_folder(Path(root))


@contextmanager
def _open(path: Path) -> Iterator[int]:
    """Open a file or a folder to flush it."""
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)
