"""Trying a law on what is drawn, and saying what broke it as code to paste."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky, Unsatisfiable
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from masklib.groups import Coupled, Groups, Labels, _printed

Law = Callable[..., None]


class _Broken(Exception):
    """A law is broken; what broke it is remembered beside."""


def uphold(law: Law, arguments: SearchStrategy[Any], examples: int, hint: str = "") -> None:
    """Raise an AssertionError if a law fails on some of its arguments; its first line names the law.

    Args:
        law: a function that raises if it is broken.
        arguments: a strategy of tuples of its arguments.
        examples: how many to draw, always the same ones.
        hint: a sentence to end with.
    """
    if not __debug__:
        raise RuntimeError("the laws are assert statements, which python -O leaves out: run without -O.")
    broken = _smallest(law, arguments, examples)
    if broken is not None:
        code, error = broken
        raise AssertionError("\n".join(filter(None, [title(law), code, _said(error), hint]))) from error


def _smallest(law: Law, arguments: SearchStrategy[Any], examples: int) -> tuple[str, Exception] | None:
    """The simplest arguments found on which a law fails, as code, and what it raised."""
    last: list[tuple[str, Exception]] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(arguments)
    def attempt(values: tuple[Any, ...]) -> None:
        code, error = pasted(law, values), _raised(law, values)
        if error is not None:
            last[:] = [(code, error)]
            raise _Broken

    try:
        with torch.random.fork_rng(devices=[]):
            attempt()
    except (_Broken, Flaky):
        return last[0]
    except Unsatisfiable as error:
        return "# every input that was drawn was refused", error
    return None


def _raised(law: Law, values: tuple[Any, ...]) -> Exception | None:
    try:
        law(*values)
    except Exception as error:
        return error
    return None


# ---- in words -------------------------------------------------------------------------------------------------------


def title(law: Law) -> str:
    """The name of a law and its equation, in one line."""
    return f"{getattr(law, '__name__', law)}: {' '.join((inspect.getdoc(law) or '').split(chr(10) * 2)[0].split())}"


def _said(error: Exception) -> str:
    """What was raised, as comments; an assertion without a message says nothing."""
    lines = str(error).splitlines() or [""]
    if isinstance(error, AssertionError):
        return "\n".join(f"# {line}" for line in lines if line)
    return f"# raised {type(error).__name__}: " + "\n# ".join(lines)


def pasted(law: Law, values: tuple[Any, ...]) -> str:
    """A call of a law as code: the imports it needs, its arguments, and the call."""
    given = inspect.signature(law).bind(*values).arguments
    lines = [f"{name} = {literal(value)}" for name, value in given.items()]
    if law.__module__.startswith("masklib.testing.laws"):
        lines.append(f"laws.{law.__name__}({', '.join(given)})")
    return "\n".join([*_imports("\n".join(lines)), *lines])


def _imports(code: str) -> list[str]:
    """The imports that code needs."""
    needed = {
        "from functools import partial": r"\bpartial\(",
        "from math import inf, nan": r"\b(inf|nan)\b",
        "import torch": r"\btorch\.",
        "import masklib as ml": r"\bml\.",
        "from masklib.testing import laws": r"\blaws\.",
    }
    found = [line for line, use in needed.items() if re.search(use, code)]
    return [*found, ""] if found else []


def literal(value: Any) -> str:
    """A value as code that makes it."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Groups):
        return _groups(value)
    if isinstance(value, tuple | list):
        parts = ", ".join(map(literal, value))
        return f"[{parts}]" if isinstance(value, list) else f"({parts}{',' * (len(value) == 1)})"
    return _function(value) if callable(value) else repr(value)


def _function(value: Any) -> str:
    if isinstance(value, partial):
        options = (f"{name}={literal(v)}" for name, v in value.keywords.items())
        return f"partial({', '.join(chain([literal(value.func)], map(literal, value.args), options))})"
    name = getattr(value, "__name__", "")
    return name if name.isidentifier() else repr(value)


def _groups(value: Any) -> str:
    if isinstance(value, Labels):
        return f"ml.labels({literal(value.items)}, {literal(value.pools)})"
    if isinstance(value, Coupled):
        return f"ml.{_printed(value, [literal(dict(members)) for members in value.sets])}"
    return f"ml.{value!r}"


def _tensor(value: Tensor) -> str:
    """A tensor with its dtype and its strides."""
    dtype = "" if value.dtype == torch.bool else f", dtype={value.dtype}"
    value = value.detach()
    if not value.numel():
        return f"torch.zeros({tuple(value.shape)}, dtype={value.dtype})"
    size = value.untyped_storage().nbytes() // value.element_size()
    if value.is_contiguous() and size == value.numel():
        return f"torch.tensor({value.tolist()}{dtype})"
    stored = value.as_strided((size,), (1,), 0).tolist()
    place = f"{tuple(value.shape)}, {value.stride()}, {value.storage_offset()}"
    return f"torch.tensor({stored}{dtype}).as_strided({place})"
