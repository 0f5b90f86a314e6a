"""What is done to a layer: a rule is an accumulator over its inputs and a solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

import masklib
from masklib import scores
from masklib._rule import refuse_groups
from masklib.surgery import _admm, _sparsegpt


class Rule(NamedTuple):
    """How layers are pruned.

    Attributes:
        add: `add(state, inputs) -> state`, with inputs of shape (tokens, in), and None for the first state.
        solve: `solve(weight, state, default_mask, **number) -> (weight, mask)`, with a weight of shape (out, in), a
            mask or None, and the one of `amount`, `keep` and `sparsity` that is given.
        prepare: `prepare(state) -> state`, if there is any: of a state that several matrices share, as they saw the
            same inputs, it is called once, and `solve` is given what it returns.
    """

    add: Callable[[Any, Tensor], Any]
    solve: Callable[..., tuple[Tensor, Tensor]]
    prepare: Callable[[Any], Any] | None = None


Score = Callable[[Tensor, Any], Tensor]


def magnitude(*, groups: Any = None) -> Rule:
    """Remove the smallest weights; the inputs are not looked at.

    Args:
        groups: the items and pools of a layer, `elements()` by default.

    Returns:
        The rule.

    Raises:
        TypeError: if the groups say nothing about items and pools; so do the other rules.

    >>> magnitude().solve(torch.tensor([[1.0, -3.0]]), None, None, amount=1)
    (tensor([[0., -3.]]), tensor([[False,  True]]))
    """
    return Rule(_nothing, partial(_by_score, _magnitude, _or(masklib.elements(), groups)))


def wanda(*, groups: Any = None) -> Rule:
    """Remove the weights with the smallest product of magnitude and norm of the input (`scores.wanda`).

    Args:
        groups: the items and pools of a layer; by default each output by itself, `rows()`, as in the paper.

    Returns:
        The rule.

    >>> rule = wanda()
    >>> rule.solve(torch.tensor([[1.0, -3.0]]), rule.add(None, torch.tensor([[9.0, 1.0]])), None, keep=1)
    (tensor([[1., 0.]]), tensor([[ True, False]]))
    """
    return Rule(scores.add_input_norms, partial(_by_score, scores.wanda, _or(masklib.rows(), groups)))


def ria(*, power: float = 0.5, groups: Any = None) -> Rule:
    """Remove the weights with the smallest relative importance (`scores.ria`).

    Args:
        power: how much the inputs count.
        groups: the items and pools of a layer, `elements()` by default.

    Returns:
        The rule.

    >>> rule = ria(power=0)
    >>> rule.solve(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), rule.add(None, torch.ones(1, 2)), None, amount=1)[1]
    tensor([[ True,  True],
            [ True, False]])
    """
    score = partial(scores.ria, power=power)
    return Rule(scores.add_input_norms, partial(_by_score, score, _or(masklib.elements(), groups)))


def sparsegpt(*, groups: Any = None, block: int = 128, damping: float = 0.01) -> Rule:
    """Prune column by column, and let the columns to the right make up for it (`masklib.sparsegpt`).

    Args:
        groups, block, damping: as for `masklib.sparsegpt`.

    Returns:
        The rule.

    >>> rule = sparsegpt()
    >>> rule.solve(torch.tensor([[1.0, -3.0]]), rule.add(None, torch.eye(2)), None, keep=1)[1]
    tensor([[False,  True]])
    """
    own = _or(masklib.elements(), groups)
    solve = partial(masklib.sparsegpt, groups=own, block=block, damping=damping)
    return Rule(scores.add_hessian, solve, partial(_sparsegpt.prepared, damping=damping))


def admm(
    *, groups: Any = None, penalty: Sequence[float] | None = None, relaxation: float = 1.3, damping: float = 0.1
) -> Rule:
    """Choose masks and move weights in turns (`masklib.admm`): what loses least.

    Args:
        groups, relaxation, damping: as for `masklib.admm`.
        penalty: as for `masklib.admm`; None for its own.

    Returns:
        The rule.

    >>> rule = admm()
    >>> rule.solve(torch.tensor([[1.0, -3.0]]), rule.add(None, torch.eye(2)), None, keep=1)[1]
    tensor([[False,  True]])
    """
    options: dict[str, Any] = {"relaxation": relaxation, "damping": damping}
    if penalty is not None:
        options["penalty"] = penalty
    own = _or(masklib.elements(), groups)
    return Rule(scores.add_hessian, partial(masklib.admm, groups=own, **options), partial(_admm.prepared, **options))


def _nothing(state: Any, inputs: Tensor) -> Any:
    return state


def _magnitude(weight: Tensor, state: Any) -> Tensor:
    return scores.magnitude(weight)


def _by_score(
    score: Score, groups: Any, weight: Tensor, state: Any, default_mask: Tensor | None = None, **number: Any
) -> tuple[Tensor, Tensor]:
    mask = masklib.compute_mask(score(weight, state), default_mask, groups=groups, **number)
    return masklib.apply(weight.detach(), mask), mask


def _or(default: Any, groups: Any) -> Any:
    if groups is None:
        return default
    refuse_groups(groups)
    return groups
