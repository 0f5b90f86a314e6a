"""Pruning once, gradually, in rounds, or with dense phases between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from masklib import _read
from masklib._names import each
from masklib.algebra import dense as all_alive
from masklib.methods import l1_unstructured
from masklib.schedules import one_shot
from masklib.updates._value import Update, a_step, due_of, ranked, shared_out


def static(method: Callable[..., Any], *, score: Callable[[Any, Any], Any] | None = None, **numbers: Any) -> Update:
    """Prune once, before the first step, and train under that mask.

        masks(0) = method(score(params, grads), masks, **numbers)

    Args:
        method: `method(scores, default_mask, **numbers) -> mask`, any of the core.
        score: `(params, grads) -> scores`; magnitudes if None. The gradients are those that the parameters hold.
        numbers: what else the method takes.

    Returns:
        The update.

    Raises:
        TypeError: if `method` or `score` cannot be called.

    >>> params = {"w": torch.tensor([3.0, -1.0, 2.0, 4.0])}
    >>> updates.static(l1_unstructured, amount=0.5)(0, params, dense(params))
    {'w': tensor([ True, False, False,  True])}

    Reference: Lee et al., "SNIP", 2019, with `score=scores.saliency`.
    """
    _refuse(method, score)
    return Update(partial(_static, method, score, numbers), one_shot(0.0).due, needs_grads=score is not None)


def gradual(
    method: Callable[..., Any],
    schedule: Callable[[Any], Any],
    *,
    score: Callable[[Any, Any], Any] | None = None,
    observe: Callable[[Any, Any, Any], Any] | None = None,
    budget: Callable[[Any, Any], Any] | None = None,
) -> Update:
    """Prune more and more while training.

        masks(t) = method(score(params, evidence), masks, sparsity=schedule(t))   where schedule.due(t)

    Args:
        method: `method(scores, default_mask, sparsity=) -> mask`, any of the core.
        schedule: step -> sparsity, any of `schedules`; a plain function of the step is due at every step.
        score: `(params, evidence) -> scores`; magnitudes if None.
        observe: `(state, params, grads) -> state`, what to gather at each step, which is then the evidence; dense
            gradients are if None.
        budget: `(params, sparsity) -> sparsities by name`, such as `budgets.erk`: the method is then called for
            each tensor, with `keep=`. None for one pool. With a budget a step must be an int.

    Returns:
        The update; its last masks have exactly the schedule's last sparsity. With `observe` and `score` it raises at
        step 0, when nothing has been seen.

    Raises:
        TypeError: if an argument is not callable.

    >>> update = updates.gradual(l1_unstructured, schedules.linear(0.75, stop=3))
    >>> params = {"w": torch.tensor([3.0, -1.0, 2.0, 4.0])}
    >>> [int(count(update(step, params, dense(params)))) for step in range(5)]
    [4, 3, 2, 1, 4]

    Reference: Zhu and Gupta, "To prune, or not to prune", 2017; Sanh et al., "Movement Pruning", 2020, with
    `observe=scores.add_movement, score=lambda params, state: scores.movement(state)`.
    """
    _refuse(method, score, schedule=schedule, budget=budget)
    ranking = score if score is None or observe is None else partial(_of_what_was_seen, score)
    function = partial(_gradual, method, schedule, ranking, budget)
    return Update(function, due_of(schedule), observe, needs_grads=score is not None and observe is None)


def lottery(
    method: Callable[..., Any],
    schedule: Callable[[Any], Any],
    *,
    rewind: int = 0,
    score: Callable[[Any, Any], Any] | None = None,
    budget: Callable[[Any, Any], Any] | None = None,
) -> Update:
    """Prune in rounds; each starts again from the first weights, or from those of step `rewind`.

        masks(t) = method(score(params, grads), masks, sparsity=schedule(t))   where schedule.due(t) and t > rewind
        params   = params(rewind), and the optimizer's state is new

    A learning rate that starts again with each round is the caller's.

    Args:
        method, score, budget: as of `gradual`.
        schedule: the sparsity at the end of each round, such as `schedules.exponential(0.2, every=1000, stop=10000)`.
        rewind: the step to go back to.

    Returns:
        The update.

    Raises:
        TypeError: if an argument is not callable, or `rewind` is not an int.
        ValueError: if `rewind` is negative, or not before the schedule's `stop`.

    >>> update = updates.lottery(l1_unstructured, schedules.exponential(0.5, every=10, stop=20))
    >>> [step for step in range(31) if update.due(step)]
    [10, 20]

    Reference: Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019; Frankle et al., "Linear Mode Connectivity and
    the Lottery Ticket Hypothesis", 2020 (late rewinding).
    """
    _refuse(method, score, schedule=schedule, budget=budget)
    first = a_step(rewind, "rewind", 0)
    if (stop := getattr(schedule, "stop", None)) is not None and first >= stop:
        raise ValueError(f"`rewind` must be before the schedule's stop={stop}, or no round ends, got {first}.")
    function = partial(_gradual, method, schedule, score, budget)
    return Update(function, partial(_due_after, schedule, first), needs_grads=score is not None, rewind=first)


def ac_dc(
    method: Callable[..., Any] = l1_unstructured, *, sparsity: float, sparse: int, dense: int, stop: int, start: int = 0
) -> Update:
    """Alternate sparse and dense phases, and end sparse.

        masks(t) = method(params, sparsity=sparsity)   as a sparse phase begins, and at `stop`, where the last begins
        masks(t) = all alive                           as a dense phase begins; what was dead starts from zero

    Args:
        method: `method(scores, default_mask, sparsity=) -> mask`, any of the core.
        sparsity: of the sparse phases, in [0, 1].
        sparse: the steps of a sparse phase.
        dense: the steps of a dense phase.
        stop: the step of the last update.
        start: the step at which the first sparse phase begins.

    Returns:
        The update.

    Raises:
        TypeError: if `method` cannot be called, or a number is not one.
        ValueError: if `sparsity` is not in [0, 1], a phase has no steps, or `stop` is not after `start`.

    >>> update = updates.ac_dc(sparsity=0.5, start=2, sparse=3, dense=2, stop=10)
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> [(t, int(count(update(t, params, dense(params))))) for t in range(12) if update.due(t)]
    [(2, 1), (5, 2), (7, 1), (10, 1)]

    Reference: Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks", 2021,
    algorithm 1.
    """
    _refuse(method, None)
    phases = a_step(sparse, "sparse", 1), a_step(dense, "dense", 1), a_step(start, "start", 0), a_step(stop, "stop", 1)
    if phases[3] <= phases[2]:
        raise ValueError(f"`stop` must be after `start`, got start={start} and stop={stop}.")
    target = _read.share(sparsity, "sparsity")
    return Update(partial(_alternating, method, target, phases), partial(_due_in_phases, phases))


# ---- how ------------------------------------------------------------------------------------------------------------


def _static(method: Any, score: Any, numbers: Any, step: Any, params: Any, masks: Any, evidence: Any) -> Any:
    return method(ranked(score, params, evidence), masks, **numbers)


def _gradual(
    method: Any, schedule: Any, score: Any, budget: Any, step: Any, params: Any, masks: Any, evidence: Any
) -> Any:
    bound, number = shared_out(method, budget, params, schedule(step))
    return bound(ranked(score, params, evidence), masks, **number)


def _of_what_was_seen(score: Any, params: Any, evidence: Any) -> Any:
    if evidence is None:
        raise ValueError(
            "`schedule` is due at step 0, when `observe` has seen nothing. Begin it later, for example with start=1."
        )
    return score(params, evidence)


def _due_after(schedule: Any, first: int, step: Any) -> Any:
    due = due_of(schedule)
    return (step > first) & (due(step) if due else step == step)


Phases = tuple[int, int, int, int]


def _due_in_phases(phases: Phases, step: Any) -> Any:
    sparse, dense, start, stop = phases
    place = (step - start) % (sparse + dense)
    return (step >= start) & (step <= stop) & ((place == 0) | (place == sparse) | (step == stop))


def _alternating(method: Any, sparsity: float, phases: Phases, step: Any, params: Any, masks: Any, _: Any) -> Any:
    sparse, dense, start, stop = phases
    is_dense = (step != stop) & ((step - start) % (sparse + dense) == sparse)
    return each(lambda mask: mask | is_dense, method(ranked(None, params, None), all_alive(params), sparsity=sparsity))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse(method: Any, score: Any, **others: Any) -> None:
    """Refuse a method, a score or another part that cannot be called."""
    _read.function(method, "method", "method=l1_unstructured")
    if score is not None:
        _read.function(score, "score", "score=scores.saliency")
    if "schedule" in others:
        _read.function(others["schedule"], "schedule", "schedule=schedules.cubic(0.9, stop=1000)")
    if others.get("budget") is not None:
        _read.function(others["budget"], "budget", "budget=budgets.erk")
