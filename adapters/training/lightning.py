"""A callback of Lightning that trains under masks; they are saved and resumed with the trainer's own checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from masklib.updates import Update

from . import Pruning as Attached
from . import attach, zero
from ._names import Names

try:
    import lightning.pytorch as pl
except ModuleNotFoundError as error:
    raise ImportError(
        "masklib.adapters.training.lightning needs lightning: pip install 'masklib[lightning]'."
    ) from error

__all__ = ["Pruning"]


def __dir__() -> list[str]:
    """List the public names."""
    return __all__


class Pruning(pl.Callback):
    """Let an update change masks while a Lightning trainer fits.

    Gradients are masked before they are clipped. `trainer.fit(..., ckpt_path=)` goes on in the same bits.

    Args:
        update: how masks change, and when, in steps of the optimizer.
        names: dotted names of the module's parameters, or `(name, param) -> bool`; its weights if None.
        hold: what dead entries hold, `zero` or `freeze`.
        optimizer: which of several optimizers, by its place.

    Attributes:
        pruning: what `attach` returned, once the fit has begun; None before.

    >>> callback = Pruning(masklib.updates.rigl(sparsity=0.9, every=100, stop=1000))
    >>> callback.masks
    {}
    """

    def __init__(
        self, update: Update, *, names: Names | None = None, hold: Callable[..., None] = zero, optimizer: int = 0
    ) -> None:
        self.update, self.names, self.hold, self.optimizer = update, names, hold, optimizer
        self.pruning: Attached | None = None
        self._saved: Mapping[str, Any] | None = None

    @property
    def masks(self) -> dict[str, Tensor]:
        """Bool, by dotted name, True = kept; none before the fit has begun."""
        return {} if self.pruning is None else self.pruning.masks

    @property
    def state_key(self) -> str:
        """What the trainer files the masks under; several callbacks differ by names or optimizer."""
        names = getattr(self.names, "__qualname__", self.names)
        return self._generate_state_key(names=str(names), optimizer=self.optimizer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach to the optimizer; weights and masks of a checkpoint are loaded by now."""
        if not 0 <= self.optimizer < len(trainer.optimizers):
            raise ValueError(
                f"`optimizer` must be the place of one of {len(trainer.optimizers)} optimizers, got {self.optimizer}."
            )
        if self.pruning is not None:
            self.pruning.remove()
        chosen = trainer.optimizers[self.optimizer]
        self.pruning = attach(
            chosen, pl_module, self.update, names=self.names, hold=self.hold, state=self._saved or None
        )
        self._saved = None

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Mask gradients, which the trainer clips next."""
        if self.pruning is not None and getattr(optimizer, "optimizer", optimizer) is self.pruning.optimizer:
            self.pruning.mask_grads()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the optimizer go; masks stay."""
        if self.pruning is not None:
            self.pruning.remove()

    def state_dict(self) -> dict[str, Any]:
        """What the trainer's checkpoints hold."""
        return {} if self.pruning is None else self.pruning.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a state until the optimizer exists."""
        self._saved = state_dict
