"""Bad calls in one table: the error names the argument, shows the value and a call that works."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import masklib as ml

S = torch.arange(6.0).view(2, 3)
MAPPING = {"a": S, "b": S + 1}
HESSIAN = ml.scores.add_hessian(None, S)
ROWS = ml.coupled({"a": ml.channels(0), "b": ml.channels(0)})


class Unfolded:
    """A groups value that folds into nothing."""

    def __repr__(self):
        return "unfolded()"

    def fold(self, shape):
        return shape


class Square:
    """A groups value that takes square matrices."""

    def __repr__(self):
        return "square()"

    def fold(self, shape):
        if len(set(shape)) > 1:
            raise ValueError("the matrix must be square")
        return ml.elements().fold(shape)


class Folds:
    """A groups value of a folding that is given."""

    def __init__(self, *sizes, p=None, mean=False, into=None, back=None, **others):
        self.folding, self.p, self.mean = ml.Folding(*sizes, into=into, back=back, **others), p, mean

    def __repr__(self):
        return "folds()"

    def fold(self, shape):
        return self.folding


def by(*sizes, **options):
    return ml.compute_mask(S, amount=1, groups=Folds(*sizes, **options))


TO_PAIRS = {"into": lambda t: t.reshape(3, 2), "back": lambda m: m.reshape(2, 3)}


def fold(index):
    return ml.Folding.by_index(torch.tensor(index), (2,))


def regrow(scores, others):
    return ml.regrow(scores, grow_scores=others, amount=1)


BAD = [
    (
        ValueError,
        "`penalty` must hold positive, finite numbers, got (0.0,)",
        lambda: ml.admm(S, HESSIAN, keep=1, penalty=(0.0,)),
    ),
    (
        ValueError,
        "`statistics` must be of the 3 inputs of `weight`",
        lambda: ml.admm(S, ml.scores.add_hessian(None, S.T), keep=1),
    ),
    (TypeError, "`mask` must be bool (True = kept)", lambda: ml.reconstruct(S, HESSIAN, S)),
    (
        ValueError,
        "is not positive definite with damping=0.0: its 2 inputs do not span its 3 features. Pass damping=0.01",
        lambda: ml.admm(S, HESSIAN, keep=1, damping=0.0),
    ),
    (
        ValueError,
        "`power` must be finite and not negative, got -1. For example power=0.5.",
        lambda: ml.scores.ria(S, ml.scores.add_input_norms(None, S), power=-1),
    ),
    (ValueError, "`outliers` must be positive and finite, got 0", lambda: ml.budgets.owl(MAPPING, 0.5, outliers=0)),
    (ValueError, "`margin` must be a number in [0, 1], got 2", lambda: ml.budgets.pooled(MAPPING, 0.5, margin=2)),
    (TypeError, "exactly one of `amount`, `keep` and `sparsity`, got none", lambda: ml.compute_mask(S)),
    (TypeError, "got amount=1 and keep=2", lambda: ml.compute_mask(S, amount=1, keep=2)),
    (TypeError, "`amount` must be a number or a 0-d tensor, got True", lambda: ml.compute_mask(S, amount=True)),
    (TypeError, "got np.True_|got True", lambda: ml.compute_mask(S, amount=np.bool_(True))),
    (TypeError, "`amount` must be a number or a 0-d tensor, got 'half'", lambda: ml.compute_mask(S, amount="half")),
    (
        TypeError,
        "`amount` must be an integer or floating tensor",
        lambda: ml.compute_mask(S, amount=torch.tensor(True)),
    ),
    (ValueError, "0-d tensor, got a tensor of shape (1,)", lambda: ml.compute_mask(S, amount=torch.tensor([1]))),
    (ValueError, "`amount` must be a fraction between 0 and 1, got 1.5", lambda: ml.compute_mask(S, amount=1.5)),
    (
        ValueError,
        "`amount` must be a fraction between 0 and 1, got nan",
        lambda: ml.compute_mask(S, amount=float("nan")),
    ),
    (ValueError, "between 0 and 1, got 1.5", lambda: ml.compute_mask(S, amount=torch.tensor(1.5))),
    (
        ValueError,
        "`amount` must be at least 0, and no more than a pool has, got -1",
        lambda: ml.compute_mask(S, amount=-1),
    ),
    (
        ValueError,
        "`amount` must be between 0 and 6 (items alive in the pool), got 7",
        lambda: ml.compute_mask(S, amount=7),
    ),
    (ValueError, "got -3", lambda: ml.compute_mask(S, amount=torch.tensor(-3))),
    (ValueError, "between 0 and 3 (items alive", lambda: ml.compute_mask(S, amount=4, groups=ml.rows())),
    (ValueError, "between 0 and 3 (items of the pool", lambda: ml.compute_mask(S, keep=4, groups=ml.rows())),
    (ValueError, "between 0 and 2 (items alive", lambda: ml.ln_structured(S, n=1, dim=0, amount=3)),
    (
        TypeError,
        "`keep` must be an int (items that may remain in each pool), got 0.5",
        lambda: ml.compute_mask(S, keep=0.5),
    ),
    (TypeError, "pass sparsity=0.5", lambda: ml.compute_mask(S, keep=torch.tensor(0.5))),
    (TypeError, "sparsity=1.0 for everything", lambda: ml.compute_mask(S, sparsity=1)),
    (TypeError, "Pass sparsity=0.0 for nothing", lambda: ml.compute_mask(S, sparsity=0)),
    (TypeError, "`amount` must be a number or a 0-d tensor", lambda: ml.compute_mask(S, amount=np.array([None]))),
    (ValueError, "`p` must be a number that a float holds, got an int of 1329 bits", lambda: ml.channels(p=10**400)),
    (
        TypeError,
        "`least` must be an int, got '1'",
        lambda: ml.budgets.erk(MAPPING, 0.5, fixed={"a": 0.5, "b": 0.5}, least="1"),
    ),
    (
        ValueError,
        "`least` must be at least 0, got -1",
        lambda: ml.budgets.erk(MAPPING, 0.5, fixed={"a": 0.5, "b": 0.5}, least=-1),
    ),
    (TypeError, "`sparsity` must be a float", lambda: ml.compute_mask(S, sparsity=torch.tensor(1))),
    (ValueError, "`sparsity` must be a fraction between 0 and 1, got -0.1", lambda: ml.compute_mask(S, sparsity=-0.1)),
    (ValueError, "3 NaN in scores.", lambda: ml.compute_mask(torch.full((3,), float("nan")), amount=1)),
    (ValueError, "6 NaN in scores of 'b'", lambda: ml.l1_unstructured({"a": S, "b": S * float("nan")}, amount=1)),
    (ValueError, "NaN in scores of 'b'", lambda: ml.ln_structured({"a": S, "b": S * float("nan")}, n=2, dim=0, keep=1)),
    (ValueError, "NaN in scores", lambda: ml.compute_mask(S * float("nan"), keep=0, groups=ml.channels(0, p=0))),
    (ValueError, "NaN in scores", lambda: ml.n_of_m(S * float("nan"), keep=1, of=3)),
    (
        ValueError,
        "add up +inf and -inf",
        lambda: ml.compute_mask(torch.tensor([[float("inf"), -float("inf")]]), keep=0, groups=ml.channels(0)),
    ),
    (TypeError, "`scores` must be a torch.Tensor", lambda: ml.compute_mask([1.0, 2.0], amount=1)),
    (TypeError, "`scores` of 'a' must be a torch.Tensor", lambda: ml.compute_mask({"a": 1.0}, amount=1)),
    (TypeError, "`scores` must be keyed by names (str), got the key 1", lambda: ml.compute_mask({1: S}, amount=1)),
    (TypeError, "must be a dense tensor", lambda: ml.compute_mask(S.to_sparse(), amount=1)),
    (TypeError, "got torch.bool", lambda: ml.compute_mask(S > 1, amount=1)),
    (TypeError, "Pass scores.abs()", lambda: ml.compute_mask(S.to(torch.complex64), amount=1)),
    (TypeError, "torch.float8_e4m3fn", lambda: ml.compute_mask(S.to(torch.float8_e4m3fn), amount=1)),
    (TypeError, "a common exact type", lambda: ml.compute_mask({"a": S, "b": S.long()}, amount=1)),
    (TypeError, "`default_mask` must be bool", lambda: ml.compute_mask(S, S, amount=1)),
    (ValueError, "must have the shape of `scores`, (2, 3), got (3,)", lambda: ml.identity(S, torch.ones(3) > 0)),
    (TypeError, "of the form of `scores`, a mapping", lambda: ml.identity(MAPPING, S > 1)),
    (TypeError, "of the form of `scores`, a Tensor", lambda: ml.identity(S, {"": S > 1})),
    (ValueError, "missing ['b'], unknown ['c']", lambda: ml.identity(MAPPING, {"a": S > 1, "c": S > 1})),
    (
        ValueError,
        "`default_mask` of 'b' must have the shape",
        lambda: ml.identity(MAPPING, {"a": S > 1, "b": S[0] > 1}),
    ),
    (ValueError, "on the device of", lambda: ml.identity(S, torch.ones(2, 3, dtype=torch.bool, device="meta"))),
    (TypeError, "`mask` must be bool", lambda: ml.custom_from_mask(S, mask=S)),
    (
        TypeError,
        "`groups` must be a groups value, with `fold(shape)`, got <function rows",
        lambda: ml.compute_mask(S, keep=1, groups=ml.rows),
    ),
    (TypeError, "`dim` must be an int, got 'rows'", lambda: ml.rows("rows")),
    (TypeError, "`p` must be a number (inf and -inf included), got '2'", lambda: ml.channels(0, p="2")),
    (ValueError, "`p` must not be 0 with mean=True, got 0", lambda: ml.channels(0, p=0, mean=True)),
    (TypeError, "`mean` must be a bool", lambda: ml.channels(0, mean=1)),
    (TypeError, "`shape` must be a tuple of ints, got 4", lambda: ml.blocks(4)),
    (ValueError, "`shape` must be positive, got 0", lambda: ml.blocks((2, 0))),
    (ValueError, "`of` must be positive, got 0", lambda: ml.windows(0)),
    (TypeError, "`count` must be an int, got 2.0", lambda: ml.heads(2.0)),
    (ValueError, "`count` must be positive, got 0. For example heads(12)", lambda: ml.heads(0)),
    (TypeError, "`parts` must be a tuple of ints, got 3", lambda: ml.heads(2, parts=3)),
    (ValueError, "`parts` must be positive, got 0", lambda: ml.heads(2, parts=(1, 0))),
    (ValueError, "`p` must not be 0 with mean=True", lambda: ml.heads(2, p=0, mean=True)),
    (
        ValueError,
        "`scores` of 'a' does not fit heads(count=2, dim=1): `count` must divide the size 3 of dim 1, got 2. "
        "For example heads(count=1, dim=1).",
        lambda: ml.compute_mask(MAPPING, keep=1, groups=ml.heads(2, dim=1)),
    ),
    (
        ValueError,
        "`count` (8) times the sum of `parts` (3) must divide the size 12 of dim 0, got 24. "
        "For example heads(count=4, parts=(1, 1, 1)).",
        lambda: ml.compute_mask(torch.zeros(12), keep=1, groups=ml.heads(8, parts=(1, 1, 1))),
    ),
    (
        ValueError,
        "got 24. For example heads(count=4, p=2.0).",
        lambda: ml.compute_mask(torch.zeros(20), keep=1, groups=ml.heads(8, parts=(1, 1, 1), p=2)),
    ),
    (
        IndexError,
        "`scores` does not fit heads(count=1, dim=2): `dim` must be a dimension of shape (2, 3), got 2. For example dim=-1.",
        lambda: ml.compute_mask(S, keep=1, groups=ml.heads(1, 2)),
    ),
    (TypeError, "`sets` must be mappings from name to groups, got 'a'", lambda: ml.coupled("a")),
    (ValueError, "`sets` must not be empty mappings, got {}", lambda: ml.coupled({"a": ml.channels(0)}, {})),
    (TypeError, "`sets` must be keyed by names (str), got the key 0", lambda: ml.coupled({0: ml.channels(0)})),
    (TypeError, "groups that fold one tensor, with `fold(shape)`, got 3 for 'a'", lambda: ml.coupled({"a": 3})),
    (TypeError, "with `fold(shape)`, got coupled({'a'", lambda: ml.coupled({"b": ROWS})),
    (
        ValueError,
        "`sets` must hold groups without `p` and `mean` of their own, got channels(p=2.0) for 'a'",
        lambda: ml.coupled({"a": ml.channels(0, p=2)}),
    ),
    (ValueError, "got heads(count=2, mean=True) for 'a'", lambda: ml.coupled({"a": ml.heads(2, mean=True)})),
    (
        ValueError,
        "`sets` must have the items of a tensor once, got 'b' by channels() in several. Join these sets.",
        lambda: ml.coupled({"a": ml.channels(0), "b": ml.channels(0)}, {"b": ml.channels(0)}),
    ),
    (TypeError, "`mean` must be a bool", lambda: ml.coupled({"a": ml.channels(0)}, mean=1)),
    (
        TypeError,
        "`scores` must be a mapping of tensors by name for coupled({'a': channels(), 'b': channels()}), "
        "got a Tensor. For example dict(module.named_parameters())",
        lambda: ml.compute_mask(S, keep=1, groups=ROWS),
    ),
    (
        ValueError,
        "missing ['b'], unknown []. Leave ['b'] out of coupled, or pass their scores.",
        lambda: ml.compute_mask({"a": S}, keep=1, groups=ROWS),
    ),
    (
        ValueError,
        "missing [], unknown ['c']. Pass {name: scores[name] for name in ['a', 'b']}, or couple ['c'] too.",
        lambda: ml.compute_mask({**MAPPING, "c": S}, keep=1, groups=ROWS),
    ),
    (
        ValueError,
        "the tensors of a set must have as many items each, got 2 of 'a', 6 of 'b' by coupled({'a': channels(), 'b': "
        "channels()}). An (out, in) weight has the outputs as channels(0), the inputs as channels(1)",
        lambda: ml.compute_mask({"a": S, "b": torch.zeros(6)}, keep=1, groups=ROWS),
    ),
    (
        ValueError,
        "got 2 of 'a', 2 pools of 3 of 'b'",
        lambda: ml.compute_mask(MAPPING, keep=1, groups=ml.coupled({"a": ml.channels(), "b": ml.rows()})),
    ),
    (ValueError, "NaN in scores of 'b'", lambda: ml.compute_mask({"a": S, "b": S * torch.nan}, keep=1, groups=ROWS)),
    (ValueError, "between 0 and 2 (items alive", lambda: ml.compute_mask(MAPPING, amount=3, groups=ROWS)),
    (TypeError, "`ragged` must be a bool, got 1", lambda: ml.windows(4, ragged=1)),
    (TypeError, "`ragged` must be a bool, got None", lambda: ml.blocks((4,), ragged=None)),
    (
        TypeError,
        "`fold(shape)` of unfolded() must return a Folding, got Size. For example Folding.by_index(index, shape).",
        lambda: ml.compute_mask(S, keep=1, groups=Unfolded()),
    ),
    (
        ValueError,
        "`scores` does not fit square(): the matrix must be square",
        lambda: ml.compute_mask(S, keep=1, groups=Square()),
    ),
    (TypeError, "`index` must be an int64 tensor, got torch.float32", lambda: ml.Folding.by_index(S, (2, 3))),
    (TypeError, "`index` must be an int64 tensor, got list", lambda: ml.Folding.by_index([[0]], (1,))),
    (ValueError, "(items, elements) or (pools, items, elements), got (2,)", lambda: fold([0, 1])),
    (ValueError, "`index` must be between 0 and 1 for shape (2,)", lambda: fold([[0], [2]])),
    (ValueError, "got -2 to 0", lambda: fold([[0], [-2]])),
    (ValueError, "`index` must have each entry once, got 1 entries again", lambda: fold([[0], [0]])),
    (ValueError, "must have an entry in each item, got a row of -1", lambda: fold([[0], [-1]])),
    (TypeError, "`p` must be a number (inf and -inf included), got 'two'", lambda: by(None, 3, 2, p="two", **TO_PAIRS)),
    (TypeError, "`p` must be a number (inf and -inf included), got 'two'", lambda: by(None, 6, p="two")),
    (ValueError, "`p` must be a number, got nan", lambda: by(None, 3, 2, p=float("nan"), **TO_PAIRS)),
    (TypeError, "`mean` must be a bool, got 2", lambda: by(None, 3, 2, mean=2, **TO_PAIRS)),
    (TypeError, "`items` of a Folding must be an int, at least 0, got 3.0 by folds()", lambda: by(None, 3.0, 2)),
    (TypeError, "`pools` of a Folding must be an int, at least 0, got -1 by folds()", lambda: by(-1, 3, 2)),
    (TypeError, "`into` and `back` of a Folding must be given together", lambda: by(None, 3, 2, into=torch.flatten)),
    (ValueError, "one item for each of the 6 entries of shape (2, 3), got 3 items of 2", lambda: by(None, 3, 2)),
    (ValueError, "one item for each of the 6 entries of shape (2, 3), got 5 items of 1", lambda: by(None, 5)),
    (
        ValueError,
        "folds the 6 entries of shape (2, 3) into 8. If the others are pad",
        lambda: by(None, 4, 2, **TO_PAIRS),
    ),
    (TypeError, "`into` of a Folding must return a tensor", lambda: by(None, 3, 2, into=str, back=str)),
    (
        ValueError,
        "`back` of a Folding must return a tensor of shape (2, 3), got (1, 3, 2)",
        lambda: by(None, 3, 2, into=torch.flatten, back=torch.clone),
    ),
    (
        ValueError,
        "`least` counts items of tensors that compete in one pool, so that others die instead, got least=1 with rows(). "
        "In a pool of its own nothing can: the number alone says how many stay. Pass one that leaves as many, such as "
        "keep=2, or groups of one pool.",
        lambda: ml.compute_mask(S, amount=1, groups=ml.rows(), least=1),
    ),
    (
        ValueError,
        "with labels(",
        lambda: ml.compute_mask(S, amount=1, groups=ml.labels(torch.zeros(2, 3).long()), least=1),
    ),
    (TypeError, "`least` must be an int, got 0.5", lambda: ml.compute_mask(S, amount=1, least=0.5)),
    (
        ValueError,
        "`least` must be at least 0, and no more than a tensor has, got -1",
        lambda: ml.compute_mask(S, amount=1, least=-1),
    ),
    (
        TypeError,
        "`least['a']` must be an int, got True",
        lambda: ml.compute_mask(MAPPING, amount=1, least={"a": True}),
    ),
    (
        ValueError,
        "`least` has names that `scores` lacks: ['c']",
        lambda: ml.compute_mask(MAPPING, amount=1, least={"c": 1}),
    ),
    (
        ValueError,
        "`default_mask` must have the shape of `scores`, (3,), got (2, 3)",
        lambda: ml.compute_mask(S[0], S > 1, amount=1, groups=ml.channels(0)),
    ),
    (
        ValueError,
        "`scores` must be all on the meta device or none, got ['b'] there",
        lambda: ml.l1_unstructured({"a": S, "b": S.to("meta")}, amount=1),
    ),
    (
        ValueError,
        "`amount` must have a value, got a tensor on the meta device. For example amount=0.2.",
        lambda: ml.l1_unstructured(S, amount=torch.tensor(1, device="meta")),
    ),
    (
        ValueError,
        "`key` must have a value, got a tensor on the meta device",
        lambda: ml.random_unstructured(S, key=torch.tensor(1, device="meta"), amount=1),
    ),
    (TypeError, "`items` must hold integer labels", lambda: ml.labels(S)),
    (ValueError, "`items` must have the shape", lambda: ml.compute_mask(S, keep=1, groups=ml.labels(torch.arange(6)))),
    (
        ValueError,
        "`pools` must be constant within each item",
        lambda: ml.compute_mask(torch.zeros(2), keep=1, groups=ml.labels(torch.tensor([0, 0]), torch.tensor([0, 1]))),
    ),
    (
        IndexError,
        "`scores` does not fit rows(dim=2): `dim` must be a dimension of shape (2, 3), got 2",
        lambda: ml.compute_mask(S, keep=1, groups=ml.rows(2)),
    ),
    (IndexError, "A 0-d tensor has none", lambda: ml.compute_mask(torch.tensor(1.0), keep=1, groups=ml.channels(0))),
    (IndexError, "`scores` of 'a'", lambda: ml.n_of_m(MAPPING, keep=1, of=3, dim=-3)),
    (
        ValueError,
        "`of` must divide the size 3 of dim -1, got 2. For a shorter last window, pass ragged=True.",
        lambda: ml.n_of_m(S, keep=1, of=2),
    ),
    (
        ValueError,
        "`shape[1]` must divide the size 3 of dim 1, got 2. For smaller last tiles, pass ragged=True.",
        lambda: ml.compute_mask(S, keep=1, groups=ml.blocks((2, 2))),
    ),
    (
        ValueError,
        "needs a tensor of at least 3 dims, got shape (2, 3). For example blocks((1, 1)).",
        lambda: ml.compute_mask(S, keep=1, groups=ml.blocks((1, 1, 1))),
    ),
    (
        TypeError,
        "`n` must be a number (inf and -inf included), got 'fro'",
        lambda: ml.ln_structured(S, n="fro", dim=0, keep=1),
    ),
    (ValueError, "`n` must be a number, got nan", lambda: ml.ln_structured(S, n=float("nan"), dim=0, keep=1)),
    (ValueError, "no more than a pool has, got 9223372036854775808", lambda: ml.compute_mask(S, amount=2**63)),
    (
        ValueError,
        "between 0 and 0",
        lambda: ml.compute_mask(S[:0], amount=1, groups=ml.labels(torch.zeros(0, 3).long())),
    ),
    (TypeError, "`params` must be floating, got torch.int64", lambda: ml.scores.saliency(S.long(), S)),
    (TypeError, "`key` must be an int", lambda: ml.random_unstructured(S, key=0.5, amount=1)),
    (ValueError, "`key` must fit in 64 bits", lambda: ml.random_unstructured(S, key=2**64, amount=1)),
    (ValueError, "`key` must fit in 64 bits", lambda: ml.random_unstructured(S, key=-(2**63) - 1, amount=1)),
    (TypeError, "`key` must be an int", lambda: ml.random_unstructured(S, key=True, amount=1)),
    (TypeError, "`key` must be an int or a 0-d int64 tensor", lambda: ml.scores.random(S, key=torch.tensor([1]))),
    (ValueError, "`key` must fit in 64 bits", lambda: ml.scores.random(S, key=2**64)),
    (ValueError, "`grads` must have the shape", lambda: ml.scores.saliency(S, S[0])),
    (ValueError, "`grads` must have exactly the names of `params`", lambda: ml.scores.saliency(MAPPING, {"a": S})),
    (TypeError, "`params` must be real floating", lambda: ml.scores.magnitude(S > 1)),
    (ValueError, "`grow_scores` must have the shape of `scores`, (2, 3), got (3,)", lambda: regrow(S, S[0])),
    (TypeError, "`grow_scores` must be of the form of `scores`, a Tensor, got a mapping", lambda: regrow(S, MAPPING)),
    (ValueError, "`grow_scores` must have exactly the names of `scores`", lambda: regrow(MAPPING, {"a": S})),
    (TypeError, "`grow_scores` must be real floating or integer, got torch.bool", lambda: regrow(S, S > 1)),
    (TypeError, "`grow_scores` must be of the form of `scores`", lambda: regrow(MAPPING, None)),
    (ValueError, "`grow_scores` cannot be ranked: 1 NaN in scores.", lambda: regrow(S, S.where(S > 0, torch.nan))),
    (ValueError, "`grow_scores` must be on the device of `scores`", lambda: regrow(S, S.to("meta"))),
    (TypeError, "`history` must be a sequence of steps", lambda: ml.fold(ml.identity, S)),
    (TypeError, "`history[0]` must be callable, got 3", lambda: ml.fold([3], S)),
    (TypeError, "the mask of step 0", lambda: ml.fold([lambda s, m: s], S)),
    (ValueError, "the mask of step 1", lambda: ml.fold([ml.identity, lambda s, m: m[0]], S)),
    (TypeError, "`method` must be callable", lambda: ml.layerwise("l1")),
    (
        ValueError,
        "`amount` must have exactly the names",
        lambda: ml.layerwise(ml.l1_unstructured)(MAPPING, amount={"a": 1}),
    ),
    (TypeError, "`params` must be a mapping", lambda: ml.select(S, lambda n, p: True)),
    (TypeError, "`where` must be callable", lambda: ml.select(MAPPING, "weight")),
    (ValueError, "`masks` has names that `params` lacks: ['c']", lambda: ml.apply(MAPPING, {"c": S > 1})),
    (TypeError, "`masks` of 'a' must be bool", lambda: ml.apply(MAPPING, {"a": S})),
    (ValueError, "`masks` of 'a' must have the shape", lambda: ml.apply(MAPPING, {"a": S[0] > 1})),
    (TypeError, "`a` must be bool", lambda: ml.union(S, S)),
    (ValueError, "`b` must have the shape of `a`", lambda: ml.union(S > 1, S[0] > 1)),
    (TypeError, "`mask` must be bool", lambda: ml.complement(S)),
    (TypeError, "`mask` must be bool", lambda: ml.count(S)),
    (TypeError, "got Linear. For a module pruned by", lambda: ml.sparsity(torch.nn.Linear(1, 1))),
    (TypeError, "`b` must be a torch.Tensor|`b` must be of the form", lambda: ml.overlap(S > 1, None)),
    (TypeError, "`params` must be a torch.Tensor", lambda: ml.dense(None)),
    (TypeError, "`params` of 'w' must be a torch.Tensor", lambda: ml.dense({"w": 1})),
    (ValueError, "`b` must have exactly the names of `a`", lambda: ml.overlap({"a": S > 1}, {"b": S > 1})),
    (TypeError, "`masks` must be callable, got 3", lambda: ml.updates.Update(3)),
    (TypeError, "`due` must be callable, got 3", lambda: ml.updates.Update(ml.identity, 3)),
    (TypeError, "`method` must be callable, got 'l1'", lambda: ml.updates.static("l1")),
    (TypeError, "`schedule` must be callable, got 0.9", lambda: ml.updates.gradual(ml.l1_unstructured, 0.9)),
    (TypeError, "`score` must be callable", lambda: ml.updates.gradual(ml.identity, lambda step: 0.5, score=S)),
    (TypeError, "`budget` must be callable", lambda: ml.updates.gradual(ml.identity, lambda step: 0.5, budget="erk")),
    (
        ValueError,
        "`rewind` must be at least 0 steps",
        lambda: ml.updates.lottery(ml.identity, lambda s: 0.5, rewind=-1),
    ),
    (
        ValueError,
        "`stop` must be after `start`",
        lambda: ml.updates.ac_dc(sparsity=0.5, sparse=1, dense=1, start=5, stop=5),
    ),
    (
        ValueError,
        "`sparse` must be at least 1 steps, got 0",
        lambda: ml.updates.ac_dc(sparsity=0.5, sparse=0, dense=1, stop=5),
    ),
    (
        ValueError,
        "`sparsity` must be a number in [0, 1], got 90",
        lambda: ml.updates.rigl(sparsity=90, every=1, stop=5),
    ),
    (ValueError, "`every` must be at least 1", lambda: ml.updates.rigl(sparsity=0.9, every=0, stop=5)),
    (TypeError, "`budget` must be callable", lambda: ml.updates.set_(sparsity=0.9, every=2, budget=0.5)),
    (TypeError, "`key` must be an int", lambda: ml.updates.set_(sparsity=0.9, every=2, key=0.5)),
    (TypeError, "`decay` must be a number, got '1'", lambda: ml.updates.sr_ste(keep=2, of=4, decay="1")),
    (TypeError, "`masks` must be bool", lambda: ml.updates.decayed(S, S, S, 0.5)),
    *(
        (ValueError, "`weight` has 1 entries that are not finite. If they are dead, pass apply", call)
        for odd in (float("nan"), float("inf"), -float("inf"))
        for w in [torch.where(S == 4, odd, S)]
        for alive in [S != 4]
        for call in (
            lambda w=w: ml.sparsegpt(w, HESSIAN, amount=1),
            lambda w=w, m=alive: ml.sparsegpt(w, HESSIAN, m, amount=1),  # where it is dead, it would be made up for
            lambda w=w, m=alive: ml.admm(w, HESSIAN, m, amount=1),
            lambda w=w, m=alive: ml.reconstruct(w, HESSIAN, m),
            lambda w=w: torch.vmap(lambda a: ml.sparsegpt(w, HESSIAN, amount=a))(torch.tensor([0, 1])),
            lambda w=w: torch.vmap(lambda t: ml.reconstruct(t, HESSIAN, S > 1))(torch.stack([S, w])),
        )
    ),
    (TypeError, "`per_name` must be a bool, got 'a'", lambda: ml.count(S > 1, per_name="a")),
    (TypeError, "`straight_through` must be a bool, got None", lambda: ml.apply(S, S > 1, straight_through=None)),
    (TypeError, "`history` must be a sequence of steps, got ''", lambda: ml.fold("", S)),
    (TypeError, "`needs_grads` must be a bool", lambda: ml.updates.Update(ml.identity, needs_grads=1)),
    (ValueError, "`decay` must be at least 0 and finite, got -1", lambda: ml.updates.Update(ml.identity, decay=-1)),
    (ValueError, "`decay` must be at least 0", lambda: ml.updates.sr_ste(keep=2, of=4, decay=float("inf"))),
    (TypeError, "`keep` must be", lambda: ml.updates.sr_ste(keep=0.5, of=4)),
    (ValueError, "`of` must be positive", lambda: ml.updates.sr_ste(keep=2, of=0)),
    (TypeError, "`dim` must be an int", lambda: ml.updates.sr_ste(keep=2, of=4, dim=None)),
]


@pytest.mark.parametrize(("kind", "message", "call"), BAD, ids=[message[:50] for _, message, _ in BAD])
def test_a_bad_call_is_told_what_is_wrong(kind, message, call):
    before = S.clone()
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert any(part in str(caught.value) for part in message.split("|"))
    assert torch.equal(S, before)
