"""The laws as plain functions: each raises AssertionError when broken, and its docstring is its equation.

`f` is a method with its parameters bound, `f(scores, default_mask) -> mask`; `method` still takes a number, which is a
dict of one argument. `s` are scores and `m` is a mask, tensors or mappings by name; a mask may be None for all True.
`a <= b` says that b keeps whatever a keeps.

>>> import masklib.testing.laws as laws
>>> laws.shrinks(partial(masklib.l1_unstructured, amount=0.5), torch.randn(3, 4), torch.ones(3, 4) > 0)
"""

from masklib.testing.laws._algebra import ALGEBRA as ALGEBRA
from masklib.testing.laws._algebra import absorbs as absorbs
from masklib.testing.laws._algebra import associates as associates
from masklib.testing.laws._algebra import commutes as commutes
from masklib.testing.laws._algebra import complements_within as complements_within
from masklib.testing.laws._algebra import counts as counts
from masklib.testing.laws._algebra import distributes as distributes
from masklib.testing.laws._algebra import has_bounds as has_bounds
from masklib.testing.laws._algebra import leaves_masks_alone as leaves_masks_alone
from masklib.testing.laws._algebra import measures as measures
from masklib.testing.laws._algebra import orders as orders
from masklib.testing.laws._algebra import parts as parts
from masklib.testing.laws._algebra import repeats_nothing as repeats_nothing
from masklib.testing.laws._algebra import swaps_under_complement as swaps_under_complement
from masklib.testing.laws._compare import below as below
from masklib.testing.laws._compare import like as like
from masklib.testing.laws._compare import plain as plain
from masklib.testing.laws._compare import same as same
from masklib.testing.laws._compare import storages as storages
from masklib.testing.laws._compare import unstacked as unstacked
from masklib.testing.laws._dynamic import adds_up as adds_up
from masklib.testing.laws._dynamic import grows_the_highest as grows_the_highest
from masklib.testing.laws._dynamic import keeps_the_count as keeps_the_count
from masklib.testing.laws._dynamic import keeps_who_was_not_dropped as keeps_who_was_not_dropped
from masklib.testing.laws._dynamic import regrows_nothing_for_nothing as regrows_nothing_for_nothing
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
from masklib.testing.laws._methods import looks_at_no_default_device as looks_at_no_default_device
from masklib.testing.laws._methods import looks_at_survivors_only as looks_at_survivors_only
from masklib.testing.laws._methods import needs_no_mask as needs_no_mask
from masklib.testing.laws._methods import nothing_takes_nothing as nothing_takes_nothing
from masklib.testing.laws._methods import remembers_nothing as remembers_nothing
from masklib.testing.laws._methods import shares_no_memory as shares_no_memory
from masklib.testing.laws._methods import shrinks as shrinks
from masklib.testing.laws._methods import starts_from_all as starts_from_all
from masklib.testing.laws._methods import takes_what_is_valid as takes_what_is_valid
from masklib.testing.laws._methods import touches_no_generator as touches_no_generator
from masklib.testing.laws._rules import follows_the_rule as follows_the_rule
from masklib.testing.laws._rules import is_exact as is_exact
from masklib.testing.laws._rules import is_plain_data as is_plain_data
from masklib.testing.laws._rules import is_refused as is_refused
from masklib.testing.laws._rules import is_the_labels_form as is_the_labels_form
from masklib.testing.laws._rules import looks_at_order_only as looks_at_order_only
from masklib.testing.laws._rules import possible as possible
from masklib.testing.laws._rules import refusal as refusal
from masklib.testing.laws._rules import refuses_nan as refuses_nan
from masklib.testing.laws._rules import refuses_the_impossible as refuses_the_impossible
from masklib.testing.laws._rules import takes_items_whole as takes_items_whole
from masklib.testing.laws._rules import takes_the_lower_index_of_equals as takes_the_lower_index_of_equals
from masklib.testing.laws._rules import takes_the_lowest as takes_the_lowest
from masklib.testing.laws._transforms import compiles as compiles
from masklib.testing.laws._transforms import exports as exports
from masklib.testing.laws._transforms import folds as folds
from masklib.testing.laws._transforms import is_its_concatenation as is_its_concatenation
from masklib.testing.laws._transforms import is_layerwise as is_layerwise
from masklib.testing.laws._transforms import vmaps as vmaps
from masklib.testing.laws._transforms import vmaps_if_at_all as vmaps_if_at_all
from masklib.testing.laws._values import SCHEDULES as SCHEDULES
from masklib.testing.laws._values import SCORES as SCORES
from masklib.testing.laws._values import carries_no_graph as carries_no_graph
from masklib.testing.laws._values import changes_no_params as changes_no_params
from masklib.testing.laws._values import has_the_shapes_of_params as has_the_shapes_of_params
from masklib.testing.laws._values import is_a_function_of_the_step as is_a_function_of_the_step
from masklib.testing.laws._values import is_a_sparsity as is_a_sparsity
from masklib.testing.laws._values import looks_at_no_order as looks_at_no_order
from masklib.testing.laws._values import looks_at_no_strides as looks_at_no_strides
from masklib.testing.laws._values import makes_no_nan as makes_no_nan
from masklib.testing.laws._values import needs_no_generator as needs_no_generator
from masklib.testing.laws._values import never_falls as never_falls
from masklib.testing.laws._values import repeats_itself as repeats_itself
from masklib.testing.laws._values import scores_each_tensor_alone as scores_each_tensor_alone
from masklib.testing.laws._values import scores_what_is_valid as scores_what_is_valid
from masklib.testing.laws._values import shares_no_memory_with_params as shares_no_memory_with_params
from masklib.testing.laws._values import takes_tensor_steps as takes_tensor_steps
