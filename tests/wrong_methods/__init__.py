"""Wrong methods, each with the law that it breaks: `MUTANTS`."""

from wrong_methods import amounts, manners, numbers, places, ranking  # they note their methods
from wrong_methods.plain import MUTANTS, Plain

__all__ = ["MUTANTS", "Plain", "amounts", "manners", "numbers", "places", "ranking"]
