"""The smaller network: which dims are cut together, and the model without the units that a mask has killed."""

from ._constants import fold_constants as fold_constants
from ._count import Count as Count
from ._count import count as count
from ._count import within as within
from ._expert_norms import expert_norms as expert_norms
from ._experts import drop_experts as drop_experts
from ._idle import Idle as Idle
from ._idle import idle as idle
from ._optimizer import shrink_optimizer as shrink_optimizer
from ._sets import Dim as Dim
from ._sets import Fixed as Fixed
from ._sets import Set as Set
from ._shrink import shrink as shrink
from ._structure import Structure as Structure
from ._structure import structure as structure


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(name for name in globals() if not name.startswith("_"))


for _public in __dir__():
    globals()[_public].__module__ = __name__  # where pickles and documentation look for them
