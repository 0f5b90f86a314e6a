"""What the kit takes, refuses and says."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from wrong_methods import Plain, manners, ranking

import masklib as ml
from masklib.testing import _refute, check_method, laws, method_laws, scored, scores, shapes
from masklib.testing._strategies import palette

# ---- what is said ---------------------------------------------------------------------------------------------------


def forgetful(scores, default_mask, *, amount):
    return ml.l1_unstructured(scores, None, amount=amount)


def test_a_broken_law_is_shown_by_the_smallest_case_as_code_that_breaks_it():
    with pytest.raises(AssertionError) as caught:
        check_method(forgetful, amount=0.3, ranks=torch.abs, vmap=False, examples=30)
    text, *_ = str(caught.value).split("\n\n")
    assert text.splitlines() == [
        "shrinks: f(s, m) <= m.",
        "from functools import partial",
        "import torch",
        "from masklib.testing import laws",
        "f = partial(forgetful, amount=0.3)",
        "s = torch.tensor(1.0, dtype=torch.float32)",
        "m = torch.tensor(False)",
        "laws.shrinks(f, s, m)",
        "# if it is not promised, pass without=[laws.shrinks]",
    ]
    with pytest.raises(AssertionError):
        exec("\n".join(text.splitlines()[1:]), {"forgetful": forgetful})


def test_the_same_cases_are_drawn_each_time():
    texts = set()
    for _ in range(2):
        with pytest.raises(AssertionError) as caught:
            check_method(forgetful, amount=0.5, ranks=torch.abs, mappings=False, examples=20)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_no_generator_is_touched():
    before = torch.get_rng_state()
    check_method(ml.l1_unstructured, amount=0.3, ranks=torch.abs, examples=5)
    assert torch.equal(torch.get_rng_state(), before)


LESS = {"vmap": True, "without": laws.ANYWHERE, "examples": 20}


@pytest.mark.parametrize(
    "groups", [ml.elements(), ml.rows(), ml.channels(-1, p=2), ml.blocks((2, 2)), ml.windows(3)], ids=str
)
def test_params_of_a_method_are_passed_on(groups):
    for number in ({"amount": 0.3}, {"amount": 2}, {"keep": 1}, {"sparsity": 0.5}):
        check_method(
            ml.compute_mask, groups=groups, shapes=(4, 6), vmap=True, without=laws.ANYWHERE, examples=20, **number
        )


def test_a_method_that_takes_tensors_only_is_told_what_to_say():
    def flat(scores, default_mask, *, amount):
        return ml.compute_mask(scores.clone(), default_mask, amount=amount)

    with pytest.raises(AssertionError, match=r"takes_what_is_valid(.|\n)*pass mappings=False"):
        check_method(flat, amount=0.3, examples=20)
    check_method(flat, amount=0.3, mappings=False, examples=20)


# ---- what is promised, and what is not ------------------------------------------------------------------------------


def test_the_promise_is_that_of_compute_mask_unless_said_otherwise():
    """Number 14: the kit was silent where it had guessed that nothing is promised."""
    highest = lambda s, m=None, *, amount: ml.compute_mask(-s.double(), m, amount=amount)  # noqa: E731
    with pytest.raises(AssertionError, match=r"(?m)^takes_the_lowest: (.|\n)*pass ranks=None; .* ranks=torch.abs"):
        check_method(highest, amount=0.3, mappings=False, examples=20)
    check_method(highest, amount=0.3, mappings=False, ranks=lambda s: -s.double(), dtypes=[torch.float32], examples=20)


def by_chance(scores, default_mask=None, *, amount, key=0):
    """Of the scores' form, without a promise of who dies."""
    return ml.random_unstructured(scores, default_mask, key=key, amount=amount)


@pytest.fixture
def unshrunk(monkeypatch):
    """Broken laws are reported with the first cases that broke them."""
    monkeypatch.setattr(_refute, "_shrunk", lambda trials, found, cases, examples: found)


