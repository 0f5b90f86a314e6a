"""State for nn.Module users, on top of the pure core."""

from ._module.weights import skipped as skipped
from ._module.weights import weights as weights


def __dir__() -> list[str]:
    """List the public names: those here, and the modules that have been imported."""
    return sorted(name for name in globals() if not name.startswith("_"))
