"""Perplexity, as a function and on the command line: beside the loss that transformers gives."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest
import torch
from torch import nn

from masklib.adapters import cli
from masklib.adapters.oneshot import perplexity


class Tiny(nn.Module):
    """Predicts each token from itself."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 11)
        self.drop = nn.Dropout(0.5)

    def forward(self, input_ids):
        return self.drop(self.table(input_ids))


def by_hand(model, windows):
    """Token by token, in float64."""
    losses = []
    for window in windows:
        for here, after in itertools.pairwise(window):
            row = model.table.weight.detach()[here].double()
            losses.append(float(row.exp().sum().log() - row[after]))
    return math.exp(sum(losses) / len(losses))


def test_it_is_the_mean_over_tokens_not_over_windows():
    torch.manual_seed(0)
    model, windows = Tiny(), [torch.randint(11, (5,)), torch.randint(11, (40,))]
    assert perplexity(model, windows) == pytest.approx(by_hand(model, windows), rel=1e-6)
    assert perplexity(model, [torch.stack([windows[0]] * 3)]) == pytest.approx(by_hand(model, windows[:1]), rel=1e-6)
    assert model.training


@pytest.mark.parametrize(
    ("windows", "error", "words"),
    [
        ([], ValueError, "`windows` must hold at least one"),
        ([torch.arange(1)], ValueError, "at least two tokens"),
        ([torch.zeros(2, 2, 2, dtype=torch.long)], ValueError, "at least two tokens"),
        ([torch.zeros(4)], TypeError, "token ids, got torch.float32"),
        (["text"], TypeError, "token ids, got str"),
        (None, TypeError, "`windows` must be an iterable of token ids, got NoneType"),
        ({"input_ids": torch.arange(4)}, TypeError, "`windows` must be an iterable of token ids, got dict"),
        (
            [torch.full((4,), 11)],
            ValueError,
            "`windows` must hold what Tiny can be run on.* got .*: index out of range",
        ),
        ([torch.full((4,), -100)], ValueError, "`windows` must hold what Tiny can be run on"),
    ],
)
def test_what_is_no_window_is_refused(windows, error, words):
    with pytest.raises(error, match=words):
        perplexity(Tiny(), windows)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_ids_are_integers_of_any_size(dtype):
    model, ids = Tiny(), torch.randint(11, (7,))
    assert perplexity(model, [ids.to(dtype)]) == perplexity(model, [ids])


def test_a_model_that_gives_no_logits_or_no_numbers_is_refused():
    broken = Tiny()
    nn.init.constant_(broken.table.weight, math.nan)
    with pytest.raises(ValueError, match="not finite"):
        perplexity(broken, [torch.arange(5)])
    with pytest.raises(TypeError, match="must give logits"):
        perplexity(_Flat(), [torch.arange(5)])
    with pytest.raises(TypeError, match="model"):
        perplexity("model", [torch.arange(5)])


class _Flat(nn.Module):
    def forward(self, input_ids):
        return input_ids.float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with a tokenizer of its own, saved as people save theirs, and a text."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("model")
    words = {w: i for i, w in enumerate(["<unk>", *"abcdefghij"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    (path / "text.txt").write_text("a b c d e f g h i j " * 5)
    return path


def run(arguments, capsys):
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stopped:
        status = stopped.code
    return (status, *capsys.readouterr())


def test_the_command_prints_what_transformers_gives(folder, capsys):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    windows = (torch.arange(50) % 10 + 1).view(5, 10)
    with torch.no_grad():
        loss = float(model(input_ids=windows, labels=windows).loss)
    capsys.readouterr()
    call = ["perplexity", folder, "--text", folder / "text.txt", "--length", 10]
    status, out, _ = run([*call, "--json"], capsys)
    facts = json.loads(out)
    assert (status, facts["windows"], facts["tokens"]) == (0, 5, 50)
    assert facts["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    status, out, _ = run(call, capsys)
    assert (status, out) == (0, f"{facts['perplexity']:.4g}\n")
    assert json.loads(run([*call, "--json", "--samples", 2], capsys)[1])["windows"] == 2


@pytest.mark.parametrize(
    ("model", "text", "more", "status", "words"),
    [
        (".", "none", (), 1, "`--text` .* cannot be read: No such file"),
        (".", "model.safetensors", (), 1, "must be a text in UTF-8"),
        ("none", "text.txt", (), 1, "must be a folder that `from_pretrained` loads"),
        ("text.txt", "text.txt", (), 1, "must be a folder"),
        (".", "text.txt", ("--length", 51), 1, "must hold 1 windows of 51 tokens, got 50 tokens"),
        (".", "text.txt", ("--length", 10, "--samples", 6), 1, "must hold 6 windows"),
        (".", "text.txt", ("--length", 1), 2, "`--length` must be int in"),
    ],
)
def test_a_bad_call_has_a_sentence(folder, model, text, more, status, words, capsys):
    got, out, err = run(["perplexity", folder / model, "--text", folder / text, *more], capsys)
    assert (got, out) == (status, "")
    assert re.search(words, err)
    assert err.count("\n") == 1


def test_a_folder_without_a_model_and_a_call_without_a_text(tmp_path, folder, capsys):
    status, _, err = run(["perplexity", tmp_path, "--text", folder / "text.txt"], capsys)
    assert status == 1
    assert "holds no causal language model" in err
    assert run(["perplexity", tmp_path], capsys)[2].startswith("masklib perplexity: --text is missing.")
