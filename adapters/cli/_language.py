"""Language models of a folder, and texts as their tokens; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    return _opened(
        folder, lambda t: t.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto")
    )


def skeleton(folder: Path) -> tuple[Any, Any]:
    """The same model without its values, but with its buffers, and its tokenizer."""
    return _opened(folder, partial(_empty, folder))


def _empty(folder: Path, transformers: Any) -> Any:
    try:
        from accelerate import init_empty_weights
    except ImportError:
        raise ValueError("it needs accelerate. Install it with: pip install 'masklib[transformers]'") from None
    from ..files import open_checkpoint

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    dtypes = (entry.dtype for entry in open_checkpoint(folder).entries.values())
    dtype = config.dtype or next(d for d in dtypes if d.is_floating_point)
    with init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    return model


def _opened(folder: Path, model: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What transformers makes of a folder, without a network and in silence."""
    try:
        import transformers
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
        return model(transformers).eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers has many, some of them several lines long
        lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
        cause = " ".join(lines[: 1 + lines[0].endswith(":")])
        raise ValueError(f"{str(folder)!r} holds no causal language model with its tokenizer: {cause}") from None


def read_text(path: Path, option: str = "--text") -> str:
    """The text of a file.

    Raises:
        ValueError: if it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"`{option}` must be a text in UTF-8, got {str(path)!r}, which is none") from None
    except OSError as error:
        raise ValueError(f"`{option}` {str(path)!r} cannot be read: {error.strerror}") from None


def windows(tokenizer: Any, text: str, length: int, samples: int | None, option: str = "--text") -> list[Tensor]:
    """The tokens of a text, cut into windows (length,); what is left over at the end is left out.

    Raises:
        ValueError: if the text has fewer tokens than are asked for.
    """
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    if text.strip() and not ids.numel():  # of a folder without its files, transformers makes an empty one
        raise ValueError("MODEL must hold the files of its tokenizer, and what is there makes no tokens of the text")
    whole = ids.numel() // length
    if whole < (samples or 1):
        raise ValueError(
            f"`{option}` must hold {samples or 1} windows of {length} tokens, got {ids.numel()} tokens. "
            "Pass a smaller --length or --samples, or a longer text."
        )
    return list(ids[: (samples or whole) * length].split(length))


def refuse_long(length: int, config: Any) -> None:
    """Refuse windows that are longer than what a model was made for."""
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and length > most:
        raise ValueError(f"`--length` must be at most {most}, the positions that the model has, got {length}")


def refuse_foreign(parts: list[Tensor], model: Any) -> None:
    """Refuse tokens that a model does not know."""
    known, most = model.get_input_embeddings().weight.shape[0], max(int(part.max()) for part in parts)
    if most >= known:
        raise ValueError(f"MODEL knows {known} tokens, and its tokenizer gives {most}: it is the tokenizer of another")
