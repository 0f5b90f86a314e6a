"""The kit on groups, scores and schedules: all of the library's keep their laws, and wrong ones are caught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import pytest
import torch

import masklib as ml
from masklib.testing import check_groups, check_schedule, check_score, laws, shapes

# ---- groups ---------------------------------------------------------------------------------------------------------


class Unequal(type(ml.rows())):
    """Rows that differ from their copies."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def first_set_only(scores, default_mask=None, *, groups, **number):
    masks = ml.compute_mask(scores, default_mask, groups=groups, **number)
    return masks | {"b": ml.identity(scores, default_mask)["b"]}


def one_less(scores, default_mask=None, *, groups, **number):
    """The last that is left in the first tensor goes too."""
    masks = ml.compute_mask(scores, default_mask, groups=groups, **number)
    live = masks["a"].flatten(1).any(1).nonzero()
    if len(live):
        masks["a"][live[-1]] = False
    return masks


def along_the_other_dim(scores, default_mask=None, *, groups, **number):
    other = replace(groups, dim=-1 - groups.dim)
    return ml.compute_mask(scores, default_mask, groups=other, **number)


def by_the_highest(scores, default_mask=None, *, groups, **number):
    return ml.compute_mask(-scores, default_mask, groups=groups, **number)


def with_higher_ties(scores, default_mask=None, *, groups, **number):
    turned = None if default_mask is None else default_mask.flip(-1)
    return ml.compute_mask(scores.flip(-1), turned, groups=groups, **number).flip(-1)


@dataclass(frozen=True)
class Alike:
    """Equal to whatever has the same dim, but each index along the other one is a pool."""

    dim: int = 0

    def fold(self, shape):
        return ml.rows(-1 - self.dim).fold(shape)

    def __eq__(self, other):
        return getattr(other, "dim", None) == self.dim

    def __hash__(self):
        return hash(self.dim)


@dataclass(frozen=True)
class Diagonals:
    """Each run of `of` along the wrapped diagonals of a matrix a pool, such as 2 out of 4."""

    of: int

    def fold(self, shape):
        if len(shape) != 2 or not shape.numel() or shape[0] % self.of:
            raise ValueError(f"the rows of {tuple(shape)} are no runs of {self.of}")
        row, column = torch.arange(shape[0]), torch.arange(shape[1])[:, None]
        along = row * shape[1] + (column + row) % shape[1]
        return ml.Folding.by_index(along.reshape(-1, self.of, 1), shape)


