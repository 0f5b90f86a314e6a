"""The drop-in does what torch.nn.utils.prune does, call for call, on everything the original does right.

`parity` draws the calls and compares; a failure shows what differs and the calls as code.
"""

from __future__ import annotations

import importlib.util
import itertools
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as theirs
from parity import check
from parity_calls import FUNCTIONS, KINDS

import masklib.adapters.prune as ours

SEEDS = range(10)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tensors this small only lose by more, a great deal on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_random_sequence_of_calls_gives_the_same(kind, function, seed):
    check(seed, kind, function, ours)


# ---- the comparison itself -------------------------------------------------------------------------------------------


def another_original() -> ModuleType:
    """torch.nn.utils.prune once more, to be changed at will."""
    spec = importlib.util.spec_from_file_location("another_prune", theirs.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tell_apart(library: ModuleType) -> str | None:
    """What the first of the sequences above to fail says; None if all pass."""
    for seed, kind, function in itertools.product(SEEDS, KINDS, FUNCTIONS):
        try:
            # A later call that raises spoils the module in the original: that is not what is tested here.
            check(seed, kind, function, library, all_or_nothing=False)
        except AssertionError as difference:
            return str(difference)
    return None


def kills_all_ties(prune: Any) -> None:
    def compute_mask(self, t, default_mask):
        k = prune._compute_nparams_toprune(self.amount, t.nelement())
        prune._validate_pruning_amount(k, t.nelement())
        return default_mask * (t.abs() > t.abs().flatten().kthvalue(k).values) if k else default_mask.clone()

    prune.L1Unstructured.compute_mask = compute_mask


def forgets_who_is_dead(prune: Any) -> None:
    def compute_mask(self, t, default_mask):
        return self[-1].compute_mask(t, torch.ones_like(default_mask))

    prune.PruningContainer.compute_mask = compute_mask


def fills_the_quota_with_the_dead(prune: Any) -> None:
    def compute_mask(self, t, default_mask):
        return self[-1].compute_mask(t, default_mask)

    prune.PruningContainer.compute_mask = compute_mask


def takes_the_first_dim(prune: Any) -> None:
    right = prune._compute_norm
    prune._compute_norm = lambda t, n, dim: right(t, n, t.shape.index(t.shape[dim]))


def changes_the_dtype_of_the_mask(prune: Any) -> None:
    right = prune.L1Unstructured.compute_mask
    prune.L1Unstructured.compute_mask = lambda self, t, default_mask: right(self, t, default_mask).bool()


def rounds_half_up(prune: Any) -> None:
    right = prune._compute_nparams_toprune
    prune._compute_nparams_toprune = lambda a, size: int(a * size + 0.5) if isinstance(a, float) else right(a, size)


def clamps_the_amount(prune: Any) -> None:
    right = prune._compute_nparams_toprune
    prune._compute_nparams_toprune = lambda amount, size: min(right(amount, size), size)


def draws_for_nothing(prune: Any) -> None:
    right = prune.L1Unstructured.compute_mask
    prune.L1Unstructured.compute_mask = lambda self, t, default_mask: right(self, t + 0 * torch.rand(1), default_mask)


def loses_the_order_of_steps(prune: Any) -> None:
    def add_pruning_method(self, method):
        self._pruning_methods = (method, *self._pruning_methods)

    prune.PruningContainer.add_pruning_method = add_pruning_method


def keeps_the_mask_after_remove(prune: Any) -> None:
    right = prune.BasePruningMethod.remove

    def remove(self, module):
        mask = getattr(module, f"{self._tensor_name}_mask")
        right(self, module)
        module.register_buffer(f"{self._tensor_name}_mask", mask)

    prune.BasePruningMethod.remove = remove


def replaces_the_parameter_on_remove(prune: Any) -> None:
    right = prune.BasePruningMethod.remove

    def remove(self, module):
        right(self, module)
        module._parameters[self._tensor_name] = torch.nn.Parameter(getattr(module, self._tensor_name).detach().clone())

    prune.BasePruningMethod.remove = remove


MUTANTS = (
    kills_all_ties,
    forgets_who_is_dead,
    fills_the_quota_with_the_dead,
    takes_the_first_dim,
    changes_the_dtype_of_the_mask,
    rounds_half_up,
    clamps_the_amount,
    draws_for_nothing,
    loses_the_order_of_steps,
    keeps_the_mask_after_remove,
    replaces_the_parameter_on_remove,
)


def test_the_original_passes_for_itself():
    assert tell_apart(another_original()) is None


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_wrong_library_is_told_from_the_original(mutate):
    wrong = another_original()
    mutate(wrong)
    words = tell_apart(wrong)
    assert words is not None
    assert "net = nn.ModuleDict" in words  # the failure shows the calls


def test_what_a_failure_prints_can_be_pasted():
    """Up to the call that differs; that one runs too, on the original."""
    wrong = another_original()
    changes_the_dtype_of_the_mask(wrong)
    _, code = tell_apart(wrong).split("To see it:")
    exec(code, names := {})
    assert theirs.is_pruned(names["net"])


def test_a_call_that_raises_must_leave_the_module_alone():
    """The original does not: a later call that raises takes the hook away."""
    words = [different(seed, all_or_nothing=True) for seed in range(20)]
    assert any(w and "is changed by a call that raised" in w for w in words)


def different(seed: int, **options: bool) -> str | None:
    try:
        check(seed, "Linear", "l1_unstructured", another_original(), **options)
    except AssertionError as difference:
        return str(difference)
    return None