OPTIONS = {
    "ranks=None": (by_chance, {"takes_the_lowest"}, {"ranks": None}),
    "nan=False": (by_chance, {"refuses_nan"}, {"nan": False}),
    "exact=False": (ml.layerwise(ml.compute_mask), {"is_exact"}, {"exact": False}),
    "counts": (partial(ml.compute_mask, groups=ml.channels()), {"is_exact"}, {"counts": ml.channels()}),
    "ties=False": (ranking.TakesTheHigherIndex(), {"takes_the_lower_index_of_equals"}, {"ties": False}),
    "without": (
        manners.ReturnsOneBuffer(),
        {"shares_no_memory"},
        {"without": [laws.shares_no_memory], "mappings": False},
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.usefixtures("unshrunk")
def test_each_option_switches_off_its_laws_and_is_named_by_what_breaks(option):
    method, broken, options = OPTIONS[option]
    given = {"amount": 0.5, "examples": 25, "vmap": False, "shapes": shapes(1, 3)}
    before, after = method_laws(method, **given), method_laws(method, **given, **options)
    for law in broken:
        assert before[law] is not None
        assert option.split("=")[0] in before[law].splitlines()[-1]
        assert after.get(law) is None


def test_laws_that_do_not_apply_are_not_there():
    assert "is_exact" not in method_laws(by_chance, amount=0.3, exact=False, examples=1)
    assert "is_nested" not in method_laws(by_chance, amount=0.3, without=[laws.is_nested], examples=1)
    assert "is_idempotent" not in method_laws(by_chance, amount=0.3, examples=1)
    assert "vmaps_if_at_all" not in method_laws(by_chance, amount=0.3, vmap=False, examples=1)


def test_groups_that_are_no_argument_are_said_by_counts():
    given = {"shapes": shapes(1, 3), "examples": 20}
    check_method(ml.ln_structured, n=2, dim=0, amount=0.3, counts=ml.channels(0, p=2), **given)
    check_method(
        partial(ml.random_structured, key=1),
        dim=-1,
        sparsity=0.5,
        counts=ml.channels(-1),
        ranks=None,
        nan=False,
        **given,
    )


def test_magnitudes_of_the_least_integer_do_not_wrap():
    assert laws.ranked(torch.abs, torch.tensor([-(2**63)])).tolist() == [2**63]
    check_method(ml.l1_unstructured, amount=0.5, ranks=torch.abs, dtypes=[torch.int64, torch.int8], kinds=["hostile"])


def test_compiled_methods():
    check_method(ml.l1_unstructured, amount=0.3, ranks=torch.abs, compiles=True, examples=2)
    with pytest.raises(AssertionError, match=r"^compiles: compile\(f, fullgraph=True\) = f\."):
        check_method(Plain(), amount=0.3, compiles=True, examples=2)


def test_what_cannot_be_checked_is_refused():
    wrong = {
        "`method` must be callable, got 3": lambda: check_method(3),
        "`amount` must be a number, got 'x'": lambda: check_method(ml.l1_unstructured, amount="x"),
        "`amount` must be a share": lambda: check_method(ml.l1_unstructured, amount=-1),
        "one of amount, keep is varied at a time": lambda: check_method(ml.compute_mask, amount=0.3, keep=2),
        "`counts` must be a groups value": lambda: check_method(ml.l1_unstructured, amount=0.3, counts=ml.rows),
        "`exact` must be True or False, got None": lambda: check_method(ml.l1_unstructured, amount=0.3, exact=None),
        "`nan` must be True or False, got 'no'": lambda: check_method(ml.l1_unstructured, amount=0.3, nan="no"),
        "`without` must be a list of laws": lambda: check_method(ml.l1_unstructured, amount=0.3, without="is_nested"),
        "`without` must be laws of masklib": lambda: check_method(ml.l1_unstructured, amount=0.3, without=[print]),
        "`large` needs a number": lambda: check_method(ml.identity, large=True),
        "`ranks` must be callable, got 'abs'": lambda: check_method(ml.l1_unstructured, amount=0.3, ranks="abs"),
        "`kinds` must be a sequence of": lambda: check_method(ml.l1_unstructured, amount=0.3, kinds=["sparse"]),
        "`dtypes` must be a sequence of": lambda: check_method(ml.l1_unstructured, amount=0.3, dtypes=torch.float32),
        "`examples` must be an int from 1 on": lambda: check_method(ml.l1_unstructured, amount=0.3, examples=0),
        "`tensors` and `mappings` cannot both": lambda: check_method(ml.identity, tensors=False, mappings=False),
    }
    for message, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
            call()


def test_methods_of_mappings_alone():
    def pooled(scores, default_mask, *, amount):
        return ml.compute_mask(dict(scores.items()), default_mask, amount=amount)

    check_method(pooled, amount=0.3, tensors=False, examples=30)
    with pytest.raises(AssertionError, match=r"takes_what_is_valid(.|\n)*tensors=False"):
        check_method(pooled, amount=0.3, examples=30)


def test_a_method_that_weighs_tensors_ranks_something_else():
    def normalized(scores, default_mask, *, amount):
        shares = {n: t.detach().double().abs() / max(t.numel(), 1) for n, t in scores.items()}
        return ml.compute_mask(shares, default_mask, amount=amount)

    check_method(normalized, amount=0.3, tensors=False, ranks=None, examples=30)


def test_what_is_raised_is_a_broken_law_also_where_no_counts_are_promised():
    def fails(scores, default_mask, *, keep):
        raise RuntimeError("never")

    with pytest.raises(AssertionError, match=r"^takes_what_is_valid(.|\n)*# raised RuntimeError: never"):
        check_method(fails, keep=2, examples=5)


def test_a_lambda_is_called_yours():
    with pytest.raises(
        AssertionError, match=r"f = partial\(yours, amount=0.\d+\)(.|\n)*# yours is the lambda of test_kit"
    ):
        check_method(lambda s, m, amount: ml.l1_unstructured(s, None, amount=amount), amount=0.3, examples=30)


def test_what_is_drawn_can_tell_methods_apart():
    """Most masks are neither full nor empty, and most scores unequal, however shapes vary."""
    drawn = []

    @settings(max_examples=300, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(scored(mapping=False))
    def draw(case):
        drawn.append(case)

    draw()
    large = [(s, m) for s, m in drawn if s.numel() > 3]
    assert len(large) > 0.6 * len(drawn)
    assert sum(bool((s != s.reshape(-1)[0]).any()) for s, _ in large) > 0.6 * len(large)
    assert sum(m is not None and bool(m.any()) and not m.all() for _, m in large) > 0.3 * len(large)


@given(scores((), dtypes=[torch.float32], kinds=["few"]))
def test_what_is_drawn_may_be_written_to(s):
    s.fill_(99)
    assert 99 not in palette(torch.float32, "few")
