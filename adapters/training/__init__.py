"""Train under masks with a plain loop: an update of `masklib.updates` runs through the optimizer's own steps."""

from ._attach import attach as attach
from ._hold import freeze as freeze
from ._hold import zero as zero
from ._pruning import Pruning as Pruning
from ._report import Report as Report

__all__ = ["Pruning", "Report", "attach", "freeze", "zero"]

for _public in (freeze, zero, Pruning, attach, Report):
    _public.__module__ = __name__


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
