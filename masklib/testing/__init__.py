"""The laws of pruning as a test kit; it needs hypothesis, which `masklib[testing]` brings."""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("masklib.testing needs hypothesis: pip install 'masklib[testing]'.") from error

from masklib.testing._adapter import adapter_laws as adapter_laws
from masklib.testing._adapter import check_adapter as check_adapter
from masklib.testing._adapter import check_adapters_agree as check_adapters_agree
