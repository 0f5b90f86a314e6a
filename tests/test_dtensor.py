"""On a mesh of one rank: what takes DTensors gives what plain tensors give, sharded alike; the rest is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.distributed.tensor import DTensor, distribute_tensor

import masklib as ml
from masklib import scores

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
W = torch.arange(32.0).view(8, 4)
HALF = partial(ml.compute_mask, amount=0.5)


@pytest.fixture
def sharded(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield distribute_tensor(W, torch.distributed.init_device_mesh("cpu", (1,)))
    finally:
        torch.distributed.destroy_process_group()


class Ranks:
    """A groups value that ranks by itself, whole tensors."""

    def rank(self, values, alive, counting, number):
        return values


REFUSED = [
    lambda w: HALF(W, w > 3),
    lambda w: HALF(w, W > 3),
    lambda w: ml.compute_mask(W, amount=w.sum().long()),
    lambda w: HALF(W, groups=ml.labels(w.long())),
    lambda w: HALF(w, groups=Ranks()),
    lambda w: ml.regrow(W, grow_scores=w, amount=1),
    lambda w: ml.regrow(w, grow_scores=W, amount=1),
    lambda w: scores.random(W, key=w.sum().long()),
    lambda w: torch.vmap(HALF)(w),
    lambda w: torch.vmap(partial(HALF, groups=ml.channels(p=2)))(w),
    lambda w: torch.vmap(partial(HALF, groups=ml.rows()))(w),
    lambda w: torch.vmap(lambda v: ml.random_structured(v, amount=1, key=0, dim=0))(w),
    lambda w: torch.func.grad(lambda v: (v * HALF(v)).sum())(w),
    scores.fpgm,
    lambda w: ml.sparsegpt(w, scores.add_hessian(None, W), amount=1),
    lambda w: ml.sparsegpt(W, scores.add_hessian(None, w), amount=1),
    lambda w: scores.ria(w, scores.add_input_norms(None, W)),
    lambda w: scores.add_expert_norms(None, w[None], W[None, :, 0]),
    lambda w: scores.add_angles(None, w, W),
    lambda w: ml.budgets.owl({"a": w}, 0.5),
    lambda w: ml.admm(w, scores.add_hessian(None, W), amount=1),
    lambda w: ml.reconstruct(w, scores.add_hessian(None, W), W > 0),
    lambda w: ml.custom_from_mask(w, mask=W > 3),
    lambda w: ml.apply(w, W > 3),
    lambda w: ml.union(w > 3, W > 3),
    lambda w: scores.saliency(w, W),
]


@pytest.mark.parametrize("call", REFUSED)
def test_what_a_shard_cannot_say_is_refused(call, sharded):
    with pytest.raises(TypeError, match="DTensor"):
        call(sharded)


@pytest.mark.parametrize(
    "call",
    [
        HALF,
        lambda w: HALF({"a": w, "b": w})["b"],
        lambda w: HALF({"a": w, "b": W}, least=1)["a"],
        lambda w: HALF(w, w > 3),
        lambda w: HALF(torch.nn.Parameter(w)),
        lambda w: ml.compute_mask(w, amount=torch.tensor(0.5)),
        *(
            partial(HALF, groups=g)
            for g in (ml.rows(), ml.windows(4), ml.channels(p=2), ml.blocks((2, 2)), ml.heads(2))
        ),
        lambda w: HALF(w, groups=ml.labels(W.long())),
        lambda w: HALF({"a": w}, groups=ml.coupled({"a": ml.channels()}))["a"],
        lambda w: ml.l1_unstructured(w, amount=1),
        lambda w: ml.random_unstructured(w, amount=1, key=0),
        lambda w: ml.random_structured(w, amount=1, key=0, dim=0),
        lambda w: ml.layerwise(ml.random_unstructured)({"a": w}, amount=1, key=0)["a"],
        lambda w: ml.regrow(w, w > 3, grow_scores=-w, amount=1),
        lambda w: scores.random(w, key=0),
        ml.dense,
        ml.identity,
        lambda w: ml.custom_from_mask(w, mask=w > 3),
        lambda w: ml.apply(w, w > 3),
        lambda w: ml.complement(w > 3),
        lambda w: ml.intersection(w > 3, w > 5),
        scores.magnitude,
        lambda w: scores.saliency(w, w),
    ],
)
def test_what_is_done_element_by_element_stays_sharded(call, sharded):
    result = call(sharded)
    assert isinstance(result, DTensor)
    assert torch.equal(result.full_tensor(), call(W))
