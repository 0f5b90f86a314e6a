"""History: steps are methods with their parameters bound, a history is a sequence of steps.

All steps see the same scores; each starts from the mask that the one before it left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from torch import Tensor

from masklib import _read
from masklib._names import TensorsT
from masklib.methods import identity

Step = Callable[[Any, Any], Any]


def fold(history: Sequence[Step], scores: TensorsT, default_mask: TensorsT | None = None) -> TensorsT:
    """Run a history of steps and return the last mask.

        fold((), s, m) = m        fold((*a, *b), s, m) = fold(b, s, fold(a, s, m))

    Args:
        history: steps `(scores, default_mask) -> mask`, such as `partial(l1_unstructured, amount=0.2)`.
        scores: a tensor or a mapping by name, the same for all steps.
        default_mask: bool, where to start; None for all True.

    Returns:
        The mask after the last step.

    Raises:
        TypeError: if a step is not callable or does not return a bool mask.
        ValueError: if a step returns other shapes or names, or raises it.

    >>> step = partial(l1_unstructured, amount=0.5)
    >>> fold((step, step), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([False, False, False,  True])
    """
    return scan(history, scores, default_mask)[-1]


def scan(history: Sequence[Step], scores: TensorsT, default_mask: TensorsT | None = None) -> tuple[TensorsT, ...]:
    """Run a history of steps and return all masks, the start included.

        scan(h, s, m)[i] = fold(h[:i], s, m)

    Args:
        history: steps `(scores, default_mask) -> mask`.
        scores: a tensor or a mapping by name, the same for all steps.
        default_mask: bool, where to start; None for all True.

    Returns:
        len(history) + 1 masks.

    Raises:
        TypeError: if a step is not callable or does not return a bool mask.
        ValueError: if a step returns other shapes or names, or raises it.

    >>> [int(m.sum()) for m in scan([partial(l1_unstructured, amount=0.5)] * 2, torch.ones(8))]
    [8, 4, 2]
    """
    steps = list(enumerate(_steps(history)))

    def advance(mask: Any, step: tuple[int, Step]) -> Any:
        index, method = step
        result = method(scores, mask)
        _read.masks(result, scores, f"the mask of step {index}")
        return result

    return tuple(accumulate(steps, advance, initial=identity(scores, default_mask)))


def chain(*steps: Step) -> Step:
    """Make one method of several steps.

        chain(*h)(s, m) = fold(h, s, m)

    Args:
        steps: methods `(scores, default_mask) -> mask`.

    Returns:
        The method `(scores, default_mask=None) -> mask`; picklable if its steps are.

    Raises:
        TypeError: if a step is not callable.

    >>> chain(partial(l1_unstructured, amount=1), partial(l1_unstructured, amount=1))(torch.tensor([1.0, 2.0, 3.0]))
    tensor([False, False,  True])
    """
    return partial(fold, _steps(steps))


def layerwise(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method prune each tensor of a mapping on its own.

        layerwise(f)(s, m, **params)[name] = f({name: s[name]}, {name: m[name]}, **params[name])[name]

    Args:
        method: `method(scores, default_mask, **params) -> mask`.

    Returns:
        The method, called for each tensor by itself. Each parameter is one value for all tensors, or a mapping with
        exactly the scores' names.

    Raises:
        TypeError: if the method is not callable.
        ValueError: if a parameter's names are not the scores'.

    >>> s = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    >>> layerwise(l1_unstructured)(s, amount={"a": 0, "b": 1})
    {'a': tensor([True, True]), 'b': tensor([False,  True])}
    """
    _read.function(method, "method", "layerwise(l1_unstructured)")
    return partial(_layerwise, method)


def _layerwise(method: Callable[..., Any], /, scores: Any, default_mask: Any = None, **params: Any) -> Any:
    values = _read.tensors(scores, "scores")
    for argument, value in params.items():
        if isinstance(value, Mapping):
            _read.same_names(value, values, argument)
    if not isinstance(scores, Mapping):
        return method(scores, default_mask, **params)
    alive = _read.default_masks(default_mask, scores)
    return {n: _one(method, n, v, alive[n], params) for n, v in values.items()}


_NUMBERS = ("amount", "keep", "sparsity", "key")  # what a 0-d tensor is, beside scores that are 0-d themselves


def _of_name(argument: str, values: Mapping[str, Any], name: str, scores: Tensor) -> Any:
    """What a mapping holds for one name: numbers as they are, tensors such as masks and scores by that name."""
    value = values[name]
    like_scores = isinstance(value, Tensor) and value.shape == scores.shape
    return {name: value} if like_scores and not (value.dim() == 0 and argument in _NUMBERS) else value


def _one(method: Callable[..., Any], name: str, scores: Any, alive: Any, params: Mapping[str, Any]) -> Any:
    own = {k: _of_name(k, v, name, scores) if isinstance(v, Mapping) else v for k, v in params.items()}
    return method({name: scores}, None if alive is None else {name: alive}, **own)[name]


# ---- what is refused ------------------------------------------------------------------------------------------------


def _steps(value: Any) -> tuple[Step, ...]:
    """Read a history: an iterable of callables."""
    example = "[partial(l1_unstructured, amount=0.2)]"
    if callable(value) or isinstance(value, (Tensor, str)) or not _read.iterates(value):
        raise TypeError(f"`history` must be a sequence of steps, got {value!r}. For example {example}.")
    history = tuple(value)
    for index, step in enumerate(history):
        _read.function(step, f"history[{index}]", example)
    return history
