"""What is dead in a model, in masks or in a file, layer by layer; and what a person should know of it.

print(report(model))
print(diff(report(before), report(after)))
"""

from ._layer import Layer as Layer
from ._report import Difference as Difference
from ._report import Report as Report
from ._reporting import diff as diff
from ._reporting import report as report


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(name for name in globals() if not name.startswith("_"))


for _public in __dir__():
    globals()[_public].__module__ = __name__  # where pickles and documentation look for them
