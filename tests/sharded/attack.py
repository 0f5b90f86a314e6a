"""Random calls, each done twice: by the ranks of a mesh, and whole on each of them."""

from __future__ import annotations

import random

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import masklib as ml
from masklib.selection import _loop, _shards
from sharded.layouts import STRIDED, shard

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
WHOLE = [torch.int64, torch.int32, torch.int8, torch.uint8, torch.int16]
SPECIAL = [float("inf"), float("-inf"), -0.0, 0.0]


def placements(draw, mesh, dims):
    """Any placements of a mesh, sums that are still to be added up excepted."""
    choices = [Replicate(), *(Shard(d) for d in range(dims))] * 2
    found = [draw.choice(choices) for _ in range(mesh.ndim)]
    if STRIDED and mesh.ndim == 2 and dims and draw.random() < 0.25:
        dim = draw.randrange(dims)
        found = [_StridedShard(dim, split_factor=mesh.size(1)), Shard(dim)]
    return found


def values(draw, seed, shape, dtype, kind):
    generator = torch.Generator().manual_seed(seed)
    if dtype in WHOLE:
        info = torch.iinfo(dtype)
        low, high = (info.min, info.max) if kind == "far" else (0, 4)
        return torch.randint(low, high, shape, generator=generator, dtype=dtype)
    if kind == "tied":
        return torch.randint(-2, 3, shape, generator=generator).to(dtype)
    found = torch.randn(shape, generator=generator).to(dtype)
    if kind == "far":
        picks = torch.randint(0, len(SPECIAL) * 3, shape, generator=generator)
        for i, special in enumerate(SPECIAL):
            found[picks == i] = special
    return found


def equal(result, expected):
    if isinstance(expected, dict):
        return list(result) == list(expected) and all(equal(result[n], expected[n]) for n in expected)
    whole = result.full_tensor() if isinstance(result, DTensor) else result
    return whole.dtype == expected.dtype and torch.equal(whole, expected)


def attempt(call):
    try:
        return call()
    except (ValueError, TypeError, IndexError) as error:
        return error


def placed_like(result, scores):
    if isinstance(scores, dict):
        return all(placed_like(result[n], scores[n]) for n in scores)
    if not isinstance(scores, DTensor):
        return not isinstance(result, DTensor)
    return isinstance(result, DTensor) and result.placements == scores.placements and result.shape == scores.shape


class Diagonals:
    """Groups of a user's own, that fold by an index."""

    def __repr__(self):
        return "diagonals()"

    def fold(self, shape):
        rows, columns = shape
        if not columns:
            return ml.elements().fold(shape)
        at = torch.arange(rows * columns).view(rows, columns)
        return ml.Folding.by_index(torch.stack([at[:, c].roll(c) for c in range(columns)], 1), shape)


class Halves:
    """Pools of a user's own, of items of several elements, padded."""

    def __repr__(self):
        return "halves()"

    def fold(self, shape):
        size = shape.numel()
        index = torch.cat([torch.arange(size), torch.full((-size % 8,), -1)]).view(-1, 4, 2)
        return ml.Folding.by_index(index, shape)


def groups(draw, shape):
    """A groups value that fits a shape, or nearly."""
    dims = len(shape)
    dim = draw.randrange(-dims, dims) if dims else 0
    p, mean = draw.choice([None, None, 1, 2, 0, float("inf"), 0.5, -1, 0.01]), draw.random() < 0.3
    mean = mean and p != 0
    choices = [
        lambda: ml.elements(),
        lambda: ml.rows(dim),
        lambda: ml.windows(draw.choice([1, 2, 3, 4]), dim, ragged=draw.random() < 0.7),
        lambda: ml.channels(dim, p=p, mean=mean),
        lambda: ml.blocks((2,) * max(1, min(dims, draw.choice([1, 2]))), p=p, mean=mean, ragged=draw.random() < 0.8),
        lambda: ml.heads(draw.choice([1, 2]), dim, p=p, mean=mean),
    ]
    if dims == 2:
        choices.append(lambda: Diagonals())
    if dims:
        choices.append(lambda: Halves())
    return draw.choice(choices)()


