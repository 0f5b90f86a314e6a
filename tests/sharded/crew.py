"""Four gloo processes for a whole test session: they get importable functions by pipe, and answer by pipe.

    from sharded.crew import run

    results = run(function, *arguments, mesh=(2, 2))        # function(mesh, *arguments) on each rank, in order

A function lives in a module that can be imported, not in a test module. Whatever raises on a rank is raised by `run`;
`outcomes` returns it. Ranks that do not answer in time hang: they are ended, the test fails, and the next call starts
new ones.
"""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

WORLD = 4
MESHES = [(1,), (2,), (3,), (4,), (2, 2), (4, 1), (1, 2)]
SECONDS = 60
PRELOADED = ["torch.distributed.tensor", "torch.distributed.fsdp", "torch._dynamo", "masklib"]  # once, not by each rank
STARTING = 600  # four interpreters that import torch took 180 s on a busy machine: no part of an answer's time
_NONE = object()


class Failed(NamedTuple):
    """What a rank raised; a type that cannot be pickled is a RankError."""

    kind: type[BaseException]
    message: str
    trace: str


class RankError(AssertionError):
    """A rank raised, or none answered."""


def run(function: Any, *arguments: Any, mesh: tuple[int, ...] = (2,), seconds: float = SECONDS) -> list[Any]:
    """What `function(mesh, *arguments)` returns on each rank of a mesh."""
    results = outcomes(function, *arguments, mesh=mesh, seconds=seconds)
    for rank, result in enumerate(results):
        if isinstance(result, Failed):
            raise RankError(f"rank {rank} of {mesh}:\n{result.trace}")
    return results


def outcomes(function: Any, *arguments: Any, mesh: tuple[int, ...] = (2,), seconds: float = SECONDS) -> list[Any]:
    """The same, with what is raised in the place of what is returned."""
    return _crew().ask(pickle.dumps((function, arguments, mesh)), mesh, seconds)


# ---- the parent -----------------------------------------------------------------------------------------------------


class Crew:
    def __init__(self, world: int = WORLD) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        self.pipes, self.processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, world, store), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        end = time.monotonic() + STARTING
        if _NONE in [self._answer(rank, end) for rank in range(world)]:
            self.end()
            raise RankError(f"{world} ranks did not start in {STARTING} s.")

    def ask(self, task: bytes, mesh: tuple[int, ...], seconds: float) -> list[Any]:
        ranks = range(_size(mesh))
        for rank in ranks:
            self.pipes[rank].send_bytes(task)
        end = time.monotonic() + seconds
        answers = {rank: self._answer(rank, end) for rank in ranks}
        hanging = [rank for rank, answer in answers.items() if answer is _NONE]
        if hanging:
            self.end()
            others = "\n".join(a.trace for a in answers.values() if isinstance(a, Failed))
            raise RankError(f"ranks {hanging} of {mesh} hang: no answer in {seconds} s. Of the others:\n{others}")
        return list(answers.values())

    def _answer(self, rank: int, end: float) -> Any:
        waiting = max(0, end - time.monotonic())
        return pickle.loads(self.pipes[rank].recv_bytes()) if self.pipes[rank].poll(waiting) else _NONE

    def end(self) -> None:
        global _running
        _running = None if _running is self else _running
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        self._folder.cleanup()


_running: Crew | None = None


def _crew() -> Crew:
    global _running
    if _running is None:
        _running = Crew()
        atexit.register(_running.end)
    return _running


def _size(mesh: tuple[int, ...]) -> int:
    size = 1
    for side in mesh:
        size *= side
    return size


# ---- a rank ---------------------------------------------------------------------------------------------------------


def _serve(pipe: Any, rank: int, world: int, store: str) -> None:
    import logging
    import warnings

    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    logging.getLogger("torch.distributed").setLevel(logging.ERROR)  # that what tests gather could be gathered faster
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module="torch")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    meshes = {
        m: DeviceMesh("cpu", torch.arange(_size(m)).view(m), mesh_dim_names=_names(m))
        for m in MESHES
        if _size(m) <= world
    }
    pipe.send_bytes(pickle.dumps("ready"))
    while True:
        try:
            task = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_result(task, meshes))


def _names(mesh: tuple[int, ...]) -> tuple[str, ...]:
    return ("dp", "tp")[: len(mesh)]


def _result(task: bytes, meshes: Any) -> bytes:
    try:
        function, arguments, mesh = pickle.loads(task)
        return pickle.dumps(function(meshes[mesh], *arguments))
    except BaseException as error:
        return _told(Failed(type(error), str(error), traceback.format_exc()))


def _told(failed: Failed) -> bytes:
    try:
        return pickle.dumps(failed)
    except Exception:  # pytest says of the type of its own failures that it is in `builtins`
        return pickle.dumps(failed._replace(kind=RankError))