@dataclass(frozen=True)
class Tiles:
    """Tiles of a matrix whose rows are in another order."""

    order: tuple[int, ...]
    width: int

    def fold(self, shape):
        if len(shape) != 2 or shape[0] != len(self.order) or shape[1] % self.width:
            raise ValueError(f"{tuple(shape)} has no tiles of width {self.width}")
        index = torch.arange(shape.numel()).view(shape)[list(self.order)]
        tiles = index.view(shape[0] // 2, 2, -1, self.width).transpose(1, 2)
        return ml.Folding.by_index(tiles.reshape(-1, 2 * self.width), shape)


GROUPS = [
    (ml.elements(), {}),
    (ml.rows(-1), {}),
    (ml.channels(1, p=2, mean=True), {}),
    (ml.blocks((2, 3)), {}),
    (ml.windows(4, 0), {}),
    (ml.labels(torch.tensor([[0, 1, 0], [2, 2, 3]]), torch.tensor([[0, 1, 0], [1, 1, 0]])), {}),
    (ml.labels({"a": torch.tensor([0, 1]), "b": torch.tensor([0, 2])}), {}),
    (ml.coupled({"a": ml.channels(0), "b": ml.channels(1)}, {"b": ml.channels(0), "c": ml.heads(2)}), {}),
    (ml.coupled({"a": ml.channels(0), "b": ml.channels(1)}, {"b": ml.channels(0)}, p=2), {}),
    (ml.coupled({"a": ml.windows(4), "b": ml.windows(4)}), {}),
    (ml.windows(4, ragged=True), {}),
    (ml.blocks((2, 2), ragged=True), {}),
    (Diagonals(4), {}),
    (Tiles((2, 0, 3, 1), 2), {"others": [Tiles((0, 1, 2, 3), 2)]}),
    (ml.coupled({"a": Tiles((2, 0, 3, 1), 1), "b": ml.elements()}), {}),
]
CHAIN = ml.coupled({"a": ml.channels(0), "b": ml.channels(1)}, {"b": ml.channels(0)})


@pytest.mark.parametrize(("groups", "options"), GROUPS, ids=lambda x: type(x).__name__)
def test_groups_keep_their_laws(groups, options):
    check_groups(groups, **options)


@pytest.mark.parametrize(
    ("groups", "method", "law"),
    [
        (Unequal(0), ml.compute_mask, "is_plain_data"),
        (ml.rows(), along_the_other_dim, "is_exact"),
        (ml.rows(), by_the_highest, "takes_the_lowest"),
        (ml.rows(), with_higher_ties, "takes_the_lower_index_of_equals"),
        (ml.channels(0), partial(along_the_other_dim), "takes_items_whole"),
        (Alike(0), ml.compute_mask, "equals_what_folds_alike"),
        (CHAIN, first_set_only, "is_exact"),
        (CHAIN, one_less, "follows_the_rule"),
    ],
)
def test_wrong_groups_are_caught(groups, method, law):
    with pytest.raises(AssertionError, match=rf"(^|\n){law}: "):
        check_groups(groups, method=method)


# ---- scores ---------------------------------------------------------------------------------------------------------


def each(f, params):
    return {n: f(t) for n, t in params.items()} if isinstance(params, Mapping) else f(params)


def slopes(params):
    """Something of the parameters' form, for gradients."""
    return each(lambda t: t.detach() * 3 - 1, params)


def squares(params):
    """A loss that is a sum over the tensors."""
    tensors = params.values() if isinstance(params, Mapping) else [params]
    return sum(((t.float() ** 2).sum() for t in tensors), torch.zeros(()))


def linear(params, inputs):
    tensors = params.values() if isinstance(params, Mapping) else [params]
    return sum((t.sum() * inputs for t in tensors), torch.zeros(()))


def columns(params):
    """Inputs of as many features as a weight has columns."""
    return each(lambda t: torch.arange(3 * t.shape[1], dtype=torch.float32).view(3, t.shape[1]), params)


def outputs(params):
    """Gradients of as many outputs as a weight has rows."""
    return columns(each(lambda t: t.detach().transpose(0, 1), params))


CRITERIA = {
    "magnitude": (ml.scores.magnitude, {}),
    "random": (partial(ml.scores.random, key=3), {}),
    "lamp": (ml.scores.lamp, {}),
    "fpgm": (ml.scores.fpgm, {"shapes": shapes(2, 4)}),
    "batch_norm": (
        lambda p: ml.scores.batch_norm(p, each(lambda t: torch.arange(t.shape[0], dtype=torch.float32) - 1.5, p)),
        {"shapes": shapes(1, 4)},
    ),
    "saliency": (lambda p: ml.scores.saliency(p, slopes(p)), {}),
    "taylor": (lambda p: ml.scores.taylor(p, slopes(p)), {}),
    "fisher": (lambda p: ml.scores.fisher(p, ml.scores.add_squared_grads(None, slopes(p))), {}),
    "movement": (lambda p: ml.scores.movement(ml.scores.add_movement(None, p, slopes(p))), {}),
    "wanda": (lambda p: ml.scores.wanda(p, ml.scores.add_input_norms(None, columns(p))), {"shapes": shapes(2, 2)}),
    "ria": (lambda p: ml.scores.ria(p, ml.scores.add_input_norms(None, columns(p))), {"shapes": shapes(2, 2)}),
    "curvature": (
        lambda p: ml.scores.curvature(p, *(ml.scores.add_input_norms(None, c) for c in (columns(p), outputs(p)))),
        {"shapes": shapes(2, 2)},
    ),
    "grasp": (lambda p: ml.scores.grasp(p, squares), {"examples": 40}),  # these two take milliseconds a call
    "synflow": (lambda p: ml.scores.synflow(p, linear, torch.ones(2)), {"examples": 40}),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_keep_their_laws(name):
    score, options = CRITERIA[name]
    check_score(score, **options)


def test_every_criterion_is_there():
    public = {n for n, f in vars(ml.scores).items() if callable(f) and not n.startswith("_") and n.islower()}
    assert {n for n in public if not n.startswith("add_")} == set(CRITERIA) | {
        "reap",
        "distance",
    }  # of experts and of blocks


def in_place(params):
    for t in params.values() if isinstance(params, Mapping) else [params]:
        if t.is_contiguous():
            t.detach().abs_()
    return ml.scores.magnitude(params)


def per_tensor(f):
    """A score of a mapping from the score of a tensor."""
    return partial(each, f)


def ranked_over_all(params):
    """Magnitudes as a share of the sum over all that is given."""
    tensors = params if isinstance(params, Mapping) else {"": params}
    total = sum(t.detach().double().abs().sum() for t in tensors.values()) + 1.0
    shares = {n: t.detach().double().abs() / total for n, t in tensors.items()}
    return shares if isinstance(params, Mapping) else shares[""]


def after_the_first(params):
    """Scores of all but the first name are doubled."""
    if not isinstance(params, Mapping):
        return ml.scores.magnitude(params)
    return {n: ml.scores.magnitude(t) * (1 + i) for i, (n, t) in enumerate(params.items())}


SCORES = {
    "scores_what_is_valid": per_tensor(lambda t: t.detach().abs() / t.detach().reshape(-1)[0].item()),
    "has_the_shapes_of_params": per_tensor(lambda t: t.detach().abs().reshape(-1)),
    "makes_no_nan": per_tensor(lambda t: t.detach().abs() / t.detach().abs().sum()),
    "hides_no_nan": per_tensor(lambda t: torch.where(t.detach().abs() > 0, t.detach().abs(), 0)),
    "can_be_ranked": per_tensor(lambda t: t.detach().abs().to(torch.complex64)),
    "ignores_autocast": per_tensor(lambda t: (t.detach().reshape(-1, 1).float() @ torch.ones(1, 1)).reshape(t.shape)),
    "ignores_the_default_dtype": per_tensor(lambda t: torch.tensor(t.tolist()).reshape(t.shape)),
    "carries_no_graph": per_tensor(lambda t: t.abs()),
    "changes_no_params": in_place,
    "shares_no_memory_with_params": per_tensor(lambda t: t.detach()),
    "needs_no_generator": per_tensor(lambda t: t.detach().abs() + 0 * torch.rand(1, dtype=t.dtype)),
    "repeats_itself": per_tensor(lambda t, calls=[]: t.detach().abs() + len(calls.append(0) or calls)),
    "looks_at_no_strides": per_tensor(lambda t: t.detach().abs() + t.stride()[0] if t.dim() else t.detach().abs()),
    "looks_at_no_order": after_the_first,
    "scores_each_tensor_alone": ranked_over_all,
}


@pytest.mark.parametrize("law", SCORES)
def test_wrong_scores_are_caught(law):
    with pytest.raises(AssertionError, match=rf"(^|\n){law}: "):
        check_score(SCORES[law])
    assert set(SCORES) == {law.__name__ for law in laws.SCORES} | {"scores_each_tensor_alone"}


def test_scores_over_all_tensors_are_allowed_if_said():
    check_score(ranked_over_all, per_tensor=False)


# ---- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        ml.schedules.one_shot(0.9, at=10),
        ml.schedules.linear(0.9, stop=100),
        ml.schedules.cubic(0.9, start=5, stop=105, every=10),
        ml.schedules.cosine(0.5, stop=30),
        ml.schedules.exponential(0.2, every=7),
    ],
    ids=["one_shot", "linear", "cubic", "cosine", "exponential"],
)
def test_schedules_keep_their_laws(schedule):
    check_schedule(schedule)


