"""Adapters that are wrong in one way, each with the laws that must catch it: `MUTANTS`."""

from __future__ import annotations

import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from parity_calls import FUNCTIONS

import masklib.adapters.prune as ours

MUTANTS = []
CALLS = tuple(name for name in FUNCTIONS if name != "global_unstructured")  # those of one module


def breaks(*laws):
    """A mutant, a function that makes a wrong adapter, and the laws that must catch it."""

    def register(make):
        MUTANTS.extend(pytest.param(make, law, id=f"{make.__name__}, {law}") for law in laws)
        return make

    return register


def adapter(**changed):
    """Our adapter with other functions."""
    return SimpleNamespace(**{**vars(ours), **changed})


def after(then, *functions):
    """Our adapter, with something done to module and name after each call."""
    return adapter(**{f: partial(_after, getattr(ours, f), then) for f in functions or CALLS})


def _after(function, then, module, name, *args, **kwargs):
    function(module, name, *args, **kwargs)
    then(module, name)
    return module


def on_failure(then):
    """Our adapter, with something done to the module after each call that fails."""
    return adapter(**{f: partial(_on_failure, getattr(ours, f), then) for f in CALLS})


def _on_failure(function, then, module, *args, **kwargs):
    try:
        return function(module, *args, **kwargs)
    except Exception:
        then(module)
        raise


def with_hook(**changed):
    """Our adapter, with other methods of its hooks after each call."""

    def then(module, name):
        hook = hook_of(module)
        hook.__class__ = type(type(hook).__name__, (type(hook),), changed)

    return after(then)


def hook_of(module):
    return next(iter(module._forward_pre_hooks.values()))


def last(module, name):
    module._parameters[name] = module._parameters.pop(name)


@breaks("remove_restores_the_parameters")
def order_lost_on_remove():
    return after(last, "remove")


@breaks("remove_restores_the_parameters")
def a_hook_left_by_remove():
    return after(lambda m, n: m.register_forward_pre_hook(lambda *_: None), "remove")


@breaks("remove_restores_the_parameters")
def another_parameter_after_remove():
    def then(module, name):
        module._parameters[name] = torch.nn.Parameter(module._parameters[name].data)

    return after(then, "remove")


@breaks("parameters_keep_their_places")
def order_lost_on_pruning():
    return after(lambda m, n: last(m, f"{n}_orig"))


@breaks("remove_writes_in_place")
def storage_copied_on_remove():
    def then(module, name):
        module._parameters[name].data = module._parameters[name].data.clone()

    return after(then, "remove")


@breaks("remove_writes_in_place")
def remove_that_takes_back():
    return adapter(remove=ours.undo)


@breaks("a_failing_first_call_changes_nothing", "a_failing_later_call_changes_nothing")
def random_state_moved_by_failures():
    return on_failure(lambda m: torch.rand(1))


@breaks("a_failing_later_call_changes_nothing")
def hook_gone_after_failures():
    return on_failure(lambda m: m._forward_pre_hooks.clear())


@breaks("a_failing_first_call_changes_nothing")
def order_lost_on_failures():
    return on_failure(lambda m: last(m, next(iter(m._parameters))))


@breaks("a_failing_later_call_changes_nothing")
def attribute_left_by_failures():
    return on_failure(lambda m: setattr(m, "failed", True))


@breaks("a_failing_first_call_changes_nothing")
def impossible_amounts_cut_down():
    def l1_unstructured(module, name, amount, importance_scores=None):
        number = min(amount, getattr(module, name).numel()) if isinstance(amount, int) else amount
        return ours.l1_unstructured(module, name, number, importance_scores)

    return adapter(l1_unstructured=l1_unstructured)


@breaks("a_deepcopy_is_a_twin")
def a_derived_tensor_kept():
    return after(lambda m, n: m.__dict__.update(cached=getattr(m, n) * 2))


