"""What the kit takes, refuses and says."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from test_kit_wrong import Plain

import masklib as ml
from masklib.testing import check_method, scored, scores, shapes
from masklib.testing._strategies import palette

# ---- what is said ---------------------------------------------------------------------------------------------------


def forgetful(scores, default_mask, *, amount):
    return ml.l1_unstructured(scores, None, amount=amount)


def test_a_broken_law_is_shown_by_the_smallest_case_as_code_that_breaks_it():
    with pytest.raises(AssertionError) as caught:
        check_method(forgetful, amount=0.3)
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
    ]
    with pytest.raises(AssertionError):
        exec("\n".join(text.splitlines()[1:]), {"forgetful": forgetful})


def test_the_same_cases_are_drawn_each_time():
    texts = set()
    for _ in range(2):
        with pytest.raises(AssertionError) as caught:
            check_method(forgetful, sparsity=None, amount=0.5, examples=20)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_no_generator_is_touched():
    before = torch.get_rng_state()
    check_method(ml.l1_unstructured, amount=0.3, examples=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "groups", [ml.elements(), ml.rows(), ml.channels(-1, p=2), ml.blocks((2, 2)), ml.windows(3)], ids=str
)
def test_params_of_a_method_are_passed_on(groups):
    for number in ({"amount": 0.3}, {"amount": 2}, {"keep": 1}, {"sparsity": 0.5}):
        check_method(ml.compute_mask, groups=groups, shapes=(4, 6), vmap=True, examples=20, **number)


def test_a_method_that_takes_tensors_only_is_told_what_to_say():
    def flat(scores, default_mask, *, amount):
        return ml.l1_unstructured(scores.clone(), default_mask, amount=amount)

    with pytest.raises(AssertionError, match=r"takes_what_is_valid(.|\n)*pass mappings=False"):
        check_method(flat, amount=0.3)
    check_method(flat, amount=0.3, mappings=False)


def test_methods_that_promise_no_counts_of_elements_are_held_to_none():
    check_method(ml.ln_structured, n=2, dim=0, amount=0.3, shapes=shapes(1), examples=30)
    check_method(ml.layerwise(ml.l1_unstructured), amount=0.3, examples=30)
    check_method(partial(ml.random_structured, key=1), dim=-1, sparsity=0.5, shapes=shapes(1), examples=30)


def test_compiled_methods():
    check_method(ml.l1_unstructured, amount=0.3, compiles=True, examples=2)
    with pytest.raises(AssertionError, match=r"^compiles: compile\(f, fullgraph=True\) = f\."):
        check_method(Plain(), amount=0.3, compiles=True, examples=2)


def test_what_cannot_be_checked_is_refused():
    wrong = {
        "`method` must be callable, got 3": lambda: check_method(3),
        "`amount` must be a number, got 'x'": lambda: check_method(ml.l1_unstructured, amount="x"),
        "`amount` must be a share": lambda: check_method(ml.l1_unstructured, amount=-1),
        "one of amount, keep is varied at a time": lambda: check_method(ml.compute_mask, amount=0.3, keep=2),
        "`exact` must be a groups value": lambda: check_method(ml.l1_unstructured, amount=0.3, exact=ml.rows),
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
        return ml.l1_unstructured(dict(scores.items()), default_mask, amount=amount)

    check_method(pooled, amount=0.3, tensors=False, examples=30)
    with pytest.raises(AssertionError, match=r"takes_what_is_valid(.|\n)*tensors=False"):
        check_method(pooled, amount=0.3, examples=30)


def test_a_method_that_weighs_tensors_is_not_held_to_magnitudes():
    def normalized(scores, default_mask, *, amount):
        shares = {n: t.detach().double().abs() / max(t.numel(), 1) for n, t in scores.items()}
        return ml.compute_mask(shares, default_mask, amount=amount)

    check_method(normalized, amount=0.3, tensors=False, examples=30)


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