def number(draw):
    kind = draw.choice(["amount", "share", "keep", "sparsity"])
    if kind == "amount":
        return {"amount": draw.choice([0, 1, 2, 3, 7])}
    if kind == "share":
        return {"amount": draw.choice([0.0, 0.25, 0.5, 0.9, 1.0])}
    return {"keep": draw.choice([0, 1, 2, 5])} if kind == "keep" else {"sparsity": draw.choice([0.3, 0.5, 1.0])}


def case(draw, mesh, exact):
    """A call `run(scores, mask)`, whole scores and mask, and the same sharded."""
    many = draw.random() < 0.4
    dims = draw.choice([0, 1, 2, 2, 2, 3])
    names = draw.sample(["a", "b", "c.weight", "z"], draw.choice([1, 2, 3])) if many else [""]
    dtype, kind = draw.choice(FLOATS * 2 + WHOLE), draw.choice(["random", "random", "tied", "far"])
    scores, masks = {}, {}
    for name in names:
        shape = [draw.choice([1, 2, 3, 4, 5, 6, 8, 9, 0 if draw.random() < 0.2 else 4]) for _ in range(dims)]
        own = draw.choice(FLOATS) if many and dtype in FLOATS and draw.random() < 0.3 else dtype
        scores[name] = values(draw, draw.randrange(2**31), shape, own, kind)
        masks[name] = torch.rand(shape, generator=torch.Generator().manual_seed(draw.randrange(2**31))) < 0.7
    if draw.random() < 0.08 and scores[names[0]].is_floating_point() and scores[names[0]].numel():
        scores[names[0]].view(-1)[draw.randrange(scores[names[0]].numel())] = float("nan")
    where = {n: placements(draw, mesh, dims) for n in names}
    plain = {n for n in names if many and draw.random() < 0.2} if len(names) > 1 else set()
    if len(plain) == len(names):
        plain = set()
    sharded = {n: t if n in plain else shard(t, mesh, where[n]) for n, t in scores.items()}
    sharded_masks = {n: t if n in plain else shard(t, mesh, where[n]) for n, t in masks.items()}
    if draw.random() < 0.5:
        masks = sharded_masks = None
    if not many:
        scores, sharded = scores[""], sharded[""]
        masks, sharded_masks = (None, None) if masks is None else (masks[""], sharded_masks[""])
    shape = next(iter(scores.values())).shape if many else scores.shape
    run = method(draw, shape, many, names, kind)
    return run, scores, masks, sharded, sharded_masks


def negative(scores):
    return {n: -t for n, t in scores.items()} if isinstance(scores, dict) else -scores


def labelled(scores, items, pools):
    """Labels of anything, plain; far apart, and some below zero."""
    if isinstance(scores, dict):
        each = {n: labelled(t, items, pools) for n, t in scores.items()}
        return ml.labels({n: g.items for n, g in each.items()}, pools and {n: g.pools for n, g in each.items()})
    labels = torch.arange(scores.numel()).view(scores.shape) * 7 % items - 2
    return ml.labels(labels * 1000, pools and labels % pools)