@breaks("a_deepcopy_is_a_twin")
def memory_shared_by_copies():
    def then(module, name):
        mask = getattr(module, f"{name}_mask")
        mask.__class__ = type("Shared", (torch.Tensor,), {"__deepcopy__": lambda self, memo: self})

    return after(then)


@breaks("a_pickle_is_a_twin")
def hooks_that_do_not_pickle():
    return after(lambda m, n: setattr(hook_of(m), "when", lambda: None))


@breaks("a_state_dict_makes_a_twin")
def masks_that_are_not_saved():
    return after(lambda m, n: m._non_persistent_buffers_set.add(f"{n}_mask"))


@breaks("a_later_call_ranks_the_weights_as_they_are")
def stale_ranking():
    seen = weakref.WeakKeyDictionary()

    def l1_unstructured(module, name, amount):
        scores = seen.get(module)
        ours.l1_unstructured(module, name, amount, scores)
        seen[module] = getattr(module, f"{name}_orig").detach().clone()
        return module

    def identity(module, name):
        seen[module] = getattr(module, name).detach().clone()
        return ours.identity(module, name)

    return adapter(l1_unstructured=l1_unstructured, identity=identity)


@breaks(
    "what_is_read_is_right_after_a_step",
    "what_is_read_is_right_after_loading",
    "what_is_read_is_right_after_to",
    "what_is_read_trains",
)
def stale_reading():
    def then(module, name):
        module.__dict__.pop(name, None)
        module.__dict__[name] = getattr(module, name)

    return after(then)


@breaks("no_nan_is_read")
def masks_that_multiply():
    def apply_mask(self, module):
        name = self._tensor_name
        return getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask")

    return with_hook(apply_mask=apply_mask)


@breaks("dead_gradients_are_zero", "what_is_read_trains")
def straight_through_gradients():
    def apply_mask(self, module):
        orig = getattr(module, f"{self._tensor_name}_orig")
        return orig + (ours.BasePruningMethod.apply_mask(self, module) - orig).detach()

    return with_hook(apply_mask=apply_mask)


@breaks("dead_gradients_are_zero")
def gradients_of_survivors_halved():
    def apply_mask(self, module):
        pruned = ours.BasePruningMethod.apply_mask(self, module)
        return pruned * 0.5 + (pruned * 0.5).detach()

    return with_hook(apply_mask=apply_mask)


@breaks("masks_only_shrink", "counts_are_exact")
def one_entry_revived():
    def then(module, name):
        dead = (getattr(module, f"{name}_mask") == 0).nonzero()
        if len(dead):
            getattr(module, f"{name}_mask")[tuple(dead[0])] = 1

    return after(then)


@breaks("counts_are_exact")
def dead_entries_counted():
    def l1_unstructured(module, name, amount):
        mask = getattr(module, f"{name}_mask", torch.ones_like(getattr(module, name)))
        number = round(amount * mask.numel()) if isinstance(amount, float) else amount
        return ours.l1_unstructured(module, name, min(number, int(mask.sum())))

    return adapter(l1_unstructured=l1_unstructured)


