"""Calls that are interrupted go on after the last finished block, to the bit; what a folder of work does not fit."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from stored_models import empty, in_memory, saved

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.files import load_masks


class Killed(BaseException):
    pass


def killing(rule, at):
    """A rule that dies when it solves a layer for the n-th time; and how many it has solved."""
    count, stop = [], [at]  # lists, which are not looked at: the rule is the same whenever it dies

    def solve(*given, **number):
        count.append(1)
        if len(count) == stop[0]:
            raise Killed
        return rule.solve(*given, **number)

    solve.__qualname__ = "solve"
    return oneshot.Rule(rule.add, solve), count


@pytest.mark.parametrize("streamed", [True, False])
def test_it_goes_on_after_the_last_finished_block(streamed, tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("qwen3", source)

    def pruned(rule, target, **options):
        if streamed:
            oneshot.prune_checkpoint(source, tmp_path / target, empty(source), batches, rule, sparsity=0.5, **options)
            return load_file(tmp_path / target / "model.safetensors")
        model = in_memory(source)
        oneshot.prune(model, batches, rule, sparsity=0.5, **options)
        return model.state_dict()

    whole = pruned(killing(oneshot.admm(), 0)[0], "whole")
    for at in range(1, 15):
        rule, _ = killing(oneshot.admm(), at)
        with pytest.raises(Killed):
            pruned(rule, "target", work=work)
        assert work.exists() == (at > 7)  # seven weights a block, of two blocks
        assert not (work / "states").exists()
        assert not (tmp_path / "target").exists()
        rule, solved = killing(oneshot.admm(), 0)
        parts = pruned(rule, f"target{at}", work=work)
        assert len(solved) == (14 if at <= 7 else 7)
        assert all(torch.equal(parts[n], t) for n, t in whole.items())
        assert not work.exists()


def test_without_work_nothing_is_left_over(tmp_path):
    batches = saved("qwen3", tmp_path / "source")
    with pytest.raises(Killed):
        oneshot.prune_checkpoint(
            tmp_path / "source",
            tmp_path / "t",
            empty(tmp_path / "source"),
            batches,
            killing(oneshot.wanda(), 9)[0],
            keep=4,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("change", ["batches", "numbers", "rule", "source", "names"])
def test_the_work_of_another_call_is_refused(change, tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("qwen3", source)
    call = {"rule": oneshot.wanda(), "sparsity": 0.5, "names": None, "batches": batches}
    others = {
        "batches": {"batches": batches[:2]},
        "numbers": {"sparsity": 0.25},
        "rule": {"rule": oneshot.wanda(groups=ml.elements())},
        "names": {"names": ["model.layers.0.mlp.up_proj.weight"]},
        "source": {},
    }

    def begin(rule, batches, **options):
        oneshot.prune_checkpoint(
            source, tmp_path / "t", empty(source), batches, rule, work=work, progress=stopped, **options
        )

    def stopped(finished, blocks):
        assert (finished, blocks) == (1, 2)
        raise Killed

    with pytest.raises(Killed):
        begin(**call)
    if change == "source":
        os.utime(source / "model.safetensors", (1, 1))
    before = {p.name: p.read_bytes() for p in work.iterdir()}
    with pytest.raises(
        ValueError,
        match=rf"`work` .* begun by a call with another value of {'model' if change == 'source' else change}",
    ):
        begin(**call | others[change])
    assert {p.name: p.read_bytes() for p in work.iterdir()} == before


def scaled(by):
    """A rule of one's own, of the same names whatever it does."""
    return oneshot.Rule(lambda state, inputs: state, lambda w, state, alive, **number: (w * by, w == w))


def test_the_work_of_a_function_of_another_body_or_number_is_refused(tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("qwen3", source)

    def begin(rule):
        oneshot.prune(in_memory(source), batches, rule, sparsity=0.5, work=work, progress=stopped)

    def stopped(finished, blocks):
        raise Killed

    with pytest.raises(Killed):
        begin(scaled(2.0))
    for another in (scaled(3.0), oneshot.Rule(scaled(2.0).add, lambda w, state, alive, **number: (w, w == w))):
        with pytest.raises(ValueError, match="begun by a call with another value of rule"):
            begin(another)
    with pytest.raises(Killed):
        begin(scaled(2.0))


def begun(source, work, batches, change=lambda model: None, **options):
    """A call of a model that was changed, which dies after its first block."""

    def stopped(finished, blocks):
        raise Killed

    model = empty(source)
    change(model)
    with pytest.raises(Killed):
        oneshot.prune_checkpoint(
            source,
            work.with_name("target"),
            model,
            batches,
            oneshot.wanda(),
            sparsity=0.5,
            work=work,
            progress=stopped,
            **options,
        )


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("config.rms_norm_eps", lambda model: setattr(model.config, "rms_norm_eps", 0.5)),
        ("config.attn_implementation", lambda model: model.set_attn_implementation("eager")),
        ("modules", lambda model: setattr(model.model.layers[0].input_layernorm, "variance_epsilon", 0.5)),
        ("modules", lambda model: setattr(model.model.layers[1].mlp, "act_fn", torch.nn.ReLU())),
        ("modules", lambda model: model.model.rotary_emb.inv_freq.mul_(2)),
        ("modules", lambda model: model.to(torch.bfloat16)),
    ],
)
def test_the_work_of_a_model_of_other_settings_is_refused(named, change, tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("qwen3", source)
    begun(source, work, batches)
    with pytest.raises(ValueError, match=rf"`work` .* begun by a call with another value of {named}"):
        begun(source, work, batches, change)
    begun(source, work, batches, lambda model: setattr(model.train(), "name_or_path", "elsewhere"), device="cpu")


def test_the_work_of_another_device_or_under_autocast_is_refused(tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("qwen3", source)
    begun(source, work, batches)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"begun by a call with another value of autocast: \{'autocast': \{\}\}"),
    ):
        begun(source, work, batches)
    call = json.loads((work / "call.json").read_text())
    for key, value in (("device", ["cuda"]), ("torch", "2.0.0"), ("config.more", 1)):
        (work / "call.json").write_text(json.dumps(call | {key: value}))
        with pytest.raises(ValueError, match=rf"begun by a call with another value of {key}: "):
            begun(source, work, batches)


