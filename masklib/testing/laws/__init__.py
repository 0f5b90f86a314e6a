"""The laws as plain functions: each raises AssertionError when broken, and its docstring is its equation.

`f` is a method with its parameters bound, `f(scores, default_mask) -> mask`; `method` still takes a number, which is a
dict of one argument. `s` are scores and `m` is a mask, tensors or mappings by name; a mask may be None for all True.
`a <= b` says that b keeps whatever a keeps.

>>> import masklib.testing.laws as laws
>>> laws.shrinks(partial(masklib.l1_unstructured, amount=0.5), torch.randn(3, 4), torch.ones(3, 4) > 0)
"""

from masklib.testing.laws._anywhere import ANYWHERE as ANYWHERE
from masklib.testing.laws._anywhere import is_the_same_in_a_forked_child as is_the_same_in_a_forked_child
from masklib.testing.laws._anywhere import is_the_same_in_a_hook as is_the_same_in_a_hook
from masklib.testing.laws._anywhere import is_the_same_in_a_thread as is_the_same_in_a_thread
from masklib.testing.laws._anywhere import leaves_no_mode_behind as leaves_no_mode_behind
from masklib.testing.laws._anywhere import looks_at_no_autocast as looks_at_no_autocast
from masklib.testing.laws._anywhere import looks_at_no_default_device as looks_at_no_default_device
from masklib.testing.laws._anywhere import looks_at_no_default_dtype as looks_at_no_default_dtype
from masklib.testing.laws._anywhere import looks_at_no_grad_mode as looks_at_no_grad_mode
from masklib.testing.laws._anywhere import looks_at_no_seed as looks_at_no_seed
from masklib.testing.laws._anywhere import may_be_interrupted as may_be_interrupted
from masklib.testing.laws._budgets import adds_up as adds_up
from masklib.testing.laws._compare import below as below
from masklib.testing.laws._compare import like as like
from masklib.testing.laws._compare import plain as plain
from masklib.testing.laws._compare import same as same
from masklib.testing.laws._compare import storages as storages
from masklib.testing.laws._compare import unstacked as unstacked
from masklib.testing.laws._groups import equals_what_folds_alike as equals_what_folds_alike
from masklib.testing.laws._groups import is_plain_data as is_plain_data
from masklib.testing.laws._groups import is_the_labels_form as is_the_labels_form
from masklib.testing.laws._methods import METHODS as METHODS
from masklib.testing.laws._methods import changes_no_input as changes_no_input
from masklib.testing.laws._methods import everything_takes_everything as everything_takes_everything
from masklib.testing.laws._methods import is_a_mask as is_a_mask
from masklib.testing.laws._methods import is_detached as is_detached
from masklib.testing.laws._methods import is_idempotent as is_idempotent
from masklib.testing.laws._methods import is_layout_blind as is_layout_blind
from masklib.testing.laws._methods import is_nested as is_nested
from masklib.testing.laws._methods import is_order_blind as is_order_blind
from masklib.testing.laws._methods import keeps_fewer_after_more as keeps_fewer_after_more
from masklib.testing.laws._methods import looks_at_survivors_only as looks_at_survivors_only
from masklib.testing.laws._methods import needs_no_mask as needs_no_mask
from masklib.testing.laws._methods import nothing_takes_nothing as nothing_takes_nothing
from masklib.testing.laws._methods import remembers_nothing as remembers_nothing
from masklib.testing.laws._methods import shares_no_memory as shares_no_memory
from masklib.testing.laws._methods import shrinks as shrinks
from masklib.testing.laws._methods import starts_from_all as starts_from_all
from masklib.testing.laws._methods import takes_what_is_valid as takes_what_is_valid
from masklib.testing.laws._methods import touches_no_generator as touches_no_generator
from masklib.testing.laws._rules import counts_beyond_float32 as counts_beyond_float32
from masklib.testing.laws._rules import follows_the_rule as follows_the_rule
from masklib.testing.laws._rules import is_exact as is_exact
from masklib.testing.laws._rules import keeps_the_least as keeps_the_least
from masklib.testing.laws._rules import looks_at_order_only as looks_at_order_only
from masklib.testing.laws._rules import overlap as overlap
from masklib.testing.laws._rules import possible as possible
from masklib.testing.laws._rules import ranked as ranked
from masklib.testing.laws._rules import refuses_nan as refuses_nan
from masklib.testing.laws._rules import refuses_the_impossible as refuses_the_impossible
from masklib.testing.laws._rules import takes_items_whole as takes_items_whole
from masklib.testing.laws._rules import takes_the_lower_index_of_equals as takes_the_lower_index_of_equals
from masklib.testing.laws._rules import takes_the_lowest as takes_the_lowest
from masklib.testing.laws._schedules import SCHEDULES as SCHEDULES
from masklib.testing.laws._schedules import changes_only_when_due as changes_only_when_due
from masklib.testing.laws._schedules import ends_with_its_last_update as ends_with_its_last_update
from masklib.testing.laws._schedules import equals_what_rises_alike as equals_what_rises_alike
from masklib.testing.laws._schedules import is_a_function_of_the_step as is_a_function_of_the_step
from masklib.testing.laws._schedules import is_a_sparsity as is_a_sparsity
from masklib.testing.laws._schedules import is_due_for_tensor_steps as is_due_for_tensor_steps
from masklib.testing.laws._schedules import never_falls as never_falls
from masklib.testing.laws._schedules import takes_tensor_steps as takes_tensor_steps
from masklib.testing.laws._scores import SCORES as SCORES
from masklib.testing.laws._scores import can_be_ranked as can_be_ranked
from masklib.testing.laws._scores import carries_no_graph as carries_no_graph
from masklib.testing.laws._scores import changes_no_params as changes_no_params
from masklib.testing.laws._scores import has_the_shapes_of_params as has_the_shapes_of_params
from masklib.testing.laws._scores import hides_no_nan as hides_no_nan
from masklib.testing.laws._scores import ignores_autocast as ignores_autocast
from masklib.testing.laws._scores import ignores_the_default_dtype as ignores_the_default_dtype
from masklib.testing.laws._scores import looks_at_no_order as looks_at_no_order
from masklib.testing.laws._scores import looks_at_no_strides as looks_at_no_strides
from masklib.testing.laws._scores import makes_no_nan as makes_no_nan
from masklib.testing.laws._scores import needs_no_generator as needs_no_generator
from masklib.testing.laws._scores import repeats_itself as repeats_itself
from masklib.testing.laws._scores import scores_each_tensor_alone as scores_each_tensor_alone
from masklib.testing.laws._scores import scores_what_is_valid as scores_what_is_valid
from masklib.testing.laws._scores import shares_no_memory_with_params as shares_no_memory_with_params
from masklib.testing.laws._transforms import compiles as compiles
from masklib.testing.laws._transforms import exports as exports
from masklib.testing.laws._transforms import is_its_concatenation as is_its_concatenation
from masklib.testing.laws._transforms import vmaps as vmaps
from masklib.testing.laws._transforms import vmaps_if_at_all as vmaps_if_at_all