@breaks("counts_are_exact")
def shares_rounded_up():
    def random_unstructured(module, name, amount):
        mask = getattr(module, f"{name}_mask", torch.ones_like(getattr(module, name)))
        number = -int(-amount * int(mask.sum()) // 1) if isinstance(amount, float) else amount
        return ours.random_unstructured(module, name, number)

    return adapter(random_unstructured=random_unstructured)


@breaks("masks_have_the_parameters_dtype")
def masks_in_bool():
    def then(module, name):
        module._buffers[f"{name}_mask"] = getattr(module, f"{name}_mask") != 0

    return after(then)


@breaks("masks_are_the_modules_own")
def the_callers_mask_kept():
    def custom_from_mask(module, name, mask):
        ours.custom_from_mask(module, name, mask)
        module._buffers[f"{name}_mask"] = mask
        return module

    return adapter(custom_from_mask=custom_from_mask)


@breaks("masks_are_the_modules_own")
def the_callers_mask_written_to():
    def custom_from_mask(module, name, mask):
        ours.custom_from_mask(module, name, mask)
        mask.view(-1)[-1] = 0
        return module

    return adapter(custom_from_mask=custom_from_mask)


@breaks("compute_mask_returns_its_own")
def the_callers_mask_returned():
    class Identity(ours.Identity):
        def compute_mask(self, t, default_mask):
            return default_mask

    return adapter(Identity=Identity)


@breaks("what_is_not_one_is_not_alive")
def averages_that_count_as_alive():
    def then(module, name):
        def revive(*_):
            mask = getattr(module, f"{name}_mask")
            mask.copy_(mask != 0)

        module.register_forward_pre_hook(revive, prepend=True)

    return after(then)


@breaks("remove_changes_no_output")
def remove_that_rescales():
    """So that the norm stays, as some do."""

    def then(module, name):
        module._parameters[name].data.mul_(2)

    return after(then, "remove")


@breaks("saving_changes_no_output")
def masks_of_a_class_of_their_own():
    def then(module, name):
        getattr(module, f"{name}_mask").__class__ = Mask

    return after(then)


class Mask(torch.Tensor):
    """What a file of tensors alone does not hold."""


@breaks("a_global_call_is_one_pool")
def each_weight_a_pool_of_its_own():
    def global_unstructured(pairs, pruning_method, amount):
        for pair in pairs:
            ours.global_unstructured([pair], pruning_method, amount=amount)

    return adapter(global_unstructured=global_unstructured)


@breaks("chance_alone_decides_at_random")
def randomness_that_takes_the_lowest():
    return adapter(random_unstructured=ours.l1_unstructured)


@breaks("chance_alone_decides_at_random")
def a_generator_moved_for_nothing():
    return after(lambda m, n: torch.rand(1), "l1_unstructured")


@breaks("layouts_make_no_difference")
def ties_and_ranks_by_memory_order():
    def l1_unstructured(module, name, amount):
        scores = getattr(module, name).detach()
        flat = scores.mT.reshape(-1) if scores.dim() > 1 and not scores.is_contiguous() else scores.reshape(-1)
        return ours.l1_unstructured(module, name, amount, flat.reshape(scores.shape))

    return adapter(l1_unstructured=l1_unstructured)


@breaks("a_tied_weight_counts_once")
def tied_weights_counted_at_each_site():
    def global_unstructured(pairs, pruning_method, amount, **kwargs):
        entries = sum(getattr(*pair).numel() for pair in pairs)
        number = round(amount * entries) if isinstance(amount, float) else amount
        return ours.global_unstructured(pairs, pruning_method, amount=number, **kwargs)

    return adapter(global_unstructured=global_unstructured)


@breaks("a_tied_weight_counts_once")
def tied_weights_pruned_at_one_site():
    def global_unstructured(pairs, *args, **kwargs):
        once = {id(getattr(*pair)): pair for pair in pairs}
        ours.global_unstructured(list(once.values()), *args, **kwargs)
        for pair in pairs:
            if pair not in once.values():
                ours.identity(*pair)

    return adapter(global_unstructured=global_unstructured)


@breaks("functional_call_leaves_nothing_behind")
def the_forward_keeps_what_it_computed():
    return with_hook(__call__=lambda self, module, inputs: module.__dict__.update(last=self.apply_mask(module)))


@breaks("functional_call_leaves_nothing_behind")
def a_new_mask_at_every_reading():
    def apply_mask(self, module):
        if module.training and torch.is_grad_enabled():
            module._buffers[f"{self._tensor_name}_mask"] = getattr(module, f"{self._tensor_name}_mask").clone()
        return ours.BasePruningMethod.apply_mask(self, module)

    return with_hook(apply_mask=apply_mask)
