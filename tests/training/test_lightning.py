"""The callback of Lightning beside the plain loop, resumed by `ckpt_path=`, and beside Lightning's own."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn
from training_tasks import OPTIMIZERS, STEPS, UPDATES, batch, loss_of, net, train

import masklib as ml
from masklib.adapters.training import attach

pl = pytest.importorskip("lightning.pytorch")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Lightning's advice on workers, loggers and the like
]
from masklib.adapters.training.lightning import Pruning  # noqa: E402


class Module(pl.LightningModule):
    def __init__(self, make=OPTIMIZERS["AdamW"]):
        super().__init__()
        self.net, self.make = net(), make

    def training_step(self, x, index):
        return loss_of(self.net(batch(self.global_step)))  # resumed, Lightning gives the first batch of an epoch twice

    def configure_optimizers(self):
        return self.make(self.parameters())


def data():
    """Epochs of four steps."""
    return torch.utils.data.DataLoader(torch.zeros(4), batch_size=1)


def trainer(path, steps=STEPS, callbacks=(), **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"enable_checkpointing": False, **options}
    return pl.Trainer(default_root_dir=path, max_steps=steps, callbacks=list(callbacks), **quiet, **options)


def fit(path, update, steps=STEPS, module=None, ckpt_path=None, **options):
    module, callback = module or Module(), Pruning(update)
    fitting = trainer(path, steps, [callback], **options)
    fitting.fit(module, data(), ckpt_path=ckpt_path)
    return fitting, module, callback


def plain(update, before=lambda pruning: None):
    """The same by a plain loop; noise depends on names, which are the module's."""
    module = Module()
    optimizer = module.configure_optimizers()
    pruning = attach(optimizer, module, update)
    train(module.net, optimizer, range(STEPS), before=lambda: before(pruning))
    return module, pruning


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize("name", ["gradual", "rigl", "movement", "sr-ste", "late lottery"])
def test_a_fit_is_the_plain_loop_and_resumes_in_the_same_bits(tmp_path, name):
    module, pruning = plain(UPDATES[name])
    _, whole, callback = fit(tmp_path, UPDATES[name])
    assert same(module.state_dict(), whole.state_dict())
    assert same(pruning.masks, callback.masks)
    for stop in (3, 4, 8):
        fitting, *_ = fit(tmp_path, UPDATES[name], stop)
        fitting.save_checkpoint(tmp_path / "a.ckpt")
        _, again, resumed = fit(tmp_path, UPDATES[name], ckpt_path=tmp_path / "a.ckpt")
        assert resumed.pruning.step == STEPS
        assert same(whole.state_dict(), again.state_dict())


def test_clipping_sees_masked_gradients(tmp_path):
    def clip(pruning):
        pruning.mask_grads()
        nn.utils.clip_grad_norm_(pruning.model.parameters(), 0.01)

    expected, _ = plain(UPDATES["rigl"], before=clip)
    _, module, _ = fit(tmp_path, UPDATES["rigl"], gradient_clip_val=0.01)
    assert same(expected.state_dict(), module.state_dict())


def test_accumulation_counts_steps_of_the_optimizer(tmp_path):
    _, _, callback = fit(tmp_path, UPDATES["gradual"], 4, accumulate_grad_batches=2)
    assert callback.pruning.step == 4


def test_several_callbacks_are_saved_apart_and_a_bad_one_is_told(tmp_path):
    callbacks = [Pruning(UPDATES["gradual"], names=["net.0.weight"]), Pruning(UPDATES["rigl"], names=["net.3.weight"])]
    fitting = trainer(tmp_path, 7, callbacks)
    fitting.fit(Module(), data())
    fitting.save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]
    assert [list(state["masks"]) for state in saved.values()] == [["net.0.weight"], ["net.3.weight"]]
    with pytest.raises(ValueError, match="`optimizer` must be the place of one of 1 optimizers, got 1"):
        trainer(tmp_path, 7, [Pruning(UPDATES["gradual"], optimizer=1)]).fit(Module(), data())


def test_what_lightnings_own_loses_on_resume_and_ours_keeps(tmp_path):
    """Its checkpoints hold permanent zeros and no mask: resumed, they are forgotten and pruned anew."""
    from lightning.pytorch.callbacks import ModelPruning

    def own():
        return ModelPruning(
            "l1_unstructured",
            amount=lambda epoch: 0.5 if epoch == 0 else 0.0,
            use_global_unstructured=True,
            parameters_to_prune=None,
            use_lottery_ticket_hypothesis=False,
        )

    def dead(module):
        return sum(int((m.weight == 0).sum()) for m in module.modules() if isinstance(m, nn.Linear))

    first = Module()
    fitting = trainer(tmp_path, -1, [own()], max_epochs=1)
    fitting.fit(first, data())
    fitting.save_checkpoint(tmp_path / "theirs.ckpt")
    theirs = torch.load(tmp_path / "theirs.ckpt", weights_only=False)
    assert not any(name.endswith("_mask") for name in theirs["state_dict"])
    assert not any(theirs["callbacks"].values())
    resumed = Module()
    trainer(tmp_path, -1, max_epochs=2).fit(resumed, data(), ckpt_path=tmp_path / "theirs.ckpt")
    assert dead(resumed) < 10  # nothing holds the zeros

    update = ml.updates.gradual(ml.l1_unstructured, ml.schedules.one_shot(0.5, at=4))
    fitting, ours, _ = fit(tmp_path, update, -1, max_epochs=1)
    assert dead(ours) == 72
    fitting.save_checkpoint(tmp_path / "ours.ckpt")
    _, again, callback = fit(tmp_path, update, -1, ckpt_path=tmp_path / "ours.ckpt", max_epochs=2)
    assert (dead(again), callback.pruning.step) == (72, 8)


def test_the_surface():
    assert dir(importlib.import_module("masklib.adapters.training.lightning")) == ["Pruning"]
