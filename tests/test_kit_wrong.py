"""The kit finds what is wrong: a plain method keeps every law, and wrong ones are caught by those they break."""

from __future__ import annotations

import operator

import pytest
import torch
from wrong_methods import MUTANTS, Plain

from masklib.testing import _refute, check_method, laws


@pytest.mark.parametrize("number", [{"amount": 0.3}, {"amount": 3}, {"sparsity": 0.5}, {"keep": 2}], ids=str)
def test_the_plain_method_keeps_every_law(number):
    check_method(Plain(), **number, forks="amount" in number, examples=40)


@pytest.fixture(autouse=True)
def modes():
    """What a wrong method leaves behind does not reach the next test."""
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


@pytest.fixture
def unshrunk(monkeypatch):
    """Broken laws are reported with the first cases that broke them."""
    monkeypatch.setattr(_refute, "_shrunk", lambda trials, found, cases, examples: found)


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.usefixtures("unshrunk")
def test_a_wrong_method_is_caught_by_the_law_it_breaks(name):
    check, law = MUTANTS[name]
    with pytest.raises(AssertionError) as caught:
        check()
    broken = {text.split(":")[0]: text for text in str(caught.value).split("\n\n")}
    assert law in broken
    assert f"laws.{law}(" in broken[law]


def test_there_are_wrong_methods_enough():
    assert len(MUTANTS) >= 70
    assert {law for _, law in MUTANTS.values()} > {law.__name__ for law in (*laws.METHODS, *laws.ANYWHERE)}


@pytest.mark.parametrize("name", ["TakesTheHigherIndex", "CountsInMemoryOrder", "TakesNamesAsTheyCome", "RanksNan"])
def test_what_is_shown_can_be_pasted(name):
    """Strides, names and labels included."""
    with pytest.raises(AssertionError) as caught:
        MUTANTS[name][0]()
    wrong = type(MUTANTS[name][0].args[0])
    for text in str(caught.value).split("\n\n"):
        assert f"# yours is the {name}\n" in text + "\n"
        with pytest.raises((AssertionError, ValueError)):
            exec("\n".join(text.splitlines()[1:]), {"yours": wrong(), "pos": operator.pos})
