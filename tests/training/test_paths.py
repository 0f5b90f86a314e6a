"""The same training by every path, on the same seeds: the same weights, to the bit where the arithmetic allows.

It does for the functional loop (eager, and compiled by `aot_eager`), `attach`, `parametrize`, the drop-in, Lightning
and the transformers `Trainer`, on whole tensors in one dtype: all of them run the same kernels on the same values. It
does not for an ensemble under `vmap`, whose products of matrices are batched, nor for compilers that fuse (inductor):
there the last bits of a sum differ, and with them, sooner or later, a mask. RigL needs gradients of dead entries, which
modules pruned by `parametrize` and the drop-in do not have.
"""

from __future__ import annotations

import pytest
import torch
from functional_loop import sgd, start, step, weights
from torch import nn
from training_tasks import STEPS, UPDATES, batch, loss_of, net

import masklib as ml
import masklib.adapters.prune as prune
from masklib import schedules, updates
from masklib.adapters import parametrize
from masklib.adapters.optimizer import keep_zero
from masklib.adapters.training import attach

pytestmark = pytest.mark.filterwarnings("ignore")  # the trainers' advice
NAMES = ["gradual", "gradual erk", "rigl", "set", "movement", "taylor", "static", "ac/dc"]


class Net(nn.Module):
    """Draws its batches by itself, the same for every loop."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = net(), 0

    def forward(self, x=None):
        self.calls += 1
        return {"loss": loss_of(self.net(batch(self.calls - 1)))}


def functional(update, advance=step):
    model = net()
    wrapped = nn.ModuleDict({"net": model})
    wrapped.forward = model.forward
    state = start(wrapped, update)
    for number in range(STEPS):
        state = advance(wrapped, update, number + 1, state, batch(number))
    return {**state.params, **state.buffers}, state.masks


def loop(model, optimizer, after=lambda number: None):
    for number in range(STEPS):
        optimizer.zero_grad()
        model()["loss"].backward()
        optimizer.step()
        after(number + 1)


def attached(update):
    model = Net()
    optimizer = sgd(model.parameters())
    pruning = attach(optimizer, model, update)
    loop(model, optimizer)
    return dict(model.state_dict()), pruning.masks


def by_adapter(adapter, originals, set_mask, update):
    """A module that computes masked weights; its masks are set after each step from its own dense values."""
    model = Net()
    optimizer = sgd(model.parameters())
    params = {name: p.detach() for name, p in weights(dict(model.named_parameters())).items()}
    masks = update(0, params, ml.dense(params))
    adapter(model)
    keep_zero(optimizer, model)

    def after(number):
        nonlocal masks
        changed = update(number, {n: p.detach() for n, p in originals(model).items()}, masks)
        for name, mask in changed.items() if changed is not masks else ():
            set_mask(model, name, mask)
        masks = changed

    for name, mask in masks.items():
        set_mask(model, name, mask)
    loop(model, optimizer, after)
    return computed(model), masks


def computed(model):
    """All values by plain name, those of pruned weights as they are read."""
    values = dict(net().named_parameters()) | dict(net().named_buffers())
    return {f"net.{n}": getattr(model.net[int(n.split(".")[0])], n.split(".")[1]).detach() for n in values}


def parametrized(update):
    def originals(model):
        return {f"net.{i}.weight": model.net[i].parametrizations.weight.original for i in (0, 3)}

    return by_adapter(lambda model: parametrize.prune(model, ml.identity), originals, parametrize.set_mask, update)


def dropped_in(update):
    def begin(model):
        for i in (0, 3):
            prune.identity(model.net[i], "weight")

    def originals(model):
        return {f"net.{i}.weight": model.net[i].weight_orig for i in (0, 3)}

    def set_mask(model, name, mask):
        prune.set_mask(model.get_submodule(name.rpartition(".")[0]), "weight", mask)

    return by_adapter(begin, originals, set_mask, update)


def lightning(update):
    pl = pytest.importorskip("lightning.pytorch")
    from masklib.adapters.training.lightning import Pruning

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def training_step(self, x, index):
            return loss_of(self.net(batch(self.global_step)))

        def configure_optimizers(self):
            return sgd(self.parameters())

    module, callback = Module(), Pruning(update)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = pl.Trainer(max_steps=STEPS, accelerator="cpu", callbacks=[callback], **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(STEPS)))
    return dict(module.state_dict()), callback.masks


def trainer(update, path):
    transformers = pytest.importorskip("transformers")
    from masklib.adapters.training.transformers import Pruning

    model, callback = Net(), Pruning(update)
    optimizer = sgd(model.parameters())
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    arguments = transformers.TrainingArguments(
        str(path), max_steps=STEPS, max_grad_norm=0.0, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    rows = [{"x": torch.zeros(1)}] * 96
    transformers.Trainer(
        model, arguments, train_dataset=rows, callbacks=[callback], optimizers=(optimizer, constant)
    ).train()
    return dict(model.state_dict()), callback.masks


def assert_same(one, other):
    for expected, result in zip(one, other, strict=True):
        assert set(expected) == set(result)
        for name, value in expected.items():
            assert torch.equal(value, result[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_all_paths_end_in_the_same_bits(name, tmp_path):
    update = UPDATES[name]
    expected = functional(update)
    assert 0.4 < float(ml.sparsity(expected[1])) < 0.8
    assert_same(expected, attached(update))
    if not update.needs_grads and update.observe is None:
        assert_same(expected, parametrized(update))
        assert_same(expected, dropped_in(update))
    if name in ("gradual", "rigl"):
        assert_same(expected, lightning(update))
        assert_same(expected, trainer(update, tmp_path))


# ---- the functional path under transforms ---------------------------------------------------------------------------


@pytest.mark.skipif(torch.__version__ < "2.7", reason="the compiler of torch 2.6 does not go through functional_call")
@pytest.mark.parametrize("name", ["gradual", "rigl", "ac/dc"])
def test_a_whole_step_with_its_update_is_one_compiled_graph(name):
    update = UPDATES[name]
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")

    def advance(model, update, number, state, x):
        return compiled(model, update, torch.tensor(number), state, x)

    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(functional(update), functional(update, advance))


def test_tied_weights_are_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x).relu())

    update = UPDATES["rigl"]
    model = Tied()
    state = start(model, update)
    assert list(state.masks) == ["first.weight"]
    twin = Tied()
    optimizer = sgd(twin.parameters())
    pruning = attach(optimizer, twin, update)
    for number in range(STEPS):
        state = step(model, update, number + 1, state, batch(number))
        optimizer.zero_grad()
        loss_of(twin(batch(number))).backward()
        optimizer.step()
    assert_same((state.params, state.masks), (dict(twin.named_parameters()), pruning.masks))


def test_an_ensemble_of_tickets_trains_in_one_vmap():
    """As the same tickets one by one, up to the rounding of batched products."""
    update = updates.gradual(ml.l1_unstructured, schedules.cubic(0.75, stop=8, every=4))
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    seeds = []
    for seed in range(3):
        torch.manual_seed(seed)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        seeds.append(start(model, update))
    together = torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *seeds)
    alone = seeds
    for number in range(STEPS):
        x = batch(number).double()
        together = torch.vmap(lambda state, x=x, number=number: step(model, update, number + 1, state, x))(together)
        alone = [step(model, update, number + 1, state, x) for state in alone]
    assert len({tuple(state.masks["0.weight"].flatten().tolist()) for state in alone}) == 3
    for i, state in enumerate(alone):
        for name, value in state.params.items():
            torch.testing.assert_close(together.params[name][i], value)
        assert all(torch.equal(together.masks[n][i], mask) for n, mask in state.masks.items())
