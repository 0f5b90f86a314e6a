"""The callback of the transformers `Trainer` beside the plain loop, and resumed by `resume_from_checkpoint=`."""

from __future__ import annotations

import importlib

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_tasks import STEPS, UPDATES, batch, loss_of, net

import masklib as ml
from masklib.adapters.training import attach

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # the trainer's advice
from masklib.adapters.training.transformers import Pruning  # noqa: E402


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return {"loss": loss_of(self.net(x))}


def rows():
    return [{"x": row} for step in range(STEPS) for row in batch(step)]


def fit(path, *callbacks, resume=None, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(path),
        per_device_train_batch_size=16,
        max_steps=STEPS,
        save_steps=4,
        learning_rate=0.02,
        weight_decay=0.1,
        max_grad_norm=options.pop("max_grad_norm", 0.0),
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        **options,
    )
    fitting = transformers.Trainer(Model(), arguments, train_dataset=rows(), callbacks=list(callbacks))
    fitting.train(resume_from_checkpoint=resume)
    return fitting.model


class Watch(transformers.TrainerCallback):
    """The batches that the trainer draws, and how it makes its optimizer."""

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
        self.seen, names = [], {p: n for n, p in model.named_parameters()}
        model.register_forward_pre_hook(lambda _, args, kwargs: self.seen.append(kwargs["x"]), with_kwargs=True)
        self.groups = [([names[p] for p in g["params"]], g["weight_decay"]) for g in optimizer.param_groups]
        self.fused = optimizer.defaults["fused"]


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize("name", ["gradual", "rigl", "movement", "sr-ste", "late lottery"])
def test_training_is_the_plain_loop_and_resumes_in_the_same_bits(tmp_path, name):
    watch, callback = Watch(), Pruning(UPDATES[name])
    whole = fit(tmp_path, watch, callback)
    model = Model()
    params = dict(model.named_parameters())
    groups = [{"params": [params[n] for n in names], "weight_decay": decay} for names, decay in watch.groups]
    optimizer = torch.optim.AdamW(groups, lr=0.02, fused=watch.fused)
    pruning = attach(optimizer, model, UPDATES[name])
    for x in watch.seen:
        optimizer.zero_grad()
        model(x)["loss"].backward()
        optimizer.step()
    assert callback.pruning.step == len(watch.seen) == STEPS
    assert same(model.state_dict(), whole.state_dict())
    assert same(pruning.masks, callback.masks)
    for stop in (4, 8):
        resumed = Pruning(UPDATES[name])
        again = fit(tmp_path, resumed, resume=str(tmp_path / f"checkpoint-{stop}"))
        assert resumed.pruning.step == STEPS
        assert same(whole.state_dict(), again.state_dict())
        assert same(callback.masks, resumed.masks)


def test_checkpoints_hold_sparse_weights_and_their_masks(tmp_path):
    callback = Pruning(UPDATES["rigl"])
    fit(tmp_path, callback, max_grad_norm=1.0, gradient_accumulation_steps=2)
    saved = load_file(tmp_path / f"checkpoint-{STEPS}" / "pruning.safetensors")
    weights = load_file(tmp_path / f"checkpoint-{STEPS}" / "model.safetensors")
    for name, mask in callback.masks.items():
        assert torch.equal(saved[f"masks/{name}"], mask)
        assert not weights[name][~mask].any()
    assert int(saved["step"]) == STEPS
    assert ml.sparsity(callback.masks) == 0.5


def test_a_folder_elsewhere_is_asked_for(tmp_path):
    fit(tmp_path / "first", Pruning(UPDATES["gradual"]))
    folder = tmp_path / "first" / "checkpoint-8"
    with pytest.raises(ValueError, match=r"goes on from step 8, but .* has no pruning\.safetensors"):
        fit(tmp_path / "second", Pruning(UPDATES["gradual"]), resume=str(folder))
    callback = Pruning(UPDATES["gradual"], folder=folder)
    fit(tmp_path / "second", callback, resume=str(folder))
    assert callback.pruning.step == STEPS


def test_the_surface():
    assert dir(importlib.import_module("masklib.adapters.training.transformers")) == ["Pruning"]
