"""A model pruned once, block by block, with a few batches to calibrate on: Wanda, RIA, SparseGPT, ADMM."""

from ._checkpoint import prune_checkpoint as prune_checkpoint
from ._measure import measure as measure
from ._names import to_checkpoint as to_checkpoint
from ._names import to_model as to_model
from ._perplexity import next_token_loss as next_token_loss
from ._perplexity import perplexity as perplexity
from ._report import Layer as Layer
from ._report import Pruned as Pruned
from ._rules import Rule as Rule
from ._rules import admm as admm
from ._rules import magnitude as magnitude
from ._rules import ria as ria
from ._rules import sparsegpt as sparsegpt
from ._rules import wanda as wanda
from ._walk import prune as prune


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(name for name in globals() if not name.startswith("_"))


for _public in __dir__():
    globals()[_public].__module__ = __name__  # where pickles and documentation look for them