SCHEDULES = {
    "is_a_sparsity": lambda step: step * 0.001,
    "is_a_function_of_the_step": lambda step, calls=[]: 0.5 * len(calls.append(0) or calls) / (1 + len(calls)),
    "takes_tensor_steps": lambda step: min(1.0, 0.001 * int(step)),
    "never_falls": lambda step: 0.5 + 0 * step if step == 0 else 0.4 + 0 * step,
}


@pytest.mark.parametrize("law", SCHEDULES)
def test_wrong_schedules_are_caught(law):
    with pytest.raises(AssertionError, match=rf"(^|\n){law}: "):
        check_schedule(SCHEDULES[law])


@dataclass(frozen=True)
class Steps:
    """A tenth more each ten steps up to one half, due then; each of what follows is wrong in one way."""

    stop: int = 50
    final: float = 0.5

    def __call__(self, step):
        tens = step // 10
        return (tens.double() / 10).clamp(max=0.5) if isinstance(step, torch.Tensor) else min(tens / 10, 0.5)

    def due(self, step):
        return (step % 10 == 0) & (step <= 50)


class ChangesBetween(Steps):
    def __call__(self, step):
        return super().__call__(step + 1)


class EndsTooEarly(Steps):
    def __call__(self, step):
        return super().__call__(step) * 0.9


