"""Pruning for PyTorch as a small algebra of pure functions.

A score says how much each element matters. Groups say which elements live and die together (items), and which items
compete (pools). An amount says how many go. A mask is the answer: bool, True = kept.
"""

from masklib import budgets as budgets
from masklib import schedules as schedules
from masklib import scores as scores
from masklib import updates as updates
from masklib._version import __version__ as __version__
from masklib.algebra import complement as complement
from masklib.algebra import count as count
from masklib.algebra import dense as dense
from masklib.algebra import difference as difference
from masklib.algebra import intersection as intersection
from masklib.algebra import overlap as overlap
from masklib.algebra import select as select
from masklib.algebra import sparsity as sparsity
from masklib.algebra import union as union
from masklib.dynamic import regrow as regrow
from masklib.groups import Folding as Folding
from masklib.groups import blocks as blocks
from masklib.groups import channels as channels
from masklib.groups import coupled as coupled
from masklib.groups import elements as elements
from masklib.groups import heads as heads
from masklib.groups import labels as labels
from masklib.groups import rows as rows
from masklib.groups import windows as windows
from masklib.history import chain as chain
from masklib.history import fold as fold
from masklib.history import layerwise as layerwise
from masklib.history import scan as scan
from masklib.items import alive as alive
from masklib.masking import apply as apply
from masklib.masking import dense_grad as dense_grad
from masklib.methods import compute_mask as compute_mask
from masklib.methods import custom_from_mask as custom_from_mask
from masklib.methods import identity as identity
from masklib.methods import l1_unstructured as l1_unstructured
from masklib.methods import ln_structured as ln_structured
from masklib.methods import n_of_m as n_of_m
from masklib.methods import random_structured as random_structured
from masklib.methods import random_unstructured as random_unstructured
from masklib.surgery import admm as admm
from masklib.surgery import reconstruct as reconstruct
from masklib.surgery import sparsegpt as sparsegpt
