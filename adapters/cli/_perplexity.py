"""`masklib perplexity`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ._language import loaded, read_text, refuse_foreign, refuse_long, windows
from ._options import number


def perplexity(
    model: Annotated[Path, typer.Argument(help="A folder that `from_pretrained` loads.", show_default=False)],
    text: Annotated[Path, typer.Option(help="A text file, in UTF-8.", show_default=False)],
    length: Annotated[int, typer.Option(parser=number("--length", int, 2, 2**20), help="Tokens in a window.")] = 512,
    samples: Annotated[
        int | None,
        typer.Option(parser=number("--samples", int, 1, 2**31), help="Windows from the start; all if not given."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Measure the perplexity of a language model on a text: what pruning has cost."""
    words = read_text(text)
    network, tokenizer = loaded(model)
    refuse_long(length, network.config)
    parts = windows(tokenizer, words, length, samples)
    refuse_foreign(parts, network)

    from ..oneshot import perplexity as measured

    value, tokens = measured(network, parts), sum(part.numel() for part in parts)
    facts = {"model": str(model), "text": str(text), "perplexity": value, "windows": len(parts), "tokens": tokens}
    print(json.dumps(facts, indent=2) if as_json else f"{value:.4g}")
    return 0
