"""Trying a law on what is drawn, and saying what broke it as code to paste."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy
from torch import Tensor

import masklib as ml
from masklib.testing.laws._compare import restored_modes

Law = Callable[..., None]
Cases = SearchStrategy[tuple[Any, ...]]


class Trial(NamedTuple):
    """A law, its arguments from what was drawn (None where it does not apply), and a sentence to end with."""

    law: Law
    arguments: Callable[..., tuple[Any, ...] | None]
    hint: str = ""

    @property
    def name(self) -> str:
        """The name of the law."""
        return getattr(self.law, "__name__", str(self.law))


class Failure(NamedTuple):
    """What to say of a broken law, and what it raised."""

    text: str
    error: Exception


def wanted_of(trials: Iterable[Trial], without: Collection[Law]) -> list[Trial]:
    """The trials of all laws but some, each with what to say if it is not promised."""
    kept = (trial for trial in trials if trial.law not in without)
    return [t if t.hint else t._replace(hint=f"# if it is not promised, pass without=[laws.{t.name}]") for t in kept]


def need_asserts() -> None:
    """Refuse to run where no law can be broken."""
    if not __debug__:
        raise RuntimeError("the laws are assert statements, which python -O leaves out: run without -O.")


class _Broken(Exception):
    """A law is broken; what broke it is remembered beside."""


def refuted(kinds: Sequence[Cases], trials: Sequence[Trial], examples: int) -> dict[str, Failure | None]:
    """Try laws on what is drawn.

    Args:
        kinds: strategies of what the arguments of the laws are made from, the simplest first.
        trials: the laws.
        examples: how many cases to draw of each kind, always the same ones.

    Returns:
        By the name of each law None if it held, or its failure on a simple case.
    """
    need_asserts()
    results: dict[str, Failure | None] = {trial.name: None for trial in trials}
    for cases in kinds:
        held = [trial for trial in trials if results[trial.name] is None]
        results |= _shrunk(held, _first_failures(held, cases, examples), cases, examples)
    return results


def uphold(results: Mapping[str, Failure | None]) -> None:
    """Raise an AssertionError with a paragraph for each law that failed, whose first line names it.

    The first law of all says what is taken; if it failed, the others say nothing.
    """
    failures = [failure for failure in results.values() if failure is not None]
    if failures:
        said = failures[:1] if next(iter(results.values())) else failures
        raise AssertionError("\n\n".join(failure.text for failure in said)) from said[0].error


def _first_failures(trials: Sequence[Trial], cases: Cases, examples: int) -> dict[str, Failure]:
    """By the name of each law that fails, its first failure."""
    found: dict[str, Failure] = {}

    def attempt(case: tuple[Any, ...]) -> None:
        for trial in trials:
            if trial.name not in found:
                failure = _failure(trial, case)
                found.update({} if failure is None else {trial.name: failure})

    _try(attempt, cases, examples)
    return found


def _shrunk(
    trials: Sequence[Trial], found: Mapping[str, Failure], cases: Cases, examples: int
) -> Mapping[str, Failure]:
    """The failure of the first broken law on its simplest case, those of the others on the simplest met on the way."""
    broken = [trial for trial in trials if trial.name in found]
    if not broken:
        return found
    smallest = dict(found)

    def attempt(case: tuple[Any, ...]) -> None:
        target, *others = (_failure(trial, case) for trial in broken)
        for trial, failure in zip(broken[1:], others):
            if failure is not None and len(failure.text) < len(smallest[trial.name].text):
                smallest[trial.name] = failure
        if target is not None:
            smallest[broken[0].name] = target
            raise _Broken

    with suppress(_Broken, Flaky):
        _try(attempt, cases, examples)
    return smallest


def _try(attempt: Callable[[tuple[Any, ...]], None], cases: Cases, examples: int) -> None:
    """Call a function on each case drawn; if it raises, on simpler ones."""

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
    @given(cases)
    def drawn(case: tuple[Any, ...]) -> None:
        attempt(case)

    with torch.random.fork_rng(devices=[]):
        drawn()


def _failure(trial: Trial, case: tuple[Any, ...]) -> Failure | None:
    """What a law raises on arguments of its own, and why."""
    arguments = trial.arguments(*case)
    if arguments is None:
        return None
    try:
        with restored_modes():
            trial.law(*(_copied(x) for x in arguments))
    except Exception as error:
        lines = [title(trial.law), pasted(trial.law, arguments), _said(error), trial.hint]
        return Failure("\n".join(filter(None, lines)), error)
    return None


def _copied(value: Any) -> Any:
    """Tensors, alone or by name, in memory of their own; strides and all stay."""
    if isinstance(value, Tensor | dict):
        return copy.deepcopy(value)
    return value


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
    parts = chain.from_iterable(map(_parts, given.values()))
    lines += dict.fromkeys(f"# {_NAMELESS} is {_origin(part)}" for part in parts if _nameless(part))
    return "\n".join([*_imports("\n".join(lines)), *lines])


def _imports(code: str) -> list[str]:
    """The imports that code needs."""
    needed = {
        "from functools import partial": r"\bpartial\(",
        "from math import inf": r"\binf\b",
        "from math import nan": r"\bnan\b",
        "from operator import pos": r"= pos$",
        "import torch": r"\btorch\.",
        "import masklib as ml": r"\bml\.",
        "from masklib.testing import laws": r"\blaws\.",
    }
    return [line for line, use in needed.items() if re.search(use, code, flags=re.M)]


def literal(value: Any) -> str:
    """A value as code that makes it."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {literal(v)}" for k, v in value.items()) + "}"
    if type(value).__module__.startswith("masklib.") and repr(value)[:1].islower():
        return _call(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = (f"{name}={literal(part)}" for name, part in zip(value._fields, value))
        return f"{_function(type(value))}({', '.join(fields)})"
    if isinstance(value, tuple | list):
        parts = ", ".join(map(literal, value))
        return f"[{parts}]" if isinstance(value, list) else f"({parts}{',' * (len(value) == 1)})"
    if _nameless(value):
        return _NAMELESS
    return _function(value) if callable(value) else repr(value)


def _function(value: Any) -> str:
    if isinstance(value, partial):
        options = (f"{name}={literal(v)}" for name, v in value.keywords.items())
        return f"partial({', '.join(chain([literal(value.func)], map(literal, value.args), options))})"
    name = getattr(value, "__name__", "")
    for space in (ml, ml.scores, ml.budgets, ml.schedules):
        if getattr(space, name, None) is value:
            return f"{space.__name__.replace('masklib', 'ml')}.{name}"
    return name if name.isidentifier() else repr(value)


_NAMELESS = "yours"  # a lambda, or an instance without a repr of its own


def _nameless(value: Any) -> bool:
    return not getattr(value, "__name__", "").isidentifier() and repr(value).startswith("<")


def _parts(value: Any) -> Iterator[Any]:
    """A value, or of a partial its function and what is bound."""
    if isinstance(value, partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _parts(part)
    else:
        yield value


def _origin(value: Any) -> str:
    code = getattr(value, "__code__", None)
    if code is None:
        return f"the {type(value).__qualname__}"
    return f"the lambda of {Path(code.co_filename).name}, line {code.co_firstlineno}"


def _call(value: Any) -> str:
    """A value of masklib prints as the call that makes it; tensors in it are written out."""
    if hasattr(value, "items"):
        return f"ml.labels({literal(value.items)}, {literal(value.pools)})"
    return re.sub(r"\b(?=[a-z]\w*\()", "ml.", repr(value))


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
