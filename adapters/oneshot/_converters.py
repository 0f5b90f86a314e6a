"""How transformers makes the tensors of a model out of those of a checkpoint: the one file that knows its loader.

Since version 5 checkpoints have other names and shapes than models: weights of experts are packed into one, queries,
keys and values are split, parts of names are changed. What is used is `get_model_conversion_mapping`,
`rename_source_key`, `WeightConverter` and `WeightRenaming`, as `from_pretrained` and `save_pretrained` use them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

Read = Callable[[str], Tensor]  # from a name to its tensor


class Conversions:
    """What transformers does to what it loads.

    Args:
        model: one of transformers 5.
        known: names of its tensors, as keys.
    """

    def __init__(self, model: Any, known: Mapping[str, Any]) -> None:
        self._model, self._known, self._core = model, known, import_module("transformers.core_model_loading")
        steps = import_module("transformers.conversion_mapping").get_model_conversion_mapping(model)
        self._renamings = [step for step in steps if isinstance(step, self._core.WeightRenaming)]
        converters = [step for step in steps if isinstance(step, self._core.WeightConverter)]
        self._of_pattern = {pattern: step for step in converters for pattern in step.source_patterns}
        self._converters = converters

    def grouped(self, names: Iterable[str]) -> tuple[dict[str, str], dict[str, Converter]]:
        """What becomes of tensors of a checkpoint.

        Args:
            names: of all of them.

        Returns:
            The names in the model of those that stay as they are, and the converters of the others, by the first name
            in the model of what comes out.
        """
        plain: dict[str, str] = {}
        put: dict[str, Converter] = {}
        for name in sorted(names, key=self._core.dot_natural_key):
            between, first, pattern = self._renamed(name)
            if first not in self._known:
                continue
            if pattern is None:
                plain[name] = first
            else:
                found = put.setdefault(first, Converter(self._model, self._of_pattern[pattern], first))
                found.add(name, between, pattern)
        return plain, put

    def _renamed(self, name: str) -> tuple[str, str, str | None]:
        """The name between renaming and conversion, the first one in the model, and the pattern of a converter."""
        rename, end = self._core.rename_source_key, (self._model.base_model_prefix, self._known)
        between = rename(name, self._renamings, [])[0]
        first, pattern = rename(between, [], self._converters, *end)
        if first not in self._known and name in self._known:  # it has the model's name already
            return name, *rename(name, [], [], *end)
        return between, first, pattern


class Converter:
    """A conversion of some tensors of a checkpoint to some of a model, and back.

    Args:
        model: of transformers.
        step: a WeightConverter.
        first: the first name of what comes out.
    """

    def __init__(self, model: Any, step: Any, first: str) -> None:
        self._model, self._step, self._first = model, step, first
        self._between: dict[str, str] = {}  # from a name in the checkpoint to that between renaming and conversion
        self._patterns: dict[str, str] = {}

    def add(self, name: str, between: str, pattern: str) -> None:
        """Let a tensor of the checkpoint take part."""
        self._between[name], self._patterns[name] = between, pattern

    @property
    def sources(self) -> tuple[str, ...]:
        """The names in the checkpoint."""
        return tuple(self._between)

    @property
    def kind(self) -> tuple[int, tuple[str, ...]]:
        """What conversions have in common that differ in names alone."""
        return id(self._step), tuple(dict.fromkeys(self._patterns.values()))

    @property
    def told(self) -> str:
        """The operations in a word each."""
        return " and ".join(type(operation).__name__ for operation in self._step.operations)

    def there(self, read: Read) -> dict[str, Tensor]:
        """The tensors of the model by name, out of those of the checkpoint, each of which is read when it is needed."""
        step = deepcopy(self._step)
        for name, pattern in self._patterns.items():
            step.add_tensor(self._first, name, pattern, partial(read, name))
        return self._run(step, self._first)

    def back(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the checkpoint by name, out of those of the model."""
        step = self._step.reverse_transform()
        first = ""
        for name, value in values.items():
            first, pattern = step.rename_source_key(name)
            step.add_tensor(first, name, pattern, value)
        found = self._run(step, first)
        return {name: found[self._spelled(between, found)] for name, between in self._between.items()}

    def _run(self, step: Any, first: str) -> dict[str, Tensor]:
        result = step.convert(first, model=self._model, config=self._model.config)
        with known_here():  # version 5.0 returns a pair
            return {name: value[0] if isinstance(value, list) else value for name, value in result.items()}

    def _spelled(self, between: str, found: Collection[str]) -> str:
        names = spelled(between, self._model.base_model_prefix)
        return next((name for name in names if name in found), between)


def spelled(name: str, prefix: str) -> list[str]:
    """A name as it is, and with or without the prefix of the models of transformers."""
    return [name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")] if prefix else [name]


def conversions_of(model: nn.Module, known: Mapping[str, Any]) -> Conversions | None:
    """What transformers does when it loads a model; None if it has no converters, or the model is none of its own.

    Raises:
        ValueError: if it has other converters than those that are known here.
    """
    if not hasattr(model, "base_model_prefix"):
        return None
    try:
        import_module("transformers.conversion_mapping")
    except ModuleNotFoundError:  # version 4, whose models have the names of their checkpoints
        return None
    with known_here():
        return Conversions(model, known)


@contextmanager
def known_here() -> Iterator[None]:
    """Say that transformers has other converters than those that are known here."""
    try:
        yield
    except (ImportError, AttributeError, TypeError) as error:
        version = import_module("transformers").__version__
        raise ValueError(
            f"`source` cannot be read a block at a time with transformers {version}, whose loader is another one than "
            f"that of 5.17 to 5.24: {error}. Install one of these, or load the model, and pass it to oneshot.prune."
        ) from error
