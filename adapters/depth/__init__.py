"""Fewer blocks: which do little to the hidden state, and the model without them."""

from ._drop import drop as drop
from ._measure import measure as measure
from ._runs import Runs as Runs


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(name for name in globals() if not name.startswith("_"))


for _public in __dir__():
    globals()[_public].__module__ = __name__  # where pickles and documentation look for them