def test_a_strict_call_does_not_take_layers_that_another_left_out(tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("qwen3", source)
    count = []

    def solve(weight, state, alive, **number):
        count.append(1)
        if len(count) == 1:
            raise ValueError("not this one")
        return weight, weight == weight

    def begin(strict, progress=None):
        rule = oneshot.Rule(lambda state, inputs: state, solve)
        return oneshot.prune(
            in_memory(source), batches, rule, sparsity=0.5, strict=strict, work=work, progress=progress
        )

    def stopped(finished, blocks):
        raise Killed

    with pytest.raises(Killed):
        begin(False, stopped)
    with pytest.raises(ValueError, match=r"'model.layers.0.self_attn.q_proj.weight' cannot be pruned: not this one"):
        begin(True)
    assert "not this one" in begin(False).left_out["model.layers.0.self_attn.q_proj.weight"]


def test_a_damaged_folder_of_work_is_named(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "call.json").write_text("{")
    batches = saved("qwen3", tmp_path / "source")
    with pytest.raises(ValueError, match=r"`work` .* is damaged: 'call.json' is no JSON"):
        oneshot.prune(in_memory(tmp_path / "source"), batches, oneshot.wanda(), sparsity=0.5, work=tmp_path / "work")


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"target": "w/t", "work": "w"}, "`target` must not be in `work`"),
        ({"target": "t", "work": "t"}, "`work` must not be in `target`"),
        ({"target": "w", "work": "w/t"}, "`work` must not be in `target`"),
        ({"target": "w", "mask_file": "w/m.safetensors"}, "`mask_file` must not be in `target`"),
        ({"target": "t", "mask_file": "t"}, "`mask_file` must not be in `target`"),
        ({"target": "t", "work": "w", "mask_file": "w/m.safetensors"}, "`mask_file` must not be in `work`"),
        ({"target": "t", "mask_file": "source/model.safetensors"}, "`mask_file` must not be in `source`"),
        ({"target": "t", "mask_file": "a.txt"}, "`mask_file` must be new or a file of masks"),
    ],
)
def test_places_of_which_one_would_be_lost_with_another(places, words, tmp_path):
    batches = saved("qwen3", tmp_path / "source")
    (tmp_path / "w").mkdir()
    (tmp_path / "a.txt").write_text("mine")
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    at = {argument: tmp_path / place for argument, place in places.items()}
    model = empty(tmp_path / "source")
    with pytest.raises(ValueError, match=words):
        oneshot.prune_checkpoint(
            tmp_path / "source", at.pop("target"), model, batches, oneshot.wanda(), sparsity=0.5, **at
        )
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_masks_may_take_the_place_of_masks(tmp_path):
    batches, masks = saved("qwen3", tmp_path / "source"), tmp_path / "m.safetensors"
    for target, sparsity in (("a", 0.25), ("b", 0.5)):
        model = empty(tmp_path / "source")
        oneshot.prune_checkpoint(
            tmp_path / "source", tmp_path / target, model, batches, oneshot.wanda(), sparsity=sparsity, mask_file=masks
        )
    assert all(ml.sparsity(mask) == 0.5 for mask in load_masks(masks).masks.values())


def test_two_calls_do_not_work_in_one_folder(tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    batches = saved("qwen3", source)

    def begin(target, progress=None):
        model, rule = empty(source), oneshot.wanda()
        oneshot.prune_checkpoint(source, tmp_path / target, model, batches, rule, keep=4, work=work, progress=progress)

    def again(finished, blocks):
        before = {p: p.stat().st_mtime_ns for p in work.rglob("*")}
        with pytest.raises(ValueError, match=r"`work` must not be in use, and another process works in"):
            begin("b")
        assert {p: p.stat().st_mtime_ns for p in work.rglob("*")} == before

    begin("a", again)
    assert {p.name for p in tmp_path.iterdir()} == {"source", "a"}
