"""How much memory a language model takes that is pruned a block at a time, from a folder to a folder.

    python tests/benchmarks/streamed.py [--model smollm2] [--rule admm] [--samples 8] [--length 512]
    python tests/benchmarks/streamed.py --model 1b --samples 4 --length 256    a random block in bfloat16
    python tests/benchmarks/streamed.py --model 7b --blocks 2 --device cuda    what a block takes lies on the GPU then
    python tests/benchmarks/streamed.py --model mixture --blocks 2 --rule wanda    eight packed experts a block

A process of its own prunes, and looks at its `RssAnon` every few milliseconds. Beside it stands what is expected beyond
what the process had before, the greater of

    block + all that is not in blocks                                                             before the first block
    2 block + sum of 4 in^2 over different inputs + the greatest of 4 (4 in^2 + 9 out in) over layers      in each block

The second is the block and its dense weights, the statistics, and what ADMM holds of the layer that it solves. Neither
counts what a block computes of one batch, nor the states, which lie on the disk. Packed experts are a layer whose new
weight and mask are held as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import language
import torch

from masklib.adapters import oneshot


class Shape(NamedTuple):
    """A Llama or, with experts, a Mixtral; hidden, intermediate and what keys have are dims, width is in bytes."""

    hidden: int
    inside: int
    keys: int
    vocabulary: int
    heads: int
    width: int
    tied: bool = False  # whether one table is at both ends
    experts: int = 0


SHAPES = {
    "smollm2": Shape(576, 1536, 192, 49152, 9, 4, True),
    "360m": Shape(960, 2560, 320, 49152, 15, 2, True),
    "1b": Shape(2048, 5632, 256, 32000, 32, 2),
    "7b": Shape(4096, 11008, 4096, 32000, 32, 2),
    "70b": Shape(8192, 28672, 1024, 32000, 64, 2),
    "mixture": Shape(1024, 3584, 256, 32000, 16, 2, experts=8),
}


def block_of(shape: Shape) -> float:
    """Bytes of the matrices of a block."""
    h, experts = shape.hidden, max(shape.experts, 1)
    return shape.width * (2 * h * (h + shape.keys) + 3 * experts * h * shape.inside)


def expected(shape: Shape, rule: str = "admm") -> float:
    """Bytes beside those of the process."""
    h, i, experts = shape.hidden, shape.inside, max(shape.experts, 1)
    layers = [(h, h), (i * (2 if shape.experts else 1), h), (h, i)]  # (out, in), the greatest of each kind
    sums = 4 * (2 * h * h + experts * (h * h + i * i))  # queries, keys and values see the same; so do gate and up
    solver = max(4 * (3 * into * into + 7 * out * into) for out, into in layers)
    new = (shape.width + 1) * 2 * shape.experts * h * i
    outside = shape.width * shape.vocabulary * h * (1 if shape.tied else 2)
    statistics = sums + solver if rule in ("admm", "sparsegpt") else 0
    return max(block_of(shape) + outside, 2 * block_of(shape) + new + statistics)


def anonymous() -> float:
    """The memory of this process that is of no file, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


class Peak:
    """The most that was seen while it is open."""

    def __enter__(self) -> Peak:
        self.most, self.is_open = anonymous(), True
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while self.is_open:
            self.most = max(self.most, anonymous())
            time.sleep(0.005)

    def __exit__(self, *_: Any) -> None:
        self.is_open = False
        self.thread.join()


def save(name: str, folder: Path, samples: int, length: int, blocks: int) -> None:
    """Write a model and windows to calibrate on."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    shape = SHAPES[name]
    if name == "smollm2":
        model, tokenizer = language.load()
        windows, _ = language.texts(tokenizer, 0, samples, length)
        config = LlamaConfig(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
        plain = LlamaForCausalLM(config)
        plain.load_state_dict(model.state_dict())
    else:
        groups = shape.keys * shape.heads // shape.hidden
        windows = [torch.randint(shape.vocabulary, (1, length)) for _ in range(samples)]
        sizes = {
            "hidden_size": shape.hidden, "intermediate_size": shape.inside, "vocab_size": shape.vocabulary,
            "num_attention_heads": shape.heads, "num_key_value_heads": groups, "dtype": torch.bfloat16,
            "tie_word_embeddings": shape.tied, "num_hidden_layers": blocks,
        }  # fmt: skip
        mixture = MixtralConfig(**sizes, num_local_experts=shape.experts)
        config = mixture if shape.experts else LlamaConfig(**sizes)
        plain = (MixtralForCausalLM if shape.experts else LlamaForCausalLM)._from_config(config)
    plain.save_pretrained(folder / "source", max_shard_size="200MB" if name == "smollm2" else "2GB")
    torch.save(windows, folder / "windows.pt")


def prune(folder: Path, rule: str, device: str) -> None:
    """Prune, and print what it took."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    windows = torch.load(folder / "windows.pt", weights_only=True)
    config = AutoConfig.from_pretrained(folder / "source")
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    model.tie_weights()
    torch.zeros(1, device=device)  # what the driver takes is the process's
    process, start = anonymous(), time.perf_counter()
    with Peak() as peak:
        oneshot.prune_checkpoint(
            folder / "source", folder / "target", model, windows, language.RULES[rule](), sparsity=0.5,
            device=device, progress=lambda done, blocks: print(
                f"  block {done} of {blocks}: {peak.most:,.0f} MB, {time.perf_counter() - start:.0f} s", flush=True
            ),
        )  # fmt: skip
    seconds = time.perf_counter() - start
    print(
        f"process {process:,.0f} MB, peak {peak.most:,.0f} MB, above it {peak.most - process:,.0f} MB, {seconds:.0f} s"
    )
    if device != "cpu":
        print(f"on the device {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2", choices=SHAPES)
    parser.add_argument("--rule", default="admm")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=1, help="of a random model")
    parser.add_argument("--device", default="cpu", help="where the block at hand is computed")
    parser.add_argument("--step", help="in a process of its own: a folder")
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    if asked.step and asked.save:
        return save(asked.model, Path(asked.step), asked.samples, asked.length, asked.blocks)
    if asked.step:
        return prune(Path(asked.step), asked.rule, asked.device)
    for name, shape in SHAPES.items():
        block, above = (n / 1e6 for n in (block_of(shape), expected(shape, asked.rule)))
        print(f"{name}: a block {block:,.0f} MB, expected above the process {above:,.0f} MB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for more in (["--save"], []):
            subprocess.run([sys.executable, *sys.argv, "--step", folder, *more], check=True)


if __name__ == "__main__":
    main()
