"""A callback of the transformers `Trainer` that trains under masks; they are saved and resumed in its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masklib.updates import Update

from . import Pruning as Attached
from . import attach, zero
from ._names import Names

try:
    from safetensors.torch import load_file, save_file
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ImportError(
        "masklib.adapters.training.transformers needs transformers: pip install 'masklib[transformers]'."
    ) from error

__all__ = ["Pruning"]


def __dir__() -> list[str]:
    """List the public names."""
    return __all__


class Pruning(TrainerCallback):
    """Let an update change masks while a `Trainer` trains.

    Masks lie in each checkpoint's folder, in a file of safetensors. `trainer.train(resume_from_checkpoint=)` goes on in
    the same bits. The trainer clips before a callback sees gradients, so dead entries count in the norm that
    `max_grad_norm` bounds.

    Args:
        update: how masks change, and when, in steps of the optimizer.
        names: dotted names of the model's parameters, or `(name, param) -> bool`; its weights if None.
        hold: what dead entries hold, `zero` or `freeze`.
        folder: where the checkpoint lies that is resumed from; `output_dir/checkpoint-N` of step N if None.
        file: the name of the file; of several callbacks, each needs its own.

    Attributes:
        pruning: what `attach` returned, once training has begun; None before.

    >>> callback = Pruning(masklib.updates.rigl(sparsity=0.9, every=100, stop=1000))
    >>> callback.masks
    {}
    """

    def __init__(
        self,
        update: Update,
        *,
        names: Names | None = None,
        hold: Callable[..., None] = zero,
        folder: str | Path | None = None,
        file: str = "pruning.safetensors",
    ) -> None:
        self.update, self.names, self.hold, self.folder, self.file = update, names, hold, folder, file
        self.pruning: Attached | None = None

    @property
    def masks(self) -> dict[str, Tensor]:
        """Bool, by dotted name, True = kept; none before training has begun."""
        return {} if self.pruning is None else self.pruning.masks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach to the optimizer; weights and optimizer of a checkpoint are loaded by now."""
        saved = None if state.global_step == 0 else _read(self._resumed(args, state) / self.file)
        if self.pruning is not None:
            self.pruning.remove()
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self.pruning = attach(optimizer, model, self.update, names=self.names, hold=self.hold, state=saved)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write masks beside the model."""
        if self.pruning is not None and state.is_world_process_zero:
            _write(_checkpoint(args, state) / self.file, self.pruning.state_dict())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the optimizer go; masks stay."""
        if self.pruning is not None:
            self.pruning.remove()

    def _resumed(self, args: Any, state: Any) -> Path:
        """The checkpoint's folder: the trainer does not say which it resumes from, but which step."""
        folder = _checkpoint(args, state) if self.folder is None else Path(self.folder)
        if not (folder / self.file).is_file():
            raise ValueError(
                f"training goes on from step {state.global_step}, but {folder} has no {self.file}. Pass the checkpoint "
                "that it goes on from: Pruning(update, folder=...)."
            )
        return folder


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


# ---- a state as a file of tensors -----------------------------------------------------------------------------------


def _write(path: Path, state: Mapping[str, Any]) -> None:
    flat = {
        "step": torch.tensor(state["step"], device="cpu"),
        "observed": torch.tensor(state["observed"], device="cpu"),
    }
    flat["update"] = torch.tensor(list(state["update"].encode()), dtype=torch.uint8, device="cpu")
    groups = {key: group for key, group in state.items() if isinstance(group, dict)}
    tensors = {f"{key}/{name}": t.contiguous() for key, group in groups.items() for name, t in group.items()}
    save_file({**flat, **tensors}, path)


def _read(path: Path) -> dict[str, Any]:
    flat = load_file(path)
    state: dict[str, Any] = {"step": int(flat.pop("step")), "observed": bool(flat.pop("observed"))}
    state["update"] = bytes(flat.pop("update").tolist()).decode()
    state.update({key: {} for key in ("masks", "values", "first", "evidence")})
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        state[group][name] = tensor
    return state