class EndsTooLate(Steps):
    def due(self, step):
        return step % 10 == 0


class IsDueInPython(Steps):
    def due(self, step):
        return bool(super().due(step))


def test_schedules_that_know_when_they_are_due():
    check_schedule(Steps())


@pytest.mark.parametrize(
    ("schedule", "law"),
    [
        (ChangesBetween(), "changes_only_when_due"),
        (EndsTooEarly(), "ends_with_its_last_update"),
        (EndsTooLate(), "ends_with_its_last_update"),
        (IsDueInPython(), "is_due_for_tensor_steps"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_schedules_that_are_due_at_other_steps_are_caught(schedule, law):
    with pytest.raises(AssertionError, match=rf"(?m)^{law}: "):
        check_schedule(schedule)


def test_schedules_of_one_end_can_be_told_apart():
    ramps = (ml.schedules.linear, ml.schedules.cubic, ml.schedules.cosine, ml.schedules.geometric)
    ends = [ramp(0.9, stop=10) for ramp in ramps]
    for schedule in ends:
        check_schedule(schedule, steps=12, others=ends, examples=20)


class Halves(NamedTuple):
    final: float

    def __call__(self, step):
        return self.final / 2 + 0 * step


def test_schedules_that_cannot_be_told_apart_are_caught():
    class Wholes(Halves):
        def __call__(self, step):
            return self.final + 0 * step

    check_schedule(Halves(0.5), tensors=False, others=[Halves(0.5), Wholes(0.4)])
    with pytest.raises(AssertionError, match=r"^equals_what_rises_alike: (.|\n)*is equal to it"):
        check_schedule(Halves(0.5), tensors=False, others=[Wholes(0.5)])


def test_a_schedule_may_fall_if_said():
    check_schedule(ml.schedules.cosine(0.0, initial=0.3, stop=50), falls=True)


def test_no_step_beyond_the_last_is_asked_for():
    table = [0.0, 0.1, 0.2, 0.5]
    check_schedule(lambda step: table[step], steps=3, tensors=False)


def test_a_fall_in_the_middle_is_caught():
    with pytest.raises(AssertionError, match=r"^never_falls: "):
        check_schedule(lambda step: min(0.9, step / 100) if step < 5000 else 0.8, tensors=False)


@pytest.mark.parametrize(
    "groups", [ml.channels(0, p=-1), ml.channels(0, mean=True), ml.blocks((2, 2), p=0.5)], ids=repr
)
def test_norms_of_every_order(groups):
    def plain(s, m=None, *, groups, **number):
        return ml.compute_mask(s, m, groups=replace(groups, p=None, mean=False), **number)

    check_groups(groups, examples=30)
    with pytest.raises(AssertionError, match=r"^takes_the_lowest: "):
        check_groups(groups, method=plain, examples=400)


@pytest.mark.parametrize("check", [check_groups, check_score, check_schedule])
def test_what_cannot_be_checked_is_refused(check):
    with pytest.raises(TypeError, match="got 3: "):
        check(3)


@pytest.mark.parametrize("steps", [-1, "many"])
def test_steps_that_cannot_be_drawn_are_refused(steps):
    with pytest.raises(ValueError, match="`steps` must be an int from 1 on"):
        check_schedule(ml.schedules.linear(0.9, stop=10), steps=steps)
