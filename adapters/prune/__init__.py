"""torch.nn.utils.prune, name for name, without its defects.

    import masklib.adapters.prune as prune      # instead of: import torch.nn.utils.prune as prune

The pruned tensor is computed from `name_orig` and `name_mask` whenever it is read. Every call computes and checks
first and touches the module last, all or nothing. Selection is the core's.
"""

from ._amounts import _compute_norm as _compute_norm
from ._amounts import _compute_nparams_toprune as _compute_nparams_toprune
from ._amounts import _validate_pruning_amount as _validate_pruning_amount
from ._amounts import _validate_pruning_amount_init as _validate_pruning_amount_init
from ._amounts import _validate_pruning_dim as _validate_pruning_dim
from ._amounts import _validate_structured_pruning as _validate_structured_pruning
from ._base import BasePruningMethod as BasePruningMethod
from ._base import PruningContainer as PruningContainer
from ._calls import apply as apply
from ._calls import custom_from_mask as custom_from_mask
from ._calls import identity as identity
from ._calls import l1_unstructured as l1_unstructured
from ._calls import ln_structured as ln_structured
from ._calls import random_structured as random_structured
from ._calls import random_unstructured as random_unstructured
from ._endings import bake as bake
from ._endings import remove as remove
from ._endings import undo as undo
from ._masks import is_pruned as is_pruned
from ._masks import masks as masks
from ._masks import set_mask as set_mask
from ._methods import CustomFromMask as CustomFromMask
from ._methods import Identity as Identity
from ._methods import L1Unstructured as L1Unstructured
from ._methods import LnStructured as LnStructured
from ._methods import RandomStructured as RandomStructured
from ._methods import RandomUnstructured as RandomUnstructured
from ._pool import global_unstructured as global_unstructured


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(name for name in globals() if not name.startswith("_"))


for _public in __dir__():
    globals()[_public].__module__ = __name__  # where pickles and documentation look for them
