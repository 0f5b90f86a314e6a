"""The kit finds what is wrong: a plain method keeps every law, and wrong ones are caught by those they break."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from torch import Tensor

import masklib as ml
from masklib.testing import _refute, check_method, laws, scored, scores, shapes
from masklib.testing._strategies import palette

MUTANTS: dict[str, tuple[object, str]] = {}


def breaks(law, **options):
    """Note which law a wrong method breaks, and with what else to check it."""

    def note(wrong):
        MUTANTS[wrong.__name__] = (partial(check_it, wrong(), **options), law)
        return wrong

    return note


def check_it(method, **options):
    check_method(method, **{"amount": 0.3, "examples": 30, **options})


class Plain:
    """`compute_mask` of single elements in a few lines of torch, in steps that can be done wrongly."""

    def __call__(self, s, m=None, *, amount=None, sparsity=None, keep=None):
        scores = s if isinstance(s, Mapping) else {"": s}
        masks = dict.fromkeys(scores) if m is None else m if isinstance(s, Mapping) else {"": m}
        names = self.names(scores)
        alive = {n: self.start(scores[n], masks[n]) for n in names}
        killed = self.kill({n: scores[n] for n in names}, alive, amount, sparsity, keep) if names else {}
        return self.result(s, {n: killed[n] for n in scores})

    def kill(self, scores, alive, amount, sparsity, keep):
        """One pool of them all, in the order of names."""
        values = torch.cat([self.flat(t) for t in self.comparable(scores)])
        live = torch.cat([self.flat(t) for t in alive.values()])
        self.refuse_nan(values, live)
        die = self.die(int(live.sum()), len(live), amount, sparsity, keep)
        self.refuse_impossible(die, int(live.sum()))
        places = live.nonzero()[:, 0]
        mask = live.clone()
        mask[self.doomed(values[places], places, die)] = False
        parts = mask.split([t.numel() for t in alive.values()])
        return {n: self.shaped(part, alive[n]) for n, part in zip(alive, parts)}

    def names(self, scores):
        return sorted(scores)

    def start(self, t, m):
        return torch.ones(t.shape, dtype=torch.bool, device="cpu") if m is None else m.clone()

    def comparable(self, scores):
        floating = any(t.is_floating_point() for t in scores.values())
        return [t.detach().double() if floating else t.long() for t in scores.values()]

    def flat(self, t):
        return t.reshape(-1)

    def shaped(self, part, t):
        return part.reshape(t.shape).clone()

    def refuse_nan(self, values, live):
        if values[live].isnan().any():
            raise ValueError("NaN in scores")

    def refuse_impossible(self, die, alive):
        if not 0 <= die <= alive:
            raise ValueError(f"`amount` must be between 0 and {alive}")

    def die(self, alive, items, amount, sparsity, keep):
        if keep is not None:
            if keep > items:
                raise ValueError(f"`keep` must be between 0 and {items}")
            return max(0, alive - keep)
        if sparsity is not None:
            return max(0, round(sparsity * items) - (items - alive))
        return round(amount * alive) if isinstance(amount, float) else amount

    def doomed(self, values, places, die):
        return places[values.argsort(stable=True)[:die]]

    def result(self, s, masks):
        return masks if isinstance(s, Mapping) else masks[""]


@pytest.mark.parametrize("number", [{"amount": 0.3}, {"amount": 3}, {"sparsity": 0.5}, {"keep": 2}], ids=str)
def test_the_plain_method_keeps_every_law(number):
    check_method(Plain(), **number)


# ---- how many -------------------------------------------------------------------------------------------------------


@breaks("is_exact")
class CountsInFloat32(Plain):
    def die(self, alive, items, amount, *_):
        return round((torch.tensor(amount, dtype=torch.float32, device="cpu") * alive).item())


@breaks("is_exact")
class RoundsHalvesUp(Plain):
    def die(self, alive, items, amount, *_):
        return math.floor(amount * alive + 0.5)


@breaks("is_exact")
class RoundsDown(Plain):
    def die(self, alive, items, amount, *_):
        return int(amount * alive)


@breaks("is_exact")
class CountsTheDead(Plain):
    """As many of all as there should be of the living; and it picks among all of them."""

    def kill(self, scores, alive, *number):
        every = {n: torch.ones_like(t) for n, t in alive.items()}
        return super().kill(scores, every, *number)


@breaks("is_exact")
class CountsShareOfAll(Plain):
    def die(self, alive, items, amount, *_):
        return min(alive, round(amount * items))


@breaks("everything_takes_everything")
class KeepsAtLeastOne(Plain):
    def die(self, alive, *number):
        return min(super().die(alive, *number), max(0, alive - 1))


@breaks("nothing_takes_nothing")
class KillsAtLeastOne(Plain):
    def die(self, alive, *number):
        return max(super().die(alive, *number), min(alive, 1))


@breaks("is_exact", amount=None, sparsity=0.5)
class SparsityOfTheAlive(Plain):
    """Each round takes its share of what is left."""

    def die(self, alive, items, amount, sparsity, keep):
        return round(sparsity * alive)


@breaks("is_idempotent", exact=None, amount=None, sparsity=0.5)
class SparsityOfTheAliveUnseen(SparsityOfTheAlive):
    """The same, of which no exact count is promised."""


@breaks("keeps_fewer_after_more", ranks=None, amount=None, keep=3)
class KeepsMoreTheSecondTime(Plain):
    """It keeps one more of those that are not alone from the start."""

    def doomed(self, values, places, die):
        return super().doomed(values, places, 0 if len(values) == 3 and die < 3 else die)


@breaks("refuses_the_impossible", amount=3)
class ClampsWhatIsImpossible(Plain):
    def die(self, alive, *number):
        return min(super().die(alive, *number), alive)


# ---- who ------------------------------------------------------------------------------------------------------------


@breaks("takes_the_lower_index_of_equals")
class TakesTheHigherIndex(Plain):
    def doomed(self, values, places, die):
        return places.flip(0)[values.flip(0).argsort(stable=True)[:die]]


@breaks("takes_the_lower_index_of_equals", examples=200)
class TakesNegativeZeroFirst(Plain):
    def doomed(self, values, places, die):
        order = sorted(range(len(values)), key=lambda i: (values[i].item(), not values[i].signbit()))
        return places[torch.tensor(order[:die], dtype=torch.int64, device="cpu")]


@breaks("is_exact")
class TakesAllEquals(Plain):
    """A threshold with `<=`."""

    def doomed(self, values, places, die):
        return places[values <= values.sort()[0][die - 1]] if die else places[:0]


@breaks("everything_takes_everything")
class SparesAllEquals(Plain):
    """A threshold with `<`."""

    def doomed(self, values, places, die):
        return places[values < values.sort()[0][die - 1]] if die else places[:0]


@breaks("takes_the_lowest", ranks=operator.pos)
class TakesTheHighest(Plain):
    def doomed(self, values, places, die):
        return places[values.argsort(stable=True)[len(values) - die :]]


@breaks("takes_the_lowest")
class ComparesInFloat32(Plain):
    def comparable(self, scores):
        return [t.detach().float() for t in scores.values()]


@breaks("takes_the_lowest")
class WrapsTheLeastInteger(Plain):
    """abs(-128) of an int8 is -128."""

    def comparable(self, scores):
        return super().comparable({n: t.abs() for n, t in scores.items()})


@breaks("refuses_nan")
class RanksNan(Plain):
    def refuse_nan(self, values, live):
        pass


@breaks("is_nested")
class DrawsAnewForEachNumber(Plain):
    def doomed(self, values, places, die):
        return (places if die % 2 else places.flip(0))[:die]


@breaks("is_exact", exact=ml.elements())
class PrunesEachTensorAlone(Plain):
    def kill(self, scores, alive, *number):
        return {n: super(PrunesEachTensorAlone, self).kill({n: scores[n]}, {n: alive[n]}, *number)[n] for n in alive}


@breaks("takes_items_whole", exact=ml.channels(0), ranks=None, shapes=(3, 2), mappings=False)
class TakesItemsInPart(Plain):
    """As many rows die as should; where any do, the last that lives on loses an element besides."""

    def kill(self, scores, alive, amount, *_):
        mask = alive[""].clone()
        rows = mask.any(1).nonzero()[:, 0]
        mask[rows[: round(amount * len(rows))]] = False
        if not torch.equal(mask, alive[""]) and bool((mask.sum(1) > 1).any()):
            mask[mask.sum(1).argmax(), 0] = False
        return {"": mask}


# ---- from what ------------------------------------------------------------------------------------------------------


@breaks("shrinks")
class ForgetsTheMask(Plain):
    def start(self, t, m):
        return torch.ones(t.shape, dtype=torch.bool, device="cpu")


@breaks("starts_from_all")
class TakesNoMaskForNonzero(Plain):
    def start(self, t, m):
        return t.detach() != 0 if m is None else m.clone()


@breaks("looks_at_survivors_only")
class LooksAtTheDead(Plain):
    """All scores are checked for NaN, those of dead entries too."""

    def refuse_nan(self, values, live):
        super().refuse_nan(values, torch.ones_like(live))


@breaks("is_layout_blind")
class CountsInMemoryOrder(Plain):
    def flat(self, t):
        return t.permute(order(t)).reshape(-1)

    def shaped(self, part, t):
        by_stride = order(t)
        back = sorted(range(t.dim()), key=by_stride.__getitem__)
        return part.reshape([t.shape[d] for d in by_stride]).permute(back).clone()


def order(t: Tensor) -> list[int]:
    return sorted(range(t.dim()), key=lambda d: -t.stride(d))


@breaks("is_order_blind")
class TakesNamesAsTheyCome(Plain):
    def names(self, scores):
        return list(scores)


@breaks("looks_at_no_default_device")
class UsesTheDefaultDevice(Plain):
    def start(self, t, m):
        return torch.ones(t.shape, dtype=torch.bool) if m is None else m.clone()


@breaks("takes_what_is_valid")
class RefusesEmptyTensors(Plain):
    def start(self, t, m):
        if not t.numel():
            raise ValueError("scores are empty")
        return super().start(t, m)


@breaks("is_detached")
class CannotReadWhatNeedsAGradient(Plain):
    def comparable(self, scores):
        return [torch.from_numpy(t.to(torch.float64).numpy()) for t in scores.values()]


# ---- what is left behind --------------------------------------------------------------------------------------------


@breaks("changes_no_input")
class WritesIntoTheMask(Plain):
    def result(self, s, masks):
        return masks if isinstance(s, Mapping) else masks[""]

    def start(self, t, m):
        return m if m is not None and m.is_contiguous() else super().start(t, m)

    def shaped(self, part, t):
        return t.logical_and_(part.reshape(t.shape)).clone()


@breaks("changes_no_input")
class WritesIntoTheScores(Plain):
    def __call__(self, s, m=None, **number):
        mask = super().__call__(s, m, **number)
        if isinstance(s, Tensor) and s.is_contiguous():
            s.detach().masked_fill_(~mask, 0)
        return mask


@breaks("shares_no_memory")
class ReturnsTheMaskItWasGiven(Plain):
    def __call__(self, s, m=None, **number):
        mask = super().__call__(s, m, **number)
        return m if isinstance(m, Tensor) and torch.equal(mask, m) else mask


@breaks("shares_no_memory")
class ReturnsOneBuffer(Plain):
    """Every result is written to the same memory."""

    buffer = torch.empty(4096, dtype=torch.bool)

    def result(self, s, masks):
        if isinstance(s, Mapping):
            return masks
        out = self.buffer[: masks[""].numel()].view(masks[""].shape)
        return out.copy_(masks[""])


@breaks("touches_no_generator")
class BreaksTiesByChance(Plain):
    def doomed(self, values, places, die):
        torch.rand(1, device="cpu")
        return super().doomed(values, places, die)


@breaks("takes_the_lowest")
class RanksOnce(Plain):
    """The order of the scores that came first, of each shape, is kept."""

    def __init__(self):
        self.kept = {}

    def doomed(self, values, places, die):
        ranking = self.kept.setdefault((tuple(places.tolist()), values.dtype), values.argsort(stable=True))
        return places[ranking[:die]]


@breaks("remembers_nothing")
class ChangesItsMind(Plain):
    """Every other call takes the highest."""

    calls = 0

    def doomed(self, values, places, die):
        self.calls += 1
        return super().doomed(values if self.calls % 2 else -values, places, die)


@breaks("touches_no_generator")
class SeedsTheGenerator(Plain):
    """As many do before they draw."""

    def doomed(self, values, places, die):
        torch.manual_seed(0)
        return super().doomed(values, places, die)


@breaks("remembers_nothing", ranks=None, dtypes=[torch.float32], mappings=False, vmap=False)
class RanksFromTheLastMean(Plain):
    """Up or down, as the mean of the last call was."""

    mean = 0.0

    def doomed(self, values, places, die):
        sign, self.mean = 1 if self.mean > 0 else -1, values.clamp(-9, 9).sum()
        return super().doomed(sign * values, places, die)


@breaks("refuses_nan")
class LooksForNanAtTheFirst(Plain):
    def refuse_nan(self, values, live):
        super().refuse_nan(values[live][:1], slice(None))


@breaks("is_exact")
class RoundsUp(Plain):
    def die(self, alive, items, amount, *_):
        return math.ceil(amount * alive)


@breaks("changes_no_input", amount=1, exact=None, ranks=None, mappings=False, dtypes=[torch.float32])
class MakesMagnitudesOfItsInput(Plain):
    def comparable(self, scores):
        return super().comparable({n: t.detach().abs_() if t.is_contiguous() else t for n, t in scores.items()})


# ---- its form -------------------------------------------------------------------------------------------------------


@breaks("is_a_mask")
class ReturnsFloats(Plain):
    def result(self, s, masks):
        return super().result(s, {n: mask.float() for n, mask in masks.items()})


@breaks("is_a_mask")
class ReturnsSortedNames(Plain):
    def result(self, s, masks):
        return super().result(s, {n: masks[n] for n in sorted(masks)})


@breaks("is_a_mask")
class FlattensTheMask(Plain):
    def shaped(self, part, t):
        return part.clone()


@breaks("vmaps", vmap=True)
class ReadsItemsUnderVmap(Plain):
    """Correct on its own, but nothing that reads data can be mapped over a batch."""


@breaks("vmaps_if_at_all", mappings=False)
class GivesUpUnderVmap(Plain):
    def __call__(self, s, m=None, *, amount):
        if torch._C._functorch.is_batchedtensor(s):
            return torch.ones_like(s, dtype=torch.bool)
        return super().__call__(s, m, amount=amount)


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
    assert len(MUTANTS) >= 40
    assert {law for _, law in MUTANTS.values()} > {law.__name__ for law in laws.METHODS}


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


@pytest.mark.parametrize("name", ["TakesTheHigherIndex", "CountsInMemoryOrder", "TakesNamesAsTheyCome", "RanksNan"])
def test_what_is_shown_can_be_pasted(name):
    """Strides, names and labels included."""
    with pytest.raises(AssertionError) as caught:
        MUTANTS[name][0]()
    wrong = globals()[name]
    for text in str(caught.value).split("\n\n"):
        assert f"# yours is the {name}\n" in text + "\n"
        with pytest.raises((AssertionError, ValueError)):
            exec("\n".join(text.splitlines()[1:]), {"yours": wrong(), "pos": operator.pos})


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
