"""Checkpoints and mask files: read strictly, written whole or not at all.

    masks = ml.l1_unstructured(open_checkpoint("model.safetensors"), amount=0.5)
    save_masks("masks.safetensors", masks)

Nothing is unpickled that could run code; a file that does not add up is refused before anything is loaded.
"""

from ._checkpoint import Checkpoint as Checkpoint
from ._checkpoint import open_checkpoint as open_checkpoint
from ._masks import MaskFile as MaskFile
from ._masks import load_masks as load_masks
from ._masks import save_masks as save_masks
from ._prune import prune_checkpoint as prune_checkpoint
from ._report import Pruned as Pruned
from ._report import Report as Report
from ._size import sparse_size as sparse_size


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(name for name in globals() if not name.startswith("_"))


for _public in __dir__():
    globals()[_public].__module__ = __name__  # where pickles and documentation look for them
