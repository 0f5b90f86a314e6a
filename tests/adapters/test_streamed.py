"""A checkpoint pruned a block at a time: to the bit what the model in memory becomes, wherever it is interrupted."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.files import load_masks

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
zoo_language = pytest.importorskip("zoo_language")

LLAMA = zoo_language._LLAMA


def extra(kind, **sizes):
    config, t = zoo_language._language(kind, **sizes)
    return getattr(t, f"{kind}ForCausalLM")(config), zoo_language._tokens()


OTHERS = ("t5", "vit", "whisper", "convnext")  # no language models of one stack
RENAMED = ("mixtral", "qwen3moe", "neox")  # whose checkpoints have other names than the model
MODELS = {n: f for n, f in zoo_language.LANGUAGE.items() if n not in OTHERS + RENAMED} | {
    "mistral": partial(extra, "Mistral", **LLAMA, sliding_window=4),
    "phi": partial(extra, "Phi", **LLAMA),
    "bloom": partial(extra, "Bloom", hidden_size=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1),
}


def saved(name, folder, dtype=torch.float32, **options):
    """A folder as people have theirs, and batches."""
    torch.manual_seed(0)
    model, first = MODELS[name]()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model.to(dtype).save_pretrained(folder, **options)
    return [first] + [{n: t.roll(1 + i, -1) + 0 for n, t in first.items()} for i in range(2)]


def in_memory(folder, kind=transformers.AutoModelForCausalLM):
    return kind.from_pretrained(folder, dtype="auto").eval()


def empty(folder, kind=transformers.AutoModelForCausalLM):
    config = transformers.AutoConfig.from_pretrained(folder)
    with accelerate.init_empty_weights():
        model = kind.from_config(config, dtype=config.dtype)
    model.tie_weights()
    return model.eval()


def kind_of(name):
    auto = transformers.AutoModelForSequenceClassification, transformers.AutoModelForCausalLM
    return auto[name != "bert"]


def bits(folder):
    return {
        n: t.view(torch.uint8)
        for path in sorted(Path(folder).glob("*.safetensors"))
        for n, t in load_file(path).items()
    }


RULES = {"wanda": oneshot.wanda(), "admm": oneshot.admm()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "4KB"}], ids=["one file", "shards"])
def test_streamed_is_in_memory(name, shards, tmp_path):
    source, target, reference = (tmp_path / n for n in ("source", "target", "reference"))
    batches = saved(name, source, **shards)
    (source / "tokenizer.json").write_text("{}")
    model = in_memory(source, kind_of(name))
    expected = oneshot.prune(model, batches, oneshot.admm(), sparsity=0.5)
    model.save_pretrained(reference, **shards)
    skeleton = empty(source, kind_of(name))
    found = oneshot.prune_checkpoint(
        source, target, skeleton, batches, oneshot.admm(), sparsity=0.5, mask_file=tmp_path / "masks"
    )
    before, after, wanted = bits(source), bits(target), bits(reference)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[n], wanted[n]) for n in wanted)
    assert {p.name for p in target.iterdir()} == {p.name for p in source.iterdir()}
    assert all(
        torch.equal(a, b)
        for a, b in zip(in_memory(target, kind_of(name)).state_dict().values(), model.state_dict().values())
    )
    masks = load_masks(tmp_path / "masks").masks
    assert masks.keys() == expected.masks.keys()
    assert all(torch.equal(masks[n], m) for n, m in expected.masks.items())
    assert (found.layers, found.left_out, found.masks) == (expected.layers, expected.left_out, {})
    assert all(p.is_meta for p in skeleton.parameters())
    assert {p.name for p in tmp_path.iterdir()} == {"source", "target", "reference", "masks"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype, tmp_path):
    batches = saved("llama", tmp_path / "source", dtype)
    model = in_memory(tmp_path / "source")
    oneshot.prune(model, batches, oneshot.wanda(), sparsity=0.5)
    oneshot.prune_checkpoint(
        tmp_path / "source", tmp_path / "target", empty(tmp_path / "source"), batches, oneshot.wanda(), sparsity=0.5
    )
    after = load_file(tmp_path / "target" / "model.safetensors")
    assert all(t.dtype == dtype and torch.equal(t, model.state_dict()[n]) for n, t in after.items())


def test_one_block_at_a_time_has_values(tmp_path):
    batches = saved("qwen3", tmp_path / "source")
    model, seen = empty(tmp_path / "source"), set()

    def add(state, inputs):
        seen.add(tuple(sorted({n.split(".")[2] for n, p in model.named_parameters() if not p.is_meta})))
        assert model.get_parameter("lm_head.weight").is_meta
        return ml.scores.add_input_norms(state, inputs)

    rule = oneshot.Rule(add, oneshot.wanda().solve)
    oneshot.prune_checkpoint(tmp_path / "source", tmp_path / "target", model, batches, rule, sparsity=0.5)
    assert seen == {("0",), ("1",)}


def test_names_without_the_prefix_of_transformers(tmp_path):
    """As those of the GPT-2 that everybody has."""
    batches = saved("gpt2", tmp_path / "source")
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(tmp_path / "source/model.safetensors").items()}
    save_file({**tensors, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, tmp_path / "source/model.safetensors")
    model = in_memory(tmp_path / "source")
    oneshot.prune(model, batches, oneshot.ria(), sparsity=0.5)
    oneshot.prune_checkpoint(
        tmp_path / "source", tmp_path / "target", empty(tmp_path / "source"), batches, oneshot.ria(), sparsity=0.5
    )
    after = load_file(tmp_path / "target" / "model.safetensors")
    assert all(torch.equal(after[n], model.transformer.state_dict()[n]) for n in tensors if n != "lm_head.weight")
    assert torch.equal(after["h.0.attn.bias"], torch.ones(1, 1, 4, 4))


def test_a_plain_model_and_one_file(tmp_path):
    """No transformers at all; a norm with running sums is read from the file."""
    torch.manual_seed(0)

    def build():
        return torch.nn.Sequential(
            *[torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)) for _ in "abc"]
        )

    model, batches = build(), [torch.randn(16, 8), torch.randn(5, 8)]
    model(batches[0])
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with accelerate.init_empty_weights():
        skeleton = build()
    expected = oneshot.prune(model, batches, oneshot.sparsegpt(), sparsity=0.5)
    oneshot.prune_checkpoint(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", skeleton, batches, oneshot.sparsegpt(), sparsity=0.5
    )
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in load_file(tmp_path / "b.safetensors").items())
    assert len(expected.masks) == 3


# ---- interrupted ----------------------------------------------------------------------------------------------------


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


class Pair(torch.nn.Linear):
    """Returns more than its state, which is of this batch alone, in a tuple of its own."""

    def forward(self, x, extra=None):
        return super().forward(x), (extra if extra is not None else x.sum(-1, keepdim=True),)


class Handing(torch.nn.Module):
    """Hands on what the first block returns beside its state, as T5 does with its biases."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Pair(4, 4) for _ in range(3)])

    def forward(self, x):
        extra = None
        for block in self.blocks:
            x, (extra,) = block(x, extra)
        return x


