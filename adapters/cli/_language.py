"""Language models of a folder, and texts as their tokens; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor


def loaded(folder: Path) -> tuple[Any, Any]:
    """The model of a folder, in eval mode, and its tokenizer.

    Args:
        folder: what `save_pretrained` wrote, the tokenizer's files included.

    Raises:
        ValueError: if transformers is missing, or the folder holds no causal language model with a tokenizer.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise ValueError(
            f"language models need {error.name}. Install it with: pip install 'masklib[transformers]'"
        ) from None
    if not folder.is_dir():
        raise ValueError(f"MODEL must be a folder that `from_pretrained` loads, got {str(folder)!r}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto")
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers has many, some of them several lines long
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{str(folder)!r} holds no causal language model with its tokenizer: {cause}") from None


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: if it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"`--text` must be a text in UTF-8, got {str(path)!r}, which is none") from None
    except OSError as error:
        raise ValueError(f"`--text` {str(path)!r} cannot be read: {error.strerror}") from None


def windows(tokenizer: Any, text: str, length: int, samples: int | None) -> list[Tensor]:
    """The tokens of a text, cut into windows (length,); what is left over at the end is left out.

    Raises:
        ValueError: if the text has fewer tokens than are asked for.
    """
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    whole = ids.numel() // length
    if whole < (samples or 1):
        raise ValueError(
            f"`--text` must hold {samples or 1} windows of {length} tokens, got {ids.numel()} tokens. "
            "Pass a smaller --length or --samples, or a longer text."
        )
    return list(ids[: (samples or whole) * length].split(length))
