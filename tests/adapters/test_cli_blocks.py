"""`masklib prune` block by block: a folder in, a folder out that `from_pretrained` loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from commands import run

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.files import load_masks, save_masks

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

TEXT = "a b c d e f g h i j " * 12
WINDOWS = list(((torch.arange(120) % 10) + 1).view(8, 15)[:4])
OPTIONS = "--calibration text.txt --samples 4 --length 15"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a tiny Qwen3, its tokenizer and a text."""
    words = {w: i for i, w in enumerate(["<unk>", *"abcdefghij"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>").save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, head_dim=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model.save_pretrained(tmp_path / "model", max_shard_size="8KB")
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype="auto")


def expected(rule, **number):
    model = loaded("model")
    pruned = oneshot.prune(model, [{"input_ids": w[None]} for w in WINDOWS], rule, **number)
    return model, pruned


def is_same(path, model):
    return all(torch.equal(t, model.state_dict()[n]) for n, t in loaded(path).state_dict().items())


@pytest.fixture
def mixture(folder):
    """The same with a tiny Mixtral, whose experts are packed when it is loaded."""
    config = transformers.MixtralConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, head_dim=4,
        num_key_value_heads=2, max_position_embeddings=64, num_local_experts=3,
    )  # fmt: skip
    for file in (folder / "model").glob("*.safetensors*"):
        file.unlink()
    model = transformers.MixtralForCausalLM(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model.save_pretrained(folder / "model", max_shard_size="8KB")
    return folder


def test_a_mixture_is_pruned_and_its_masks_can_be_used_again(mixture, capsys):
    """By the names of the checkpoint, as the folder has them, or of the model."""
    call = f"--method wanda {OPTIONS} --go-on --save-masks"
    assert run(f"prune model pruned --sparsity 0.5 {call} packed", capsys)[0] == 0
    model, pruned = expected(oneshot.wanda(), sparsity=0.5, strict=False)
    assert is_same("pruned", model)
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in load_masks("packed").masks
    save_masks("masks", pruned.masks)
    for alive in ("packed", "masks"):
        target = f"from_{alive}"
        assert run(f"prune model {target} --sparsity 0.7 {call} again --masks {alive} --budget owl", capsys)[0] == 0
        again = load_masks("again").masks
        assert all((load_masks("packed").masks[n] | ~m).all() for n, m in again.items())
    assert is_same("from_packed", loaded("from_masks"))
    plain = "prune model plain --sparsity 0.5 --masks packed --names *_proj.weight --names *.w?.weight"
    assert run(plain, capsys)[0] == 0


CALLS = {
    "--method wanda --sparsity 0.5": (oneshot.wanda(), {"sparsity": 0.5}),
    "--method wanda --sparsity 0.5 --per-layer": (oneshot.wanda(groups=ml.elements()), {"sparsity": 0.5}),
    "--method magnitude --sparsity 0.3": (oneshot.magnitude(), {"sparsity": 0.3}),
    "--method ria --keep 2 --of 4": (oneshot.ria(groups=ml.windows(4)), {"keep": 2}),
    "--method sparsegpt --sparsity 0.5 --per-row": (oneshot.sparsegpt(groups=ml.rows()), {"sparsity": 0.5}),
    "--method admm --sparsity 0.6": (oneshot.admm(), {"sparsity": 0.6}),
}


@pytest.mark.parametrize("options", CALLS)
def test_a_call_prunes_as_its_rule_does(options, folder, capsys):
    model, pruned = expected(CALLS[options][0], **CALLS[options][1])
    capsys.readouterr()
    status, out, err = run(f"prune model pruned {options} {OPTIONS} --save-masks masks --json", capsys)
    assert status == 0, err
    assert is_same("pruned", model)
    assert {p.name for p in (folder / "pruned").iterdir()} == {p.name for p in (folder / "model").iterdir()}
    masks = load_masks("masks").masks
    assert all(torch.equal(masks[n], m) for n, m in pruned.masks.items())
    assert masks.keys() == pruned.masks.keys()
    report = json.loads(out)
    assert {n: (x["block"], x["error"]) for n, x in report["weights"].items()} == {
        n: (x.block, x.error) for n, x in pruned.layers.items()
    }
    assert report["sparsity"] == pytest.approx(float(ml.sparsity(masks)))
    assert "model.layers.0.mlp.up_proj.weight" in err
    assert "Written: pruned" in err
    assert "left out: model.embed_tokens.weight, lm_head.weight: outside the blocks" in err
    assert {p.name for p in folder.iterdir()} == {"model", "text.txt", "pruned", "masks"}
    status, out, _ = run("perplexity pruned --text text.txt --length 10", capsys)
    assert status == 0
    assert float(out) > 1


def test_a_budget_is_that_of_the_dense_model(folder, capsys):
    model = loaded("model")
    batches = [{"input_ids": w[None]} for w in WINDOWS]
    sparsities = ml.budgets.owl(oneshot.measure(model, batches, ml.scores.wanda), 0.5)
    assert len(set(sparsities.values())) > 2
    wanted = oneshot.prune(model, batches, oneshot.wanda(), sparsity=sparsities)
    capsys.readouterr()
    status, _, err = run(f"prune model pruned --method wanda --sparsity 0.5 --budget owl {OPTIONS}", capsys)
    assert status == 0, err
    assert is_same("pruned", model)
    assert float(ml.sparsity(wanted.masks)) == pytest.approx(0.5, abs=0.01)


def test_names_and_masks(folder, capsys):
    alive = {"model.layers.1.mlp.up_proj.weight": torch.rand(24, 16) < 0.8}
    save_masks("alive", alive)
    model = loaded("model")
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    batches = [{"input_ids": w[None]} for w in WINDOWS]
    oneshot.prune(model, batches, oneshot.ria(), sparsity=0.5, names=names, default_masks=alive)
    capsys.readouterr()
    call = f"prune model pruned --method ria --sparsity 0.5 {OPTIONS} --names *.up_proj.* --masks alive --json"
    status, out, err = run(call, capsys)
    assert status == 0, err
    assert is_same("pruned", model)
    assert list(json.loads(out)["weights"]) == names


def test_a_half_in_sixteen_bits(folder, capsys):
    loaded("model").bfloat16().save_pretrained("half")
    transformers.AutoTokenizer.from_pretrained("model").save_pretrained("half")
    model = loaded("half")
    oneshot.prune(model, [{"input_ids": w[None]} for w in WINDOWS], oneshot.wanda(), sparsity=0.5)
    capsys.readouterr()
    status, _, err = run(f"prune half pruned --method wanda --sparsity 0.5 {OPTIONS}", capsys)
    assert status == 0, err
    assert loaded("pruned").dtype == torch.bfloat16
    assert is_same("pruned", model)


# ---- interrupted ----------------------------------------------------------------------------------------------------

CALL = f"prune model pruned --method admm --sparsity 0.5 {OPTIONS}"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_interrupted_call_goes_on(kind, folder, capsys, monkeypatch):
    model, _ = expected(oneshot.admm(), sparsity=0.5)
    real, count, at = ml.admm, [], [10]

    def admm(*args, **kwargs):
        count.append(1)
        if len(count) == at[0]:
            raise kind("stopped")
        return real(*args, **kwargs)

    monkeypatch.setattr(ml, "admm", admm)
    capsys.readouterr()
    status, _, err = run(CALL, capsys)
    assert status == (130 if kind is KeyboardInterrupt else 1)
    assert "Finished blocks lie in pruned.unfinished; the same call with --resume goes on with them." in err
    assert not (folder / "pruned").exists()
    status, _, err = run(CALL, capsys)
    assert status == 1
    assert "'pruned.unfinished' is what an interrupted call left: pass --resume to go on" in err
    status, _, err = run(f"{CALL.replace('0.5', '0.6')} --resume", capsys)
    assert status == 1
    assert "masklib: 'pruned.unfinished' was begun by a call with another value of numbers" in err
    assert err.count("\n") == 1
    count.clear()
    at[0] = 0
    status, _, err = run(f"{CALL} --resume", capsys)
    assert status == 0, err
    assert len(count) == 14
    assert is_same("pruned", model)
    assert {p.name for p in folder.iterdir()} == {"model", "text.txt", "pruned"}


def test_a_killed_process_leaves_its_work(folder, capsys):
    """By a signal that nobody can catch, wherever it is."""
    model, _ = expected(oneshot.admm(), sparsity=0.5)
    started = subprocess.Popen([sys.executable, "-m", "masklib.adapters.cli", *CALL.split()], stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    first = "pruned.unfinished/00000.safetensors"
    while not os.path.exists(first) and started.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    started.send_signal(signal.SIGKILL)
    started.communicate(timeout=120)
    if not os.path.exists("pruned"):
        assert os.path.exists(first)
        capsys.readouterr()
        assert run(f"{CALL} --resume", capsys)[0] == 0
    assert is_same("pruned", model)
    assert {p.name for p in folder.iterdir()} == {"model", "text.txt", "pruned"}


# ---- what is refused ------------------------------------------------------------------------------------------------

P = "prune model pruned --method admm"
T = "--calibration text.txt"
BAD = {
    f"{P} {T}": (2, "how many go is not said"),
    f"{P} --sparsity 0.5": (2, "`--method admm` needs a text: give --calibration FILE."),
    f"prune model --method admm --sparsity 0.5 {T}": (2, "TARGET is missing."),
    f"{P} --sparsity 0.5 {T} --dry-run": (2, "`--dry-run` says nothing to `--method admm`"),
    f"{P} --sparsity 0.5 {T} --n 2": (2, "`--n` says nothing to `--method admm`."),
    f"{P} --sparsity 0.5 {T} --budget erk": (2, "`--budget` of `--method admm` must be owl, got 'erk'"),
    f"{P} --keep 2 --of 4 --budget owl": (2, "`--budget` shares out a `--sparsity`"),
    f"{P} --keep 2 --of 4 --per-row": (2, "`--per-row` and `--of` both say which weights compete"),
    f"prune model pruned --sparsity 0.5 {T}": (2, "`--calibration` says nothing to `--method l1`"),
    "prune model pruned --sparsity 0.5 --go-on": (2, "`--go-on` says nothing to `--method l1`"),
    f"{P} --sparsity 0.5 --calibration none": (1, "`--calibration` 'none' cannot be read: No such file"),
    f"{P} --sparsity 0.5 {T}": (1, "`--length` must be at most 64, the positions that the model has"),
    f"{P} --sparsity 0.5 {T} --length 64": (1, "must hold 128 windows of 64 tokens"),
    f"prune text.txt pruned --method admm --sparsity 0.5 {OPTIONS}": (1, "must be a folder that `from_pretrained`"),
    f"prune model model --method admm --sparsity 0.5 {OPTIONS}": (1, "`target` must be a new or an empty folder"),
    f"{P} --sparsity 0.5 {OPTIONS} --names nothing": (1, "`--names` has 'nothing', which"),
    f"{P} --sparsity 0.5 {OPTIONS} --device cuda:77": (1, "`device` must be one of this machine, got 'cuda:77'"),
    f"{P} --sparsity 0.5 {OPTIONS} --masks none": (1, "'none' cannot be read"),
    f"{P} --sparsity 0.5 {OPTIONS} --device meta": (1, "`device` must be one that computes, got 'meta'"),
    f"{P} --sparsity 0.5 {OPTIONS} --save-masks text.txt": (1, "`--save-masks` must be new or a file of masks, got"),
    f"{P} --sparsity 0.5 {OPTIONS} --save-masks model/m.safetensors": (1, "`--save-masks` must not be in `source`"),
    f"{P} --sparsity 0.5 {OPTIONS} --save-masks model/config.json": (1, "`--save-masks` must not be in `source`"),
    f"prune model pruned --method Admm --sparsity 0.5 {OPTIONS}": (2, "`--method` must be one of l1, "),
    f"{P} --keep 2 --of 5 {OPTIONS}": (1, "'model.layers.0.self_attn.q_proj.weight' cannot be pruned"),
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_goes_wrong_is_one_sentence(text, folder, capsys):
    status, out, err = run(text, capsys)
    assert (status, out) == (BAD[text][0], ""), err
    assert BAD[text][1].removesuffix(".") in err
    assert err.count("\n") == 1
    assert {p.name for p in folder.iterdir()} == {"model", "text.txt"}


def test_the_tokenizer_of_another_model_is_refused(folder, capsys):
    (folder / "text.txt").write_text("k a " * 60)
    file = folder / "model" / "tokenizer.json"
    words = json.loads(file.read_text())
    words["model"]["vocab"]["k"] = 11
    file.write_text(json.dumps(words))
    for text in (f"{P} --sparsity 0.5 {OPTIONS}", "perplexity model --text text.txt --length 15"):
        status, out, err = run(text, capsys)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "MODEL knows 11 tokens, and its tokenizer gives 11: it is the tokenizer of another" in err
    for path in (file, folder / "model" / "tokenizer_config.json"):
        path.unlink()
    for text in (f"{P} --sparsity 0.5 {OPTIONS}", "perplexity model --text text.txt --length 15"):
        status, out, err = run(text, capsys)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "MODEL must hold the files of its tokenizer" in err
    assert {p.name for p in folder.iterdir()} == {"model", "text.txt"}


def test_windows_are_no_longer_than_the_model_was_made_for(folder, capsys):
    status, out, err = run("perplexity model --text text.txt --length 65", capsys)
    assert (status, out) == (1, "")
    assert "`--length` must be at most 64, the positions that the model has, got 65" in err


def test_the_rest_goes_on_as_asked(folder, capsys):
    model = loaded("model")
    with torch.no_grad():
        model.model.layers[2].post_attention_layernorm.weight.fill_(float("nan"))
    model.save_pretrained("model", max_shard_size="8KB")
    capsys.readouterr()
    status, _, err = run(CALL, capsys)
    assert status == 1
    assert "'model.layers.2.mlp.gate_proj.weight' cannot be pruned" in err
    status, out, err = run(f"{CALL} --resume --go-on --json", capsys)
    assert status == 0, err
    assert "not finite" in json.loads(out)["left_out"]["model.layers.2.mlp.up_proj.weight"]
    assert "model.layers.2.self_attn.q_proj.weight" in json.loads(out)["weights"]