def test_what_the_first_block_returns_beside_its_state_is_of_each_batch():
    model, batches, seen = Handing(), [torch.randn(3, 4), torch.randn(3, 4)], []
    model.blocks[1].register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    oneshot.prune(model, batches, oneshot.wanda(), keep=2)
    wanted = [b.sum(-1, keepdim=True) for b in batches]
    assert all(torch.equal(a, b) for a, b in zip(seen[-2:], wanted))


def test_states_on_disk_are_the_states(tmp_path):
    """In memory, with and without a folder of work: the same bits."""
    model, first = MODELS["llama"]()
    torch.manual_seed(1)
    twin = transformers.LlamaForCausalLM(model.config)
    twin.load_state_dict(model.state_dict())
    oneshot.prune(model, [first], oneshot.admm(), sparsity=0.5)
    oneshot.prune(twin, [first], oneshot.admm(), sparsity=0.5, work=tmp_path / "work", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma3"])
def test_the_block_at_hand_on_a_gpu(name, tmp_path):
    """The rest stays on the CPU, the masks too; sums round otherwise there."""
    batches = saved(name, tmp_path / "source")
    model, twin = in_memory(tmp_path / "source"), in_memory(tmp_path / "source")
    here = oneshot.prune(model, batches, oneshot.wanda(), sparsity=0.5)
    there = oneshot.prune(twin, batches, oneshot.wanda(), sparsity=0.5, device="cuda")
    assert all(t.device.type == "cpu" for t in [*twin.state_dict().values(), *there.masks.values()])
    assert sum(int((here.masks[n] != m).sum()) for n, m in there.masks.items()) < 0.02 * sum(
        m.numel() for m in there.masks.values()
    )
    oneshot.prune_checkpoint(
        tmp_path / "source",
        tmp_path / "t",
        empty(tmp_path / "source"),
        batches,
        oneshot.wanda(),
        sparsity=0.5,
        device="cuda",
    )
    streamed = in_memory(tmp_path / "t").state_dict()
    assert all(torch.equal(t, twin.state_dict()[n]) for n, t in streamed.items())


# ---- what is refused ------------------------------------------------------------------------------------------------


class Looped(torch.nn.Module):
    """Its blocks are run twice."""

    def __init__(self, blocks=2):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(blocks)])

    def forward(self, x):
        for block in [*self.blocks, *self.blocks]:
            x = block(x)
        return x


