"""What a command says and where: results on stdout, all else on stderr, a failure in one sentence."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

FAILED, BAD_CALL, INTERRUPTED = 1, 2, 130
_WIDE = 1000  # columns of a table that no terminal shows: nothing is cut off


class BadCall(Exception):
    """Options that do not go together; the message is a sentence without its full stop."""


def failed(message: str) -> int:
    """Say a sentence on stderr; return the exit status."""
    print(message, file=sys.stderr)
    return FAILED


def missing(error: ModuleNotFoundError, what: str, extra: str, modules: Sequence[str]) -> int:
    """Say which extra a missing module belongs to; another one is an error of ours."""
    if (error.name or "").split(".")[0] not in modules:
        raise error
    return failed(f"{what} needs {error.name}. Install it with: pip install 'masklib[{extra}]'")


def talking(app: Any, arguments: Sequence[str] | None) -> int:
    """Run an app; what goes wrong in it is a sentence and an exit status, never a traceback of ours."""
    import typer

    usage: Any = typer.BadParameter.__base__  # of click, or of the copy that typer has had of it since 0.20 or so
    command: Any = typer.main.get_command(app)
    given = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:
        _as_a_process()
    try:
        status = command.main(args=given, prog_name="masklib", standalone_mode=False)
        sys.stdout.flush()
    except (usage, BadCall) as error:
        place = next((f"masklib {word}" for word in given if word in command.commands), "masklib")
        said = _said(error, command)
        print(f"{place}: {said}{'' if said.endswith('?') else '.'} See {place} --help.", file=sys.stderr)
        raise SystemExit(BAD_CALL) from None
    except BrokenPipeError:
        return _nobody_reads()
    except (ValueError, TypeError, IndexError, OSError) as error:
        return failed(f"masklib: {getattr(error, 'strerror', None) or error}")
    except _Ended as ended:
        return _leave(ended.number)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:  # which newer versions of typer return
        print("masklib: interrupted; no target was written.", file=sys.stderr)
    return int(status or 0)


def _as_a_process() -> None:
    """Write to nowhere where a stream is closed, print what a stream has no letters for, and clean up when ended."""
    sys.stdout, sys.stderr = (s or open(os.devnull, "w") for s in (sys.stdout, sys.stderr))  # noqa: SIM115, to the end
    streams: Any = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # that of a notebook has not
            stream.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):  # a file that is half written would stay, were there no exception
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, _ended)


class _Ended(SystemExit):
    """A signal has ended the process."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def _ended(number: int, _: Any) -> None:
    raise _Ended(number)


def _leave(number: int) -> NoReturn:
    """Clean up and end at once: threads of torch that are at work abort an interpreter that shuts down."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(128 + number)


def _said(error: Any, command: Any) -> str:
    """What is wrong with a call, without a full stop."""
    kind, message = type(error).__name__, str(getattr(error, "message", error))
    if kind == "NoArgsIsHelpError" or message.startswith("Missing command"):
        return f"required: command, one of {', '.join(sorted(command.commands))}"
    if kind == "MissingParameter":
        is_option = error.param.param_type_name == "option"
        return f"{error.param.opts[0] if is_option else error.param.name.upper()} is missing"
    return (message if message.startswith("`") or kind == "BadCall" else error.format_message()).rstrip(".")


def _nobody_reads() -> int:
    """Whoever read the output has gone: Python must not find out again when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


# ---- tables ---------------------------------------------------------------------------------------------------------


def console(file: Any) -> Any:
    """A console of rich on a stream, which cuts nothing off where no terminal is."""
    from rich.console import Console

    return Console(file=file, width=None if file.isatty() else _WIDE, highlight=False)


Tell = Callable[[int, int], None]
