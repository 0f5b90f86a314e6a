"""The stateful adapter beyond parity: all or nothing, tied weights, histories, hosts."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import masklib.adapters.prune as prune
import pytest
import torch
from masklib.adapters import weights
from torch import nn
from torch.func import functional_call, grad, vmap

import masklib as ml

METHODS = {
    "identity": lambda m, n: prune.identity(m, n),
    "random_unstructured": lambda m, n: prune.random_unstructured(m, n, 2),
    "l1_unstructured": lambda m, n: prune.l1_unstructured(m, n, 0.3),
    "random_structured": lambda m, n: prune.random_structured(m, n, 1, dim=0),
    "ln_structured": lambda m, n: prune.ln_structured(m, n, 1, n=2, dim=0),
    "custom_from_mask": lambda m, n: prune.custom_from_mask(m, n, checkered(getattr(m, n))),
    "global": lambda m, n: prune.global_unstructured([(m, n)], prune.L1Unstructured, amount=2),
}
every_method = pytest.mark.parametrize("apply", METHODS.values(), ids=METHODS)


def checkered(tensor):
    return (torch.arange(tensor.numel()).view(tensor.shape) % 3) > 0


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def hook_of(module):
    return next(iter(module._forward_pre_hooks.values()))


def everything(module):
    return (
        {n: (id(p), p.tolist()) for n, p in module._parameters.items() if p is not None},
        list(module._parameters),
        {n: (id(b), b.tolist()) for n, b in module._buffers.items()},
        {
            k: (id(h), len(h) if isinstance(h, prune.PruningContainer) else 0)
            for k, h in module._forward_pre_hooks.items()
        },
        [
            (n, h._record.died.tolist(), len(h._record.steps))
            for n, h in vars(module).get("_masklib_pruned", {}).items()
        ],
        sorted(vars(module)),
        torch.get_rng_state().tolist(),
    )


# ---- all or nothing -------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize("where", ["register_buffer", "register_forward_pre_hook", "mark", "compute"])
def test_a_failure_anywhere_leaves_everything_as_it_was(apply, calls, where, monkeypatch):
    from masklib.adapters import _site

    module = nn.Linear(6, 5)
    for _ in range(calls):
        prune.random_unstructured(module, "weight", 2)
    before = everything(module)

    def fail(*args, **kwargs):
        torch.rand(3)
        raise RuntimeError("injected")

    if where == "compute":
        monkeypatch.setattr(_site, "checked_mask", fail)
    elif where == "mark":
        monkeypatch.setattr(_site, "mark", fail_once(fail, _site.mark))
    elif calls:
        return  # nothing is registered by later calls
    else:
        monkeypatch.setattr(nn.Module, where, fail)
    with pytest.raises(RuntimeError, match="injected"):
        apply(module, "weight")
    monkeypatch.undo()
    assert everything(module) == before
    module(torch.ones(1, 6))
    apply(module, "weight")


def fail_once(fail, after):
    calls = iter([fail])
    return lambda *args: next(calls, after)(*args)


def test_a_global_call_that_fails_late_undoes_the_early_ones(monkeypatch):
    from masklib.adapters import _commit

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", 2)
    before = [everything(m) for m in model]
    calls, enter = [], _commit._site.enter

    def second_fails(*args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("injected")
        enter(*args)

    monkeypatch.setattr(_commit._site, "enter", second_fails)
    with pytest.raises(RuntimeError, match="injected"):
        prune.global_unstructured(model, prune.L1Unstructured, amount=5)
    monkeypatch.undo()
    assert [everything(m) for m in model] == before
    prune.global_unstructured(model, prune.L1Unstructured, amount=5)
    assert sum(int((m.weight_mask == 0).sum()) for m in model) == 7


BAD = {
    "no such parameter": (AttributeError, "wight", lambda m: prune.l1_unstructured(m, "wight", 1)),
    "not a parameter": (TypeError, "Its parameters: ['weight', 'bias']", lambda m: prune.identity(m, "in_features")),
    "amount": (ValueError, "amount=1000", lambda m: prune.l1_unstructured(m, "weight", 1000)),
    "amount type": (TypeError, "Must be int or float", lambda m: prune.random_unstructured(m, "weight", "1")),
    "amount bool": (TypeError, "True", lambda m: prune.l1_unstructured(m, "weight", True)),
    "scores shape": (AssertionError, "(5, 6)", lambda m: prune.l1_unstructured(m, "weight", 1, torch.ones(5))),
    "scores shape again": (ValueError, "(5,)", lambda m: prune.l1_unstructured(m, "weight", 1, torch.ones(5))),
    "scores type": (TypeError, "importance_scores", lambda m: prune.l1_unstructured(m, "weight", 1, [1.0])),
    "mask shape": (ValueError, "(2,)", lambda m: prune.custom_from_mask(m, "weight", torch.ones(2))),
    "one dim": (ValueError, "multidimensional", lambda m: prune.ln_structured(m, "bias", 1, 2, 0)),
    "dim": (IndexError, "2", lambda m: prune.random_structured(m, "weight", 1, dim=2)),
    "not pruned": (ValueError, "has to be pruned", lambda m: prune.remove(m, "weight")),
    "not pruned, undo": (ValueError, "has to be pruned", lambda m: prune.undo(m, "weight")),
    "nothing": (ValueError, "names nothing", lambda m: prune.global_unstructured([], prune.L1Unstructured, amount=1)),
    "structured": (
        TypeError,
        "unstructured",
        lambda m: prune.global_unstructured([(m, "weight")], prune.LnStructured, amount=1, n=2),
    ),
    "not pairs": (TypeError, "pairs", lambda m: prune.global_unstructured(3, prune.L1Unstructured, amount=1)),
    "names without a module": (
        TypeError,
        "`names` goes with a module",
        lambda m: prune.global_unstructured([(m, "weight")], prune.L1Unstructured, names=["weight"], amount=1),
    ),
    "uninitialized": (ValueError, "not initialized", lambda m: prune.identity(nn.LazyLinear(3), "weight")),
    "not a module": (TypeError, "nn.Module", lambda m: weights(3)),
}


@pytest.mark.parametrize(("kind", "message", "call"), BAD.values(), ids=BAD)
def test_bad_calls_are_explained_and_change_nothing(kind, message, call):
    module = nn.Linear(6, 5)
    before = everything(module)
    with pytest.raises(kind) as caught:
        call(module)
    assert message in str(caught.value)
    assert everything(module) == before


# ---- state ----------------------------------------------------------------------------------------------------------


@every_method
def test_remove_and_undo_restore_names_order_identity_and_storage(apply):
    for leave in (prune.remove, prune.undo):
        module = nn.Linear(6, 5)
        fresh, keys = set(vars(module)), list(module.state_dict())
        parameter, dense = module.weight, module.weight.detach().clone()
        apply(module, "weight")
        apply(module, "weight")
        mask = module.weight_mask.clone()
        leave(module, "weight")
        assert module.weight is parameter
        assert isinstance(module.weight, nn.Parameter)
        assert list(module.state_dict()) == keys
        assert set(vars(module)) == fresh
        assert not prune.is_pruned(module)
        assert torch.equal(module.weight, dense * mask if leave is prune.remove else dense)


def test_modules_that_are_not_pruned_behave_as_before():
    pruned, other = nn.Linear(3, 3), nn.Linear(3, 3)
    prune.l1_unstructured(pruned, "weight", 2)
    assert isinstance(other.weight, nn.Parameter)
    other.weight = nn.Parameter(torch.ones(3, 3))
    del other.weight
    with pytest.raises(AttributeError, match="weight"):
        other.weight  # noqa: B018
    other.weight = torch.zeros(3, 3)
    assert torch.equal(other(torch.ones(1, 3)), other.bias[None])
    del other.weight
    assert not hasattr(other, "weight")
    assert not hasattr(nn.Linear, "weight")
    assert type(pruned) is nn.Linear


def test_the_originals_own_pruning_still_works_beside_ours():
    import torch.nn.utils.prune as theirs

    prune.l1_unstructured(nn.Linear(3, 3), "weight", 2)
    module = theirs.l1_unstructured(nn.Linear(3, 3), "weight", 2)
    module(torch.ones(1, 3)).sum().backward()
    theirs.remove(module, "weight")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_rnns(kind):
    rnn = kind(4, 5, num_layers=2)
    x = torch.randn(3, 2, 4)
    prune.l1_unstructured(rnn, "weight_hh_l0", 0.5)
    prune.random_unstructured(rnn, "weight_ih_l1", 0.5)
    assert sum(isinstance(w, nn.Parameter) for w in rnn._flat_weights) == len(rnn._flat_weights) - 2
    rnn.flatten_parameters()
    rnn(x)[0].sum().backward()
    assert rnn.weight_hh_l0_orig.grad[rnn.weight_hh_l0_mask == 0].abs().sum() == 0
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        assert torch.equal(twin(x)[0], rnn(x)[0])
    expected = rnn.double()(x.double())[0]
    prune.remove(rnn, "weight_hh_l0")
    prune.remove(rnn, "weight_ih_l1")
    assert all(isinstance(w, nn.Parameter) for w in rnn._flat_weights)
    assert torch.equal(rnn(x.double())[0], expected)


def test_a_bare_module():
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(4))
    prune.l1_unstructured(module, "weight", 2)
    assert (pickle.loads(pickle.dumps(module)).weight == 0).sum() == 2
    prune.remove(module, "weight")
    assert type(module) is nn.Module


def test_overriding_apply_mask_is_honoured():
    class Doubled(prune.L1Unstructured):
        def apply_mask(self, module):
            return 2 * super().apply_mask(module)

    module = nn.Linear(3, 3)
    Doubled.apply(module, "weight", 2)
    assert torch.equal(module.weight, 2 * module.weight_orig * module.weight_mask)


# ---- hosts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.global_unstructured(net, prune.L1Unstructured, amount=0.5)
    prune.random_unstructured(net[0], "weight", 3)
    return net


def test_compile_export_trace_and_fx(model):
    x = torch.randn(4, 6)
    expected = model(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_trace(model):
    x = torch.randn(4, 6)
    assert torch.equal(torch.jit.trace(model, x)(x), model(x))
    torch.jit.script(nn.Linear(3, 3))


def test_functional_call_vmap_and_grad(model):
    params = dict(model.named_parameters())
    x = torch.randn(4, 6)

    def loss(params):
        return functional_call(model, params, (x,)).square().mean()

    grads = grad(loss)(params)
    assert grads["0.weight_orig"][model[0].weight_mask == 0].abs().sum() == 0
    stacked = {n: torch.stack([p, 2 * p]).detach() for n, p in params.items()}
    losses = vmap(loss)(stacked)
    torch.testing.assert_close(losses[0], loss(params).detach())
    assert all(p.requires_grad for p in model.parameters())


def test_averaging_and_sharing(model):
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    torch.testing.assert_close(average.module(torch.ones(1, 6)), model(torch.ones(1, 6)))
    model.share_memory()
    assert model[0].weight_orig.is_shared()


def test_state_dicts_round_trip(model, tmp_path):
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    other = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    for module in (other[0], other[2]):
        prune.identity(module, "weight")
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(again(x), model(x))
    assert torch.equal(other(x), model(x))
    assert len(hook_of(again[0])) == 2


def test_weight_norm_and_user_hooks_beside_it():
    module = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    with pytest.raises(TypeError, match="must name a parameter"):
        prune.l1_unstructured(module, "weight", 1)
    prune.l1_unstructured(module.parametrizations.weight, "original1", 1)
    module(torch.ones(1, 4)).sum().backward()


def test_the_fast_path_of_a_transformer_layer_sees_the_pruned_weight():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    prune.l1_unstructured(layer.linear1, "weight", 0.5)
    layer.linear1.weight_orig.data.zero_()
    layer.linear1.bias.data.zero_()
    with torch.inference_mode():
        got = layer(x)
    torch.testing.assert_close(got, layer.train()(x).detach())


# ---- tied weights ---------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


def test_a_tied_weight_is_one_weight():
    model = Tied()
    parameter = model.head.weight
    prune.l1_unstructured(model.head, "weight", 5, root=model)
    prune.l1_unstructured(model.embedding, "weight", 4, root=model)
    for module in (model.head, model.embedding):
        assert (module.weight == 0).sum() == 9
        assert module.weight_orig is parameter
    assert model.head.weight_mask.data_ptr() != model.embedding.weight_mask.data_ptr()
    prune.global_unstructured([(model.head, "weight"), (model.embedding, "weight")], prune.L1Unstructured, amount=2)
    prune.global_unstructured([(model.head, "weight")] * 2, prune.L1Unstructured, amount=1, root=model)
    assert (model.embedding.weight == 0).sum() == 12
    prune.remove(model.head, "weight", root=model)
    assert model.embedding.weight is model.head.weight is parameter
    assert not prune.is_pruned(model)


# ---- global calls ---------------------------------------------------------------------------------------------------


def test_global_calls_take_a_module_names_or_a_filter():
    def net():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    a, b, c, d = net(), net(), net(), net()
    prune.global_unstructured(a, prune.L1Unstructured, amount=0.5)
    prune.global_unstructured(b, prune.L1Unstructured, names=["0.weight", "2.weight"], amount=0.5)
    prune.global_unstructured(c, prune.L1Unstructured, names=lambda name, p: p.dim() > 1, amount=0.5)
    prune.global_unstructured([(d[0], "weight"), (d[2], "weight")], prune.L1Unstructured, amount=0.5)
    assert str(a.state_dict()) == str(b.state_dict()) == str(c.state_dict()) == str(d.state_dict())
    prune.global_unstructured(a, prune.L1Unstructured, amount=0.5)
    assert sum(int((m.weight_mask == 0).sum()) for m in (a[0], a[2])) == 48


def test_a_global_call_equals_the_core_on_a_mapping():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    expected = ml.l1_unstructured({str(i): m.weight.detach() for i, m in enumerate(model)}, amount=0.4)
    prune.global_unstructured(model, prune.L1Unstructured, amount=0.4)
    assert all(torch.equal(m.weight_mask != 0, expected[str(i)]) for i, m in enumerate(model))


def test_weights_are_the_matrices_people_mean():
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.LSTM(4, 3), nn.MultiheadAttention(4, 2), nn.LayerNorm(4), nn.Conv2d(1, 2, 3), Tied()
    )
    assert list(weights(model)) == [
        "0.weight",
        "1.weight_ih_l0",
        "1.weight_hh_l0",
        "2.in_proj_weight",
        "2.out_proj.weight",
        "4.weight",
        "5.embedding.weight",
    ]
    before = {n: id(p) for n, p in weights(model).items()}
    prune.global_unstructured(model, prune.L1Unstructured, amount=0.5)
    assert {n: id(p) for n, p in weights(model).items()} == before


# ---- histories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_folding_the_history_gives_the_mask(seed):
    import random

    rng, module = random.Random(seed), nn.Linear(6, 5)
    for _ in range(rng.randint(1, 6)):
        METHODS[rng.choice(list(METHODS))](module, "weight")
        hook = hook_of(module)
        assert torch.equal(ml.fold(hook.history(), module.weight_orig), module.weight_mask != 0)
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(ml.fold(hook_of(again).history(), again.weight_orig), module.weight_mask != 0)


def test_a_record_of_more_than_255_steps():
    module = nn.Linear(30, 20)
    for _ in range(300):
        prune.random_unstructured(module, "weight", 1)
    hook = hook_of(module)
    assert len(hook) == len(hook.history()) == 300
    assert torch.equal(ml.fold(hook.history(), module.weight_orig), module.weight_mask != 0)
    assert [int(ml.count(m)) for m in ml.scan(hook.history(), module.weight_orig)] == list(range(600, 299, -1))


def test_a_layout_aware_method_of_ones_own():
    class TwoOfFour(prune.BasePruningMethod):
        PRUNING_TYPE = "global"

        def compute_mask(self, t, default_mask):
            return ml.n_of_m(t.abs(), default_mask != 0, keep=2, of=4).to(t.dtype)

    module = nn.Linear(8, 4)
    prune.l1_unstructured(module, "weight", 0.25)
    TwoOfFour.apply(module, "weight")
    assert (module.weight_mask.view(4, 2, 4).sum(-1) <= 2).all()


def test_whatever_a_method_returns_can_only_remove():
    class Revive(prune.BasePruningMethod):
        PRUNING_TYPE = "global"

        def compute_mask(self, t, default_mask):
            return torch.ones_like(t)

    module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 5)
    before = module.weight_mask.clone()
    Revive.apply(module, "weight")
    assert torch.equal(module.weight_mask, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_other_dtypes(dtype):
    module = nn.Linear(4, 3, dtype=dtype)
    step = partial(prune.l1_unstructured, module, "weight", 5)
    step()
    assert module.weight_mask.dtype == dtype
    assert (module.weight == 0).sum() == 5
    prune.remove(module, "weight")
    assert (module.weight == 0).sum() == 5


# ---- baking ---------------------------------------------------------------------------------------------------------


def test_bake_returns_a_clean_copy(model):
    clean = prune.bake(model)
    x = torch.randn(3, 6)
    assert torch.equal(clean(x), model(x))
    assert prune.is_pruned(model)
    assert not prune.is_pruned(clean)
    assert list(clean.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.filterwarnings("ignore")
def test_scripting_fusion_and_quantisation_work_or_say_what_to_do(model):
    x = torch.randn(3, 6)
    with pytest.raises(AttributeError, match=r"prune\.bake"):
        torch.jit.script(model)
    assert torch.equal(torch.jit.script(prune.bake(model))(x), model(x))
    conv, norm = nn.Conv2d(2, 3, 3).eval(), nn.BatchNorm2d(3).eval()
    prune.l1_unstructured(conv, "weight", 5)
    with pytest.raises(AttributeError, match="remove"):
        torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert type(quantized[0]) is not nn.Linear
    torch.testing.assert_close(quantized(x), model(x), atol=0.1, rtol=0.1)
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(prune.bake(conv), norm)
    torch.testing.assert_close(fused(torch.ones(1, 2, 5, 5)), norm(conv(torch.ones(1, 2, 5, 5))))


def test_assigning_a_parameter_while_pruned_is_refused():
    module = prune.l1_unstructured(nn.Linear(3, 3), "weight", 2)
    with pytest.raises(AttributeError, match="weight_orig"):
        module.weight = nn.Parameter(torch.ones(3, 3))
    nn.Linear(3, 3).weight = nn.Parameter(torch.ones(3, 3))
    assert (module.weight == 0).sum() == 2


def test_devices_of_one_pool_must_agree():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3, device="meta")
    with pytest.raises(ValueError, match="one device"):
        prune.global_unstructured([(a, "weight"), (b, "weight")], prune.L1Unstructured, amount=2)
    assert not prune.is_pruned(a)


def test_distributed_data_parallel(model, tmp_path):
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(torch.randn(4, 6)).sum().backward()
        assert model[0].weight_orig.grad[model[0].weight_mask == 0].abs().sum() == 0
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        sharded = nn.Linear(4, 4)
        sharded.weight = nn.Parameter(torch.distributed.tensor.distribute_tensor(sharded.weight.detach(), mesh))
        with pytest.raises(TypeError, match="DTensor"):
            prune.l1_unstructured(sharded, "weight", 2)
    finally:
        torch.distributed.destroy_process_group()


def test_a_structured_call_on_a_pruned_vector_is_refused():
    module = prune.l1_unstructured(nn.Linear(4, 3), "bias", 1)
    with pytest.raises(ValueError, match="multidimensional"):
        prune.ln_structured(module, "bias", 1, n=2, dim=0)
    assert (module.bias_mask == 0).sum() == 1
