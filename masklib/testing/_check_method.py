"""`check_method`: every law that applies to a method."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from masklib.testing._promise import Promise, results
from masklib.testing._refute import Law, uphold
from masklib.testing._strategies import Shapes


def check_method(
    method: Callable[..., Any],
    *,
    counts: Any = None,
    exact: bool = True,
    ranks: Callable[[Any], Any] | None = operator.pos,
    ties: bool = True,
    nan: bool = True,
    without: Collection[Law] = (),
    shapes: Shapes = None,
    dtypes: Sequence[torch.dtype] | None = None,
    kinds: Sequence[str] | None = None,
    tensors: bool = True,
    mappings: bool = True,
    vmap: bool | None = None,
    compiles: bool = False,
    forks: bool = False,
    large: bool = False,
    examples: int = 100,
    **params: Any,
) -> None:
    """Hold a method, `method(scores, default_mask, **params) -> mask`, to the promise of `compute_mask`.

        in each pool exactly as many live items die as the number says, the lowest first, the lower index among equals

    and the mask only shrinks, NaN is refused, nothing else is looked at or changed, wherever the method is called from.
    What a method does not promise is switched off by name; the message of a broken law says how.

    Scores are drawn in all dtypes, shapes and layouts, masks in all densities. A number (`amount`, `keep` or
    `sparsity`) is varied: a share within [0, 1], a count from 0 to what is given. A check of tensors and mappings takes
    about 8 seconds for 100 examples of a method that takes 50 microseconds.

    Args:
        method: the method; it takes scores and a mask or None by position, and `params` by name.
        counts: the groups whose items it counts and ranks; None for `groups` of the params, or else `elements()`.
        exact: whether exactly as many items die as the number says.
        ranks: the score whose lowest die, a function of a tensor of scores: `torch.abs` for magnitudes; the scores
            themselves by default, None for a method that ranks nothing, or something else.
        ties: whether the lower index dies first among equals.
        nan: whether NaN in a live score is refused with a ValueError.
        without: any other laws that it does not promise, such as `[laws.is_nested]`.
        shapes: a shape or a strategy of shapes that the method can take; None for all from 0-d to 4-d, empty ones
            included.
        dtypes: the dtypes it can take; None for all.
        kinds: which scores to draw, see `scores`; None for all, or for items of several elements for those whose sums
            are exact.
        tensors: whether it takes tensors.
        mappings: whether it takes mappings by name.
        vmap: whether it must run under torch.vmap; None for not, but what it gives there must be right.
        compiles: whether it must run as one compiled graph; this takes seconds.
        forks: whether to call it in forked processes too; this takes a tenth of a second.
        large: whether to count 2**24 + 3 elements too, more than float32 can; this takes seconds.
        examples: how many cases to draw for each law, always the same ones.
        params: what to pass on to the method.

    Raises:
        TypeError, ValueError: if an argument is not as above.
        AssertionError: if laws are broken; for each a paragraph, whose first line names the law and whose rest is the
            smallest counterexample found, as code that can be run, and the option that opts out.

    >>> check_method(l1_unstructured, amount=0.3, ranks=torch.abs, examples=5)
    >>> check_method(l1_unstructured, amount=0.3, examples=30)
    Traceback (most recent call last):
    AssertionError: takes_the_lowest: In each pool no item that dies scores above one that survives.
    ...
    """
    uphold(_tried(method, locals()))


def method_laws(method: Callable[..., Any], **options: Any) -> dict[str, str | None]:
    """Try every law of methods that applies to a method.

    Args:
        method: the method.
        options: as for `check_method`.

    Returns:
        By the name of each law, None if it holds, or what broke it.

    >>> method_laws(l1_unstructured, amount=0.3, ranks=torch.abs, examples=5)["shrinks"] is None
    True
    """
    defaults: dict[str, Any] = check_method.__kwdefaults__ or {}
    said = {name: options.pop(name, default) for name, default in defaults.items()}
    tried = _tried(method, {**said, "params": options})
    return {name: failure and failure.text for name, failure in tried.items()}


def _tried(method: Any, said: dict[str, Any]) -> dict[str, Any]:
    """The results of all laws; `said` are the options by name, and the params."""
    given = {name: value for name, value in said.items() if name != "method"}
    examples = given.pop("examples")
    return results(Promise(method, **given), examples)
