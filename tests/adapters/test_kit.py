"""The kit's laws of adapters: ours keeps all, the original some, and every law catches an adapter that breaks it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.utils.prune as theirs
from hypothesis import given
from wrong_adapters import MUTANTS, with_hook

import masklib as ml
import masklib.adapters.prune as ours
from masklib.adapters import parametrize
from masklib.testing import _adapter as kit
from masklib.testing import modules

LAWS = {law.__name__: law for law in kit.LAWS}
THEY_KEEP = {
    "a_global_call_is_one_pool",
    "a_pickle_is_a_twin",
    "a_state_dict_makes_a_twin",
    "chance_alone_decides_at_random",
    "counts_are_exact",
    "dead_gradients_are_zero",
    "masks_are_the_modules_own",
    "masks_only_shrink",
    "remove_changes_no_output",
    "saving_changes_no_output",
    "what_is_not_one_is_not_alive",
}


def test_ours_keeps_every_law():
    kit.check_adapter(ours)


def test_ours_agrees_with_parametrizations():
    kit.check_adapters_agree(ours, parametrize)


@pytest.fixture(scope="module")
def original():
    return kit.adapter_laws(theirs)


def test_what_the_original_keeps(original):
    assert {name for name, broken in original.items() if broken is None} == THEY_KEEP
    assert set(original) == set(LAWS)


def test_the_page_says_what_was_measured(original):
    page = (Path(__file__).parents[2] / "docs" / "why" / "laws.md").read_text()
    section = page.split("## Adapters\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (yes|no) \|$", section, flags=re.M)
    assert rows == [(n, law.__doc__, "yes" if original[n] is None else "no") for n, law in LAWS.items()]


def test_the_first_line_names_the_law_and_says_the_calls(original):
    for name, broken in original.items():
        if broken is not None:
            first, equation, what = broken.split("\n")[:3]
            assert first.startswith(f"{name}: m = nn.") or first.startswith(f"{name}: t = a model")
            assert equation.strip() == LAWS[name].__doc__
            assert what.startswith("  but not: ")
    removed = "m = nn.Linear(4, 6).to(torch.float32); identity(m, 'weight'); remove(m, 'weight')"
    assert original["remove_writes_in_place"].split("\n")[0] == f"remove_writes_in_place: {removed}"


def test_all_broken_laws_are_told(original):
    with pytest.raises(AssertionError) as error:
        kit.check_adapter(theirs)
    assert str(error.value).split("\n\n") == [broken for broken in original.values() if broken is not None]


def test_an_adapter_without_functions_keeps_no_law():
    assert all(kit.adapter_laws(SimpleNamespace(), examples=1).values())


def test_the_callers_random_state_stays():
    before = torch.get_rng_state()
    kit.adapter_laws(ours, examples=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("make", "law"), MUTANTS)
def test_a_wrong_adapter_is_caught(make, law):
    broken = kit.what_breaks(LAWS[law], make())
    assert broken is not None
    assert broken.startswith(f"{law}: ")


def test_every_law_has_its_mutant():
    assert {mutant.values[1] for mutant in MUTANTS} == set(LAWS)


def test_adapters_that_disagree_are_told():
    wrong = SimpleNamespace(**{**vars(parametrize), "prune": lambda m, f, names: parametrize.prune(m, f_none, names)})
    with pytest.raises(AssertionError, match=r"^adapters_agree: m = nn\..*; l1_unstructured\(m, 'weight'.*parametrize"):
        kit.check_adapters_agree(ours, wrong)


def f_none(scores, masks):
    return masks


@given(modules(ours))
def test_modules_are_drawn_pruned(drawn):
    module, name = drawn
    weight = getattr(module, f"{name}_orig")
    assert torch.equal(getattr(module, name), torch.where(getattr(module, f"{name}_mask") != 0, weight, 0))


def the_mask_is_the_fold_of_the_history(s):
    """fold(hook.history(), w_orig) = w_mask."""
    s.begin()
    for hook in s.module._forward_pre_hooks.values():
        assert len(hook.history()) == len(s.case.calls)
        assert torch.equal(ml.fold(hook.history(), s.parameter.detach()), s.mask)


def test_the_mask_is_the_fold_of_the_history():
    """Ours alone has a history."""
    assert kit.what_breaks(the_mask_is_the_fold_of_the_history, ours) is None
    short = lambda self: (*ours.BasePruningMethod.history(self)[:-1], lambda scores, mask: mask)  # noqa: E731
    assert kit.what_breaks(the_mask_is_the_fold_of_the_history, with_hook(history=short)) is not None
