"""Budgets: one model-wide sparsity, shared out among the tensors of a mapping.

    sparsities = budgets.erk(weights, 0.9)
    masks = layerwise(l1_unstructured)(weights, sparsity=sparsities)
    masks = layerwise(l1_unstructured)(weights, keep=budgets.kept(weights, sparsities))      # the total to the element

The sparsities of a budget, weighted by size, add up to what was asked for; what cannot be met is refused, never
clamped. Most look at names and shapes alone, `owl` and `pooled` at scores. `proportional` makes a budget of densities
of your own.
"""

from masklib.budgets._scores import owl as owl
from masklib.budgets._scores import pooled as pooled
from masklib.budgets._shapes import er as er
from masklib.budgets._shapes import erk as erk
from masklib.budgets._shapes import kept as kept
from masklib.budgets._shapes import proportional as proportional
from masklib.budgets._shapes import uniform as uniform
