"""Pictures of masks, scores and schedules, in the style of your own figures.

    import masklib.adapters.plot as plot
    plot.sparsity(masks)
    plot.mask(masks["fc1.weight"], ax=ax)

Each function draws into `ax`, or into matplotlib's current axes, and returns the axes: sizes, colours and fonts are
those of `matplotlib.rcParams`. Whatever else is to be said, say it to the axes.
"""

try:
    import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("masklib.adapters.plot needs matplotlib: pip install 'masklib[plot]'.") from error

from ._figures import mask as mask
from ._figures import overlap as overlap
from ._figures import schedule as schedule
from ._figures import scores as scores
from ._figures import sparsity as sparsity
from ._figures import training as training


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(name for name in globals() if not name.startswith("_"))


for _public in __dir__():
    globals()[_public].__module__ = __name__  # where pickles and documentation look for them
