"""The laws of an adapter: what a module with the names of torch.nn.utils.prune owes those who prune with it."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn

import masklib as ml

from . import _adapter_masks as masks
from . import _adapter_state as state
from ._refute import need_asserts
from ._subject import Case, Subject, cases

Law = Callable[[Subject], None]

LAWS: tuple[Law, ...] = (
    state.parameters_keep_their_places,
    state.remove_restores_the_parameters,
    state.remove_writes_in_place,
    state.remove_changes_no_output,
    state.a_failing_first_call_changes_nothing,
    state.a_failing_later_call_changes_nothing,
    state.a_deepcopy_is_a_twin,
    state.a_pickle_is_a_twin,
    state.a_state_dict_makes_a_twin,
    state.saving_changes_no_output,
    masks.a_later_call_ranks_the_weights_as_they_are,
    masks.what_is_read_is_right_after_a_step,
    masks.what_is_read_is_right_after_loading,
    masks.what_is_read_is_right_after_to,
    masks.what_is_read_trains,
    masks.no_nan_is_read,
    masks.dead_gradients_are_zero,
    masks.masks_only_shrink,
    masks.counts_are_exact,
    masks.masks_have_the_parameters_dtype,
    masks.masks_are_the_modules_own,
    masks.compute_mask_returns_its_own,
    masks.what_is_not_one_is_not_alive,
    masks.a_global_call_is_one_pool,
    masks.chance_alone_decides_at_random,
    masks.layouts_make_no_difference,
    state.a_tied_weight_counts_once,
    state.functional_call_leaves_nothing_behind,
)


def check_adapter(prune_module: Any, *, examples: int = 50) -> None:
    """Check every law of adapters on a module with the names of torch.nn.utils.prune.

    A check takes about 10 seconds for 50 examples.

    Args:
        prune_module: masklib.adapters.prune, torch.nn.utils.prune, or one of your own.
        examples: how many cases to draw for each law, always the same ones.

    Raises:
        AssertionError: if a law is broken; for each such law a paragraph, whose first line names it and says the
            calls that broke it.

    >>> import masklib.adapters.prune as prune
    >>> check_adapter(prune, examples=2)
    """
    broken = [text for text in adapter_laws(prune_module, examples=examples).values() if text is not None]
    if broken:
        raise AssertionError("\n\n".join(broken))


def adapter_laws(prune_module: Any, *, examples: int = 50) -> dict[str, str | None]:
    """Try every law of adapters on a module with the names of torch.nn.utils.prune.

    Args:
        prune_module: masklib.adapters.prune, torch.nn.utils.prune, or one of your own.
        examples: how many cases to draw for each law, always the same ones.

    Returns:
        By the name of each law, None if it holds, or what broke it.

    >>> import torch.nn.utils.prune as original
    >>> print(adapter_laws(original, examples=5)["remove_writes_in_place"].split(":")[0])
    remove_writes_in_place
    """
    return {law.__name__: what_breaks(law, prune_module, examples=examples) for law in LAWS}


def what_breaks(law: Law, prune_module: Any, *, examples: int = 50) -> str | None:
    """Try one law of adapters.

    Args:
        law: one of `LAWS`, or a function like them.
        prune_module: what has the names of torch.nn.utils.prune.
        examples: how many cases to draw, always the same ones.

    Returns:
        None if it holds, or the shortest sequence of calls found that breaks it.
    """
    need_asserts()
    try:
        _search(law, prune_module, examples)
    except AssertionError as error:
        return str(error)
    return None


def _search(law: Law, prune_module: Any, examples: int) -> None:
    """Draw cases until one breaks the law, and shrink it."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def holds(case: Case) -> None:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hold(law, Subject(prune_module, case))

    holds()


def hold(law: Law, subject: Subject) -> None:
    """Try one law on one subject, and put any failure in words: the law, the calls, the equation, what is wrong."""
    try:
        law(subject)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1].line
        what = where if isinstance(error, AssertionError) and not str(error) else f"{type(error).__name__}: {error}"
        name, equation = getattr(law, "__name__", str(law)), law.__doc__
        raise AssertionError(f"{name}: {'; '.join(subject.said)}\n  {equation}\n  but not: {what}") from error


# ---- two adapters ----------------------------------------------------------------------------------------------------

_SAME: dict[str, Callable[[dict[str, Any]], Any]] = {
    "l1_unstructured": lambda given: partial(ml.l1_unstructured, **given),
    "global_unstructured": lambda given: partial(ml.l1_unstructured, amount=given["amount"]),
    "ln_structured": lambda given: partial(ml.ln_structured, **given),
    "identity": lambda given: ml.identity,
}


def check_adapters_agree(prune_module: Any, parametrize_module: Any, *, examples: int = 50) -> None:
    """Check that an adapter with the names of torch.nn.utils.prune does what one on parametrizations does.

    Args:
        prune_module: masklib.adapters.prune, or one of your own.
        parametrize_module: masklib.adapters.parametrize, or one of your own with its `prune`, `masks` and `remove`.
        examples: how many cases to draw, always the same ones.

    Raises:
        AssertionError: if they differ; its first line says the calls after which they do.

    >>> from masklib.adapters import parametrize, prune
    >>> check_adapters_agree(prune, parametrize, examples=2)
    """
    law = update_wrapper(partial(adapters_agree, parametrize=parametrize_module), adapters_agree)
    broken = what_breaks(law, prune_module, examples=examples)
    if broken is not None:
        raise AssertionError(broken)


def adapters_agree(s: Subject, parametrize: Any) -> None:
    """prune(m) = parametrize.prune(m): the same masks, what is read, a training step, and what remove leaves."""
    other = copy.deepcopy(s.module)
    for call in s.case.calls:
        if call.function in _SAME and not call.noisy:
            s.call(call)
            step = _SAME[call.function](call.arguments)
            s.do("the same by parametrize", partial(parametrize.prune, other, step, [s.name]))
            assert torch.equal(parametrize.masks(other)[s.name], s.mask)
            assert torch.equal(getattr(other, s.name), s.read)
    if s.pruned:
        _end_alike(s, other, parametrize)


def _end_alike(s: Subject, other: nn.Module, parametrize: Any) -> None:
    s.step()
    optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
    s.forward(other).sum().backward()
    s.do("the same by parametrize", optimizer.step)
    s.remove()
    s.do("the same by parametrize", partial(parametrize.remove, other))
    mine, its = s.module.state_dict(), other.state_dict()
    assert list(mine) == list(its)
    assert all(torch.equal(mine[n], its[n]) for n in mine)
