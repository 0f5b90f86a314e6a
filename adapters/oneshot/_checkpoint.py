"""A checkpoint pruned block by block: of the model one block at a time is in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from .._module.values import a_module
from ._asked import Progress, asked
from ._report import Pruned
from ._rules import Rule


def prune_checkpoint(
    source: Any,
    target: Any,
    model: nn.Module,
    batches: Iterable[Any],
    rule: Rule,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    default_masks: Mapping[str, Tensor] | None = None,
    names: Collection[str] | None = None,
    blocks: Sequence[str] | None = None,
    strict: bool = True,
    mask_file: Any = None,
    checkpoint_mask_file: Any = None,
    work: Any = None,
    device: Any = None,
    progress: Progress | None = None,
) -> Pruned:
    """Prune a checkpoint as `prune` does a model, with one block of it at a time in memory.

        target = what save_pretrained writes after prune(model with the values of source, ...)

    What is in memory at a time is a block twice, what the rule gathers of its inputs, and one hidden state; the others
    lie in the folder of work. Before the first block it is that one, and all that is not in the blocks.

    Args:
        source: a folder with safetensors files and their index, if there are several; or one file.
        target: a new folder for a folder, into which all else comes along as it is: other tensors, the index,
            configuration, tokenizer; a file for a file. It appears whole or not at all.
        model: its parameters on the meta device, its buffers not: `with accelerate.init_empty_weights(): model =
            AutoModelForCausalLM.from_config(config)`, then `model.tie_weights()`. It is left as it is. One of
            transformers may have other names and shapes than the source, as packed experts have: a block is put
            together as `from_pretrained` does it, and taken apart again.
        batches, rule, amount, keep, sparsity, default_masks, names, blocks, strict, progress: as for `prune`.
        mask_file, checkpoint_mask_file: where the masks are written, as `save_masks` does it, by the names of the model
            and by those of the source; the history in each says which. New or a file of masks, and in no folder of the
            source, target or work; None for nowhere.
        work: a folder beside which nothing else is needed to go on: blocks that are finished are kept in it if the call
            is interrupted, and taken from it by the same call. It takes as much room as the weights to prune, and as
            the hidden states, and is removed at the end. None for one that is removed in any case.
        device: where the block at hand is computed; None for the CPU.

    Returns:
        A report as that of `prune`, whose `masks` are empty: they lie in `mask_file`.

    Raises:
        TypeError, ValueError: as `prune`; and if the model has values, its buffers have none, a tensor of it is made of
            nothing in the source, or of something that cannot be taken apart again to the bit. No target is written
            then.
        OSError: if the system refuses to read or to write. No target is written then.

    Reference: as for `prune`.
    """
    a_module(model, "model")
    numbers = {"amount": amount, "keep": keep, "sparsity": sparsity}
    call = asked(model, batches, rule, numbers, default_masks, names, blocks, strict, device, progress)
    streaming: Any = import_module("._streaming", __package__)  # which needs safetensors
    files = streaming.MaskFiles(mask_file, checkpoint_mask_file)
    return streaming.stream(source, target, model, call, files, work)
