"""Which laws the methods of torch.nn.utils.prune keep, as docs/why/laws.md says, and that the page has all laws."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
import torch.nn.utils.prune as original

import masklib as ml
from masklib.testing import laws, method_laws, shapes

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "why" / "laws.md").read_text()


def method(kind, **fixed):
    """A class as `method(scores, default_mask, amount=) -> mask`, bool; noise is that of one seed, and still consumed.

    It goes through the container, as the second call on a module does, which looks at the survivors only.
    """

    def prune(scores, default_mask=None, *, amount):
        step = kind(amount=amount, **fixed)
        step._tensor_name = "weight"
        mask = torch.ones_like(scores) if default_mask is None else default_mask.to(scores.dtype)
        state = torch.get_rng_state()
        if "Random" in kind.__name__:
            torch.manual_seed(0)
        got = original.PruningContainer(step).compute_mask(scores, mask)
        if not torch.equal(torch.get_rng_state(), state):
            torch.set_rng_state(state)
            torch.rand(1, device="cpu")
        return got != 0

    return prune


OPTIONS = {"amount": 0.3, "mappings": False, "vmap": True, "dtypes": [torch.float32, torch.float64]}
CHANNELS = {"counts": ml.channels(0, p=2), "shapes": shapes(2, 3)}
CHANCE = {"ranks": None, "nan": False}
METHODS = {
    "L1Unstructured": (method(original.L1Unstructured), {"ranks": torch.abs}),
    "RandomUnstructured": (method(original.RandomUnstructured), CHANCE),
    "LnStructured": (method(original.LnStructured, n=2, dim=0), CHANNELS),
    "RandomStructured": (method(original.RandomStructured, dim=0), CHANNELS | CHANCE),
}


@pytest.fixture(scope="module")
def broken():
    """By the name of each law, which of the methods break it."""
    tried = {name: method_laws(f, **OPTIONS, **options) for name, (f, options) in METHODS.items()}
    return {law: [name for name in tried if tried[name].get(law)] for law in tried["L1Unstructured"]}


def rows(section):
    part = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return [row.strip("| ").split(" | ") for row in part.splitlines() if row.startswith("| `")]


def equation(law):
    return " ".join((inspect.getdoc(law) or "").split("\n\n")[0].split()).replace("|", "\\|")


@pytest.mark.slow
def test_the_page_says_what_was_measured(broken):
    said = {law.strip("`"): verdict for law, _, _, verdict in rows("Methods")}
    measured = {law: "no: " + ", ".join(who) if who else "yes" for law, who in broken.items()}
    race = "is_the_same_in_a_thread"  # whether two threads draw from one generator at once is a matter of chance
    assert said.pop(race) == "no: RandomUnstructured, RandomStructured"
    measured.pop(race)
    assert set(broken[race]) <= {"RandomUnstructured", "RandomStructured"}
    assert said == measured


def test_the_page_has_every_law_with_its_equation_and_a_test():
    every = {n: law for n, law in vars(laws).items() if inspect.isfunction(law) and n not in HELPERS}
    said = {}
    for section in ("Methods", "Mappings and transforms", "Numbers and groups", "Scores", "Schedules", "Budgets"):
        for law, text, test, *_ in rows(section):
            said[law.strip("`")] = text
            file, name = re.fullmatch(r"`(\w+\.py)::(\w+)`", test).groups()
            assert f"def {name}(" in (TESTS / file).read_text()
    assert said == {n: equation(law) for n, law in every.items()}


HELPERS = {
    "below",
    "like",
    "overlap",
    "plain",
    "possible",
    "ranked",
    "same",
    "storages",
    "unstacked",
    "vmaps_if_at_all",
}