class Passing(Looped):
    """A block is called with what the block before it makes beside its state."""

    def forward(self, x):
        y = x
        for block in self.blocks:
            x, y = block(x, y.abs()), x
        return x


class Two(torch.nn.Linear):
    def forward(self, x, extra):
        return super().forward(x + extra)


class Branching(Looped):
    """What comes behind its blocks looks at values."""

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x if x.sum() > 0 else -x


def passing():
    model = Passing(3)
    model.blocks = torch.nn.ModuleList([Two(4, 4) for _ in range(3)])
    return model


def of_meta(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Looped(), "'blocks.0' was called twice for a batch"),
        (lambda: Looped(1), "'blocks.0' was called twice for a batch"),
        (passing, "'blocks.2' is called with something beside its state that the blocks before it compute"),
        (Branching, "`model` must run without values behind its blocks, and Branching does not"),
    ],
)
def test_models_that_cannot_be_streamed(build, words, tmp_path):
    model = build()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with accelerate.init_empty_weights():
        skeleton = build()
    with pytest.raises(ValueError, match=re.escape(words)):
        oneshot.prune_checkpoint(
            tmp_path / "a.safetensors",
            tmp_path / "b.safetensors",
            skeleton,
            [torch.randn(3, 4)],
            oneshot.wanda(),
            keep=1,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert all(p.is_meta for p in skeleton.parameters())
    assert not any("forward" in vars(m) for m in skeleton.modules())


def test_in_memory_too_what_depends_on_other_blocks_is_refused():
    model = passing()
    with pytest.raises(ValueError, match=r"'blocks.2' is called with something beside its state"):
        oneshot.prune(model, [torch.randn(3, 4)], oneshot.wanda(), keep=1)
    with pytest.raises(ValueError, match=r"'blocks.0' was called twice"):
        oneshot.prune(Looped(), [torch.randn(3, 4)], oneshot.wanda(), keep=1)


def test_models_and_checkpoints_that_do_not_fit(tmp_path):
    source = tmp_path / "source"
    batches = saved("qwen3", source)

    def pruned(model, source=source, **options):
        oneshot.prune_checkpoint(source, tmp_path / "t", model, batches, oneshot.wanda(), keep=1, **options)

    with pytest.raises(
        ValueError, match=r"`model` must have no values, got Qwen3ForCausalLM with those of 'model.embed"
    ):
        pruned(in_memory(source))
    with pytest.raises(ValueError, match=r"`model` must have its buffers, and 'model.rotary_emb.inv_freq'"):
        pruned(of_meta(source))
    saved("llama", tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"`source` must have the tensors of Qwen3ForCausalLM under their names, and has no"
    ):
        pruned(empty(source), tmp_path / "other")
    tensors = load_file(source / "model.safetensors")
    (tmp_path / "wide").mkdir()
    save_file(tensors | {"model.norm.weight": torch.ones(5)}, tmp_path / "wide/model.safetensors")
    with pytest.raises(ValueError, match=r"`source` must have 'model.norm.weight' as \(16,\) of torch.float32"):
        pruned(empty(source), tmp_path / "wide")
    with pytest.raises(ValueError, match=r"`device` must be one of this machine, got 'cuda:99'"):
        pruned(empty(source), device="cuda:99")
    with pytest.raises(TypeError, match=r"`progress` must be callable"):
        pruned(empty(source), progress=3)
    with pytest.raises(OSError, match=r"`mask_file` .* cannot be found"):
        pruned(empty(source), mask_file=tmp_path / "no" / "masks")
    with pytest.raises(ValueError, match=r"`work` must be a new or an empty folder"):
        pruned(empty(source), work=source)
    assert {p.name for p in tmp_path.iterdir()} == {"source", "other", "wide"}


def test_a_weight_of_two_blocks_is_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    model = model.to("meta")
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"no parameter in two blocks, and '0.weight' is '1.weight'"):
        oneshot.prune_checkpoint(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", model, [torch.ones(2, 4)], oneshot.wanda(), keep=1
        )


def test_experts_that_are_put_together_are_refused(tmp_path):
    config, t = zoo_language._language("Mixtral", **LLAMA, num_experts_per_tok=2, num_local_experts=3)
    t.MixtralForCausalLM(config).save_pretrained(tmp_path / "source")
    with pytest.raises(
        ValueError, match=r"If it is put together when the checkpoint is loaded, as experts are, load it"
    ):
        oneshot.prune_checkpoint(
            tmp_path / "source",
            tmp_path / "t",
            empty(tmp_path / "source"),
            [zoo_language._tokens()],
            oneshot.wanda(),
            keep=1,
        )
