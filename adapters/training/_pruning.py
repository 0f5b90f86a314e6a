"""Masks that an update changes while an optimizer trains a model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from masklib import _read, updates
from masklib.updates import Update

from .._module.probing import keeps_zeros
from .._module.stepping import around_steps, local, same_shape, scale_of, zero_dead
from . import _early, _place, _saved
from ._hold import freeze, zero
from ._names import plain_model
from ._report import Report, report

active: weakref.WeakSet[Pruning] = weakref.WeakSet()  # what listens to an optimizer


class Pruning:
    """What `attach` returns; it may also be used in a `with` statement, and copied or pickled with its optimizer.

    Attributes:
        masks: bool, by dotted name, True = kept. A new mapping after each update.
        step: how many steps have moved the model.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        update: Update,
        params: dict[str, nn.Parameter],
        hold: Callable[..., None],
        state: Mapping[str, Any] | None,
    ) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.model, self.update, self._params, self._hold = model, update, params, hold
        self._paths = _place.paths(params)
        self.step = 0
        self.masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in params.items()}
        self._pruned: set[str] = set()  # whose masks kill anything; the others cost nothing
        self._values: dict[str, Tensor] = {}  # by name, what dead entries are behind the mask or are held at
        self._first = _saved.everything(model) if update.rewind is not None else {}
        self._seen: Any = None  # what `observe` gathered, and what it will be once the step under way is done
        self._next: Any = None
        self._dense: dict[str, Tensor] | None = None  # gradients, kept for an update that is due after the step
        self._is_ready = False
        self._masked: list[Any] = []  # the gradients that `mask_grads` has masked, weakly
        self._zeros_last = False  # whether the step under way finds zeros and will leave them, so that a pass is saved
        self._left_alone = hold is zero and not update.straight_through and keeps_zeros(optimizer, params)
        self._versions: list[tuple[int, ...]] = []  # of all that was zeroed, as it was left after the last step
        self._before: list[tuple[Tensor, Tensor, int]] = []  # tensors as they were when step 0 pruned them
        if update.straight_through or hold is not zero:
            self._values = {name: p.detach().clone() for name, p in params.items()}
        if state is None:
            self._begin()
        else:
            self.load_state_dict(state)
        self._listen()

    # ---- what a user reads ----

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that is listened to."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise ValueError("the optimizer of this pruning is gone: keep it alive, or attach to another one.")
        return optimizer

    def report(self) -> Report:
        """Count what lives by name, and name what has no mask."""
        gone = self._optimizer() is None
        ended = "its optimizer is gone, attach to the new one" if gone else "" if self in active else "removed"
        return report(self.step, self.model, self.masks, ended)

    def remove(self) -> None:
        """End it: what is dead stays as it is until the next step moves it."""
        self._hooks.remove()
        active.discard(self)

    def impose(self, module: nn.Module) -> nn.Module:
        """Zero in another module of the same names, such as an average of this one, what is dead here."""
        others = dict(plain_model(module).named_parameters(remove_duplicate=False))
        _read.known_names(self.masks, others, "masks", "module")
        for name, mask in self.masks.items():
            _read.same_shape(mask, others[name], f"the mask of {name!r}", "the parameter of `module`")
        zero_dead(*((others[name], mask) for name, mask in self.masks.items()))
        return module

    @torch.no_grad()
    def mask_grads(self) -> None:
        """Zero the gradients of dead entries now, before they are clipped, rather than when the optimizer steps.

        Once a step, after its last backward: earlier, an update would not see the whole dense gradient.

        Raises:
            ValueError: if the update goes by gradients, and these have been masked before, without a step since.
        """
        update = self.update
        if self._is_ready and (update.needs_grads or update.observe or update.decay):
            _early.refuse_again(self._masked, self._params)
        self._mask_grads()
        self._is_ready, self._masked = True, _early.noted(self._params)

    def __enter__(self) -> Pruning:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    # ---- saving ----

    def state_dict(self) -> dict[str, Any]:
        """All that a run goes on from: copies of tensors, numbers, and the update in words."""
        return _saved.state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in whatever order the model and the optimizer are loaded."""
        checked = _saved.checked(self, state)
        for tensor, before, version in self._before:
            if tensor._version == version:  # nobody has loaded it since
                _copy(tensor, before)
        self._before = []
        _saved.restore(self, checked)
        self._hide()

    def __getstate__(self) -> dict[str, Any]:
        forgotten: dict[str, Any] = {"_hooks": None, "_dense": None, "_before": [], "_masked": []}
        return {**vars(self), "_optimizer": self.optimizer, **forgotten}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._optimizer = weakref.ref(state["_optimizer"])
        self._listen()

    # ---- around a step ----

    def _listen(self) -> None:
        self._hooks = around_steps(
            self.optimizer,
            reveal=self._reveal,
            conceal=self._conceal,
            ready=self._gradients_ready,
            after=self._after_step,
        )
        active.add(self)

    def _begin(self) -> None:
        """The update of step 0; a state that is loaded later finds the values from before."""
        if self._is_due(0):
            tensors = [t for p in self._params.values() for t in (p, *same_shape(self.optimizer, p))]
            copies = [t.detach().clone() for t in tensors]
            self._update(self._gradients() if any(p.grad is not None for p in self._params.values()) else None)
            self._before = [(t, copy, t._version) for t, copy in zip(tensors, copies)] if self._pruned else []

    @torch.no_grad()
    def _reveal(self) -> None:
        """Put back what dead entries are behind the mask, for the step to move."""
        _place.refuse_replaced(self.model, self._params, self.masks, self._paths)
        self._follow()
        self._zeros_last = self._left_alone and self._versions == self._versions_now()
        for name, param in self._dead() if self.update.straight_through else ():
            freeze(param, self.masks[name], self._values[name])

    def _follow(self) -> None:
        """Be where a model is that was moved after `attach`."""
        if any(mask.device != self._params[name].device for name, mask in self.masks.items()):
            self.masks = {name: mask.to(self._params[name].device) for name, mask in self.masks.items()}
            self._values = {name: value.to(self._params[name].device) for name, value in self._values.items()}

    def _conceal(self) -> None:
        """Note what the step has made of dead entries, and hide it."""
        for name, value in self._values.items() if self.update.straight_through else ():
            _copy(value, self._params[name])
        if not self._zeros_last:
            self._hide()

    def _hide(self) -> None:
        """Make dead entries, and the optimizer's state of them unless they learn, what they have to be."""
        dead = [(param, self.masks[name], name) for name, param in self._dead()]
        for param, mask, name in dead if self._hold is not zero else ():
            self._hold(param.detach(), mask, self._values[name])
        if self._hold is zero:
            zero_dead(*((param, mask) for param, mask, _ in dead))
        if not self.update.straight_through:
            zero_dead(*((state, mask) for param, mask, _ in dead for state in same_shape(self.optimizer, param)))

    def _mask_grads(self) -> None:
        self._before = []
        self._gather()
        self._decay()
        self._zero_grads()

    @torch.no_grad()
    def _gradients_ready(self) -> None:
        """Let the evidence see dense gradients, once a step, and the step those of the masked model."""
        if self._is_ready:
            self._zero_grads(tell=self._dense is not None or self._next is not None)
        else:
            self._mask_grads()
        self._is_ready = False

    def _zero_grads(self, tell: bool = False) -> None:
        dead = [] if self.update.straight_through else list(self._dead())
        grads = [(param.grad, self.masks[name]) for name, param in dead if param.grad is not None]
        if any(grad.is_sparse for grad, _ in grads):
            self._zeros_last = False
        whole = [(grad, mask) for grad, mask in grads if not grad.is_sparse]
        if tell:
            _early.tell_later(whole)
        zero_dead(*whole)

    def _gather(self) -> None:
        if self.update.observe is not None:
            self._next = self.update.observe(self._seen, self._detached(), self._gradients())
        elif self.update.needs_grads and self._is_due(self.step + 1):
            self._dense = {name: grad.clone() for name, grad in self._gradients().items()}

    def _decay(self) -> None:
        """Pull what is dead towards zero, by way of its gradient."""
        scale, values = scale_of(self.optimizer), self._detached()
        factor = self.update.decay if scale is None else self.update.decay * scale
        for name, param in self._dead() if self.update.decay else ():
            if param.grad is not None:
                _copy(param.grad, updates.decayed(param.grad, values[name], self.masks[name], factor))

    def _after_step(self) -> None:
        self.step += 1
        self._seen, self._next = self._next, None
        self._conceal()
        if self.step == self.update.rewind:
            self._first = _saved.everything(self.model)
        if self._is_due(self.step):
            self._update(self._dense)
        self._dense = None
        self._versions = self._versions_now()

    def _versions_now(self) -> list[tuple[int, ...]]:
        """What changes if anybody writes into dead entries between two steps, or the optimizer loads a state."""
        if not self._left_alone:
            return []
        tensors = [t for _, param in self._dead() for t in (param, *same_shape(self.optimizer, param))]
        return [(id(tensor), tensor._version, tensor.data_ptr()) for tensor in tensors]

    # ---- an update ----

    def _is_due(self, step: int) -> bool:
        return self.update.due is None or bool(self.update.due(step))

    @torch.no_grad()
    def _update(self, grads: Any) -> None:
        """Change the masks; nothing is changed if what the update returns does not fit."""
        if self.update.rewind is not None:
            _place.refuse_others(self.model, self._first)
        evidence = self._seen if self.update.observe is not None else grads if self.update.needs_grads else None
        params = self._detached()
        masks = _read.masks(self.update(self.step, params, dict(self.masks), evidence), params, "update(...)", "params")
        self._take(masks)
        if self.update.rewind is not None:
            _saved.rewind(self)
        for name, value in self._values.items():  # what lives again comes back; what dies is held as it is
            parts = (self._params[name], value)
            _copy(*parts if self.update.straight_through else reversed(parts))
        self._hide()

    def _take(self, masks: Mapping[str, Tensor]) -> None:
        """Hold masks in the layout of their parameters, and know which of them kill anything."""
        self.masks = {n: torch.empty_like(p, dtype=torch.bool).copy_(masks[n]) for n, p in self._params.items()}
        self._pruned = {name for name, mask in self.masks.items() if not bool(local(mask).all())}

    # ---- views ----

    def _dead(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, self._params[name]) for name in self._params if name in self._pruned)

    def _detached(self) -> dict[str, Tensor]:
        """The weights that an update sees: behind the mask, if they go on learning there."""
        if self.update.straight_through:
            return dict(self._values)
        return {name: p.detach() for name, p in self._params.items()}

    def _gradients(self) -> dict[str, Tensor]:
        """Dense gradients without the factor of a GradScaler; no gradient is one of zero."""
        scale = scale_of(self.optimizer)
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.detach() for n, p in self._params.items()}
        whole = {n: grad.to_dense() if grad.is_sparse else grad for n, grad in grads.items()}
        return whole if scale is None else {n: grad / scale for n, grad in whole.items()}


@torch.no_grad()
def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)
