"""The laws of pruning as a test kit; it needs hypothesis, which `masklib[testing]` brings.

    check_method(my_method, amount=0.3)     # AssertionError: the law's name and a minimal counterexample

`check_method` holds a method to the promise of `compute_mask`; what it does not promise is switched off by name.
`check_groups`, `check_score`, `check_schedule` and `check_adapter` do the same for what they are named after; the
strategies draw inputs for properties of your own. The laws are in docs/why/laws.md.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("masklib.testing needs hypothesis: pip install 'masklib[testing]'.") from error

from masklib.testing._adapter import adapter_laws, check_adapter, check_adapters_agree
from masklib.testing._check_groups import check_groups
from masklib.testing._check_method import check_method, method_laws
from masklib.testing._check_schedule import check_schedule
from masklib.testing._check_score import check_score
from masklib.testing._groups import coupled, grouped, groups
from masklib.testing._histories import histories, steps
from masklib.testing._modules import modules
from masklib.testing._numbers import fractions, numbers
from masklib.testing._strategies import layouts, mappings, masks, scored, scores, shapes

__all__ = [
    "adapter_laws",
    "check_adapter",
    "check_adapters_agree",
    "check_groups",
    "check_method",
    "check_schedule",
    "check_score",
    "coupled",
    "fractions",
    "grouped",
    "groups",
    "histories",
    "layouts",
    "mappings",
    "masks",
    "method_laws",
    "modules",
    "numbers",
    "scored",
    "scores",
    "shapes",
    "steps",
]