def method(draw, shape, many, names, kind):
    n, g, key = number(draw), groups(draw, shape), draw.randrange(5)
    dim = draw.randrange(-len(shape), len(shape)) if shape else 0
    least = {"least": draw.choice([0, 1, 2, {names[0]: 1}])} if many and draw.random() < 0.3 else {}
    options = [
        ("mask", lambda s, m: ml.compute_mask(s, m, groups=g, **n, **least)),
        ("mask", lambda s, m: ml.compute_mask(s, m, groups=g, **n, **least)),
        ("mask", lambda s, m: ml.compute_mask(s, m, groups=g, **n, **least)),
        ("l1", lambda s, m: ml.l1_unstructured(s, m, **n)),
        ("random", lambda s, m: ml.random_unstructured(s, m, key=key, **n)),
        ("random structured", lambda s, m: ml.random_structured(s, m, key=key, dim=dim, **n)),
        ("ln", lambda s, m: ml.ln_structured(s, m, n=2, dim=dim, **n)),
        ("n of m", lambda s, m: ml.n_of_m(s, m, keep=1, of=2, dim=dim)),
        ("layerwise", lambda s, m: ml.layerwise(ml.compute_mask)(s, m, groups=g, **n)),
        ("regrow", lambda s, m: ml.regrow(s, m, grow_scores=negative(s), amount=n.get("amount", 0.5))),
        ("layerwise regrow", lambda s, m: ml.layerwise(ml.regrow)(s, m, grow_scores=negative(s), amount=0.4)),
        ("random scores", lambda s, m: ml.compute_mask(ml.scores.random(s, key=key), m, **n)),
        ("fold", lambda s, m: ml.fold([lambda a, b: ml.compute_mask(a, b, amount=0.3)] * 2, s, m)),
    ]
    options.append(("labels", lambda s, m: ml.compute_mask(s, m, groups=labelled(s, 4, None), **n)))
    options.append(("label pools", lambda s, m: ml.compute_mask(s, m, groups=labelled(s, 6, 2), **n)))
    if many and len(names) > 1 and shape:
        sets = ml.coupled(*({name: ml.channels(draw.randrange(len(shape)))} for name in names), p=2)
        options.append(("coupled", lambda s, m: ml.compute_mask(s, m, groups=sets, **n)))
        one = ml.coupled({name: ml.channels(dim) for name in names})
        options.append(("coupled", lambda s, m: ml.compute_mask(s, m, groups=one, **n)))
    label, run = draw.choice(options)
    run.__doc__ = f"{label} {n} {g!r} {least} dim={dim}"
    return run


def attack(mesh, seed, count, small=False):
    """Make so many calls; what differed, in words."""
    kept = _loop.DIRECT, _shards._FEW, _shards._SAMPLE, _shards._TABLE, _loop._SLACK, _loop._SIGMAS
    if small:  # the loop's brackets even for a few elements
        _loop.DIRECT, _shards._FEW, _shards._SAMPLE, _shards._TABLE, _loop._SLACK, _loop._SIGMAS = 4, 6, 24, 8, 1, 0.5
    wrong, errors, done = [], 0, 0
    try:
        for i in range(count):
            draw = random.Random(seed * 100_003 + i)
            run, scores, masks, sharded, sharded_masks = case(draw, mesh, True)
            expected = attempt(lambda: run(scores, masks))
            result = attempt(lambda: run(sharded, sharded_masks))
            done += 1
            if isinstance(expected, Exception) or isinstance(result, Exception):
                errors += 1
                fine = type(result) is type(expected) and str(result) == str(expected)
            else:
                fine = placed_like(result, sharded) and equal(result, expected)
            if not fine:
                shown = scores if isinstance(scores, dict) else {"": scores}
                where = sharded if isinstance(sharded, dict) else {"": sharded}
                said = {
                    n: (tuple(t.shape), t.dtype, getattr(where[n], "placements", "plain")) for n, t in shown.items()
                }
                got = f"{type(result).__name__}: {result}" if isinstance(result, Exception) else "a mask"
                want = f"{type(expected).__name__}: {expected}" if isinstance(expected, Exception) else "a mask"
                wrong.append(f"{i}: {run.__doc__} {said} masks={masks is not None}\n   got {got}\n   not {want}")
    finally:
        _loop.DIRECT, _shards._FEW, _shards._SAMPLE, _shards._TABLE, _loop._SLACK, _loop._SIGMAS = kept
    return done, errors, wrong
