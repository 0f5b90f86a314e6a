"""What all pruning methods share: how one is applied to a module, and what it gets to see of the tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read
from masklib._shards._parts import on_part
from masklib.masking import as_bits

from .._module import state
from .._module.computed import install
from .._module.held import HELD, note
from .._module.sites import sites_of
from .._module.values import checked_mask, scores_for
from ._amounts import _validate_pruning_dim, _validate_structured_pruning
from ._record import Record
from ._step import prune_sites


class BasePruningMethod(ABC):
    """A way to prune a tensor of a module; subclass it with `PRUNING_TYPE` and `compute_mask(self, t, default_mask)`.

    From the second call on a tensor, `compute_mask` receives what its `PRUNING_TYPE` says: the live entries
    ("unstructured", a flat tensor), the live channels along `self.dim` ("structured"), or all of it ("global").
    """

    _tensor_name: str
    _record: Record
    _seen: state.Seen
    PRUNING_TYPE: str

    def __call__(self, module: nn.Module, inputs: Any) -> None:  # noqa: B027
        """Do nothing: the hook is the record of what was done, the tensor is computed when it is read."""

    @property
    def __name__(self) -> str:
        """What torch.jit.script asks of a hook first: pruned modules cannot be scripted."""
        raise AttributeError("a pruned module cannot be scripted: torch.jit.script(prune.bake(module)) can")

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Compute the mask of `t`, starting from `default_mask`.

        Args:
            t: importance scores of any shape, higher = more important.
            default_mask: 0/1 mask of the same shape, what is alive now.

        Returns:
            A 0/1 mask of the same shape; it can only remove.
        """

    def apply_mask(self, module: nn.Module) -> Tensor:
        """Compute the pruned tensor from what the module holds now: where(mask, orig, 0).

        Args:
            module: the pruned module.

        Returns:
            A tensor of the parameter's shape; its gradient flows to `name_orig` where the mask is 1.
        """
        name = self._pruned_name(module)
        mask = getattr(module, f"{name}_mask")
        if not torch.compiler.is_compiling():
            self._seen.look(mask, module, name)
        return state.effective(getattr(module, f"{name}_orig"), mask, module.__dict__.get("sparse") is True)

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        name: str,
        *args: Any,
        importance_scores: Tensor | None = None,
        root: nn.Module | None = None,
        **kwargs: Any,
    ) -> BasePruningMethod:
        """Prune the parameter `name` of a module by this method.

        Args:
            module: the module that holds the parameter.
            name: the parameter's name in it.
            args, kwargs: what the method's constructor takes.
            importance_scores: scores of the parameter's shape; the parameter under its mask if None.
            root: a module in which to look for other names of the same (tied) parameter, pruned along with it.

        Returns:
            The hook: this method, or the `PruningContainer` of all methods so far.

        Raises:
            TypeError, ValueError, AttributeError, IndexError: if an argument does not fit; nothing is changed then.
        """
        return prune_sites(sites_of(module, name, root), lambda: cls(*args, **kwargs), importance_scores)

    def prune(self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None) -> Tensor:
        """Prune a tensor without a module: zero what `compute_mask` kills.

        Args:
            t: the tensor.
            default_mask: 0/1 mask of its shape; None for all ones.
            importance_scores: scores of its shape; the tensor itself if None.

        Returns:
            where(mask, t, 0), a new tensor.

        Raises:
            TypeError: if one of the three is no dense tensor.
            ValueError: if the scores or the mask are not of the tensor's shape, or the mask not of 0 and 1.

        >>> L1Unstructured(amount=1).prune(torch.tensor([2.0, -1.0]))
        tensor([2., 0.])
        """
        _read.is_dense(t, "", "t")
        scores = scores_for(t, importance_scores, "tensor t")
        if default_mask is not None:
            checked_mask(default_mask, t, None, "`t`")
        start = torch.ones_like(t) if default_mask is None else default_mask
        return state.effective(t, self.compute_mask(scores, default_mask=start))

    def remove(self, module: nn.Module) -> None:
        """Make the pruning of a module permanent; the function `remove` also takes the hook away.

        The parameter keeps its identity, its storage and its place among the module's parameters.

        Args:
            module: the pruned module.
        """
        name = self._pruned_name(module)
        with torch.no_grad():
            param = state.parameter(module, name)
            pruned = self.apply_mask(module)
            if HELD in module.__dict__:
                note(module, name, param, state.mask_of(module, name))
            state.leave(module, name)
            on_part(Tensor.copy_, param, pruned)

    def on_living(self, t: Tensor, mask: Tensor) -> Tensor:
        """Compute the mask on what is alive, as `PRUNING_TYPE` says, and combine it with `mask`.

        Args:
            t: importance scores.
            mask: 0/1 mask of the same shape.

        Returns:
            The new mask, of the scores' dtype.

        Raises:
            TypeError, ValueError: if `compute_mask` returns no 0/1 mask of the shape it was given.
        """
        new = mask.to(t.dtype, copy=True)
        living = _living(self, t, mask)
        seen, before = (as_bits(each)[living].view(each.dtype) for each in (t, mask))
        kept = checked_mask(
            self.compute_mask(seen, default_mask=before), seen, None, f"what {type(self).__name__} sees"
        )
        as_bits(new)[living] = as_bits(kept.to(new.dtype))
        return new

    def history(self) -> tuple[Callable[..., Tensor], ...]:
        """What was done, as a history of the core.

        `masklib.fold(hook.history(), module.weight_orig)` gives the module's mask as long as the weights have not
        changed in between. Steps that the weights do not determine come back as the mask of what they removed.

        Returns:
            One step `(scores, default_mask) -> mask` for each pruning call.
        """
        return self._record.history()

    def snapshot(self) -> Callable[[], None]:
        """What puts the method and its record back to how they are now."""
        state, put_record_back = dict(self.__dict__), self._record.snapshot()

        def put_back() -> None:
            self.__dict__.clear()
            self.__dict__.update(state)
            put_record_back()

        return put_back

    def followed_by(self, method: BasePruningMethod) -> PruningContainer:
        """What acts on the tensor when another method follows this one: a container of both."""
        return PruningContainer(self, method)

    def recorded(self, record: Record) -> None:  # noqa: B027
        """Hear that what the method did is on record: it may drop what it holds."""

    def _pruned_name(self, module: nn.Module) -> str:
        name = getattr(self, "_tensor_name", None)
        if name is None:
            raise AssertionError(f"Module {module} has to be pruned")
        return name

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_owner" in state:
            install(state["_owner"], state["_tensor_name"])


def _living(method: BasePruningMethod, t: Tensor, mask: Tensor) -> Any:
    """The index of what a method works on."""
    if method.PRUNING_TYPE == "unstructured":
        return mask == 1
    if method.PRUNING_TYPE == "global":
        return (slice(None),) * t.dim()
    if method.PRUNING_TYPE != "structured":
        raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE!r}: use unstructured, structured or global.")
    if not hasattr(method, "dim"):
        raise AttributeError('Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim` defined.')
    _validate_structured_pruning(t)
    _validate_pruning_dim(t, method.dim)
    dim, index = method.dim % t.dim(), [slice(None)] * t.dim()  # type: tuple[int, list[Any]]
    index[dim] = mask.sum(dim=[d for d in range(t.dim()) if d != dim]) != 0
    return tuple(index)


class PruningContainer(BasePruningMethod):
    """The methods that have pruned one tensor, in order.

    Args:
        args: methods, or one iterable of them.

    >>> m = nn.Linear(4, 4)
    >>> hook = [L1Unstructured.apply(m, "weight", amount) for amount in (2, 3)][-1]
    >>> len(hook), hook[1].amount
    (2, 3)
    """

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[Any, ...] = ()
        single = len(args) == 1 and _read.iterates(args[0]) and not isinstance(args[0], BasePruningMethod)
        methods = tuple(args[0]) if single else args
        if methods:
            self._tensor_name = methods[0]._tensor_name
        for method in methods:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod | None) -> None:
        """Append a method that acts on the same tensor.

        Args:
            method: the method; None is ignored but for its place.

        Raises:
            TypeError: if it is not a method.
            ValueError: if it acts on another tensor.
        """
        if method is not None and not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if method is not None and self._tensor_name != method._tensor_name:
            raise ValueError(
                "Can only add pruning methods acting on the parameter named "
                f"{self._tensor_name!r} to PruningContainer {self}. Found {method._tensor_name!r}"
            )
        self._pruning_methods += (method,)

    def followed_by(self, method: BasePruningMethod) -> PruningContainer:
        """The container itself, with one method more."""
        self.add_pruning_method(method)
        return self

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Apply the latest method to what is alive, and combine the result with `default_mask`.

        Args:
            t: importance scores of any shape.
            default_mask: 0/1 mask of the same shape; not written to.

        Returns:
            The new mask, of the scores' dtype.
        """
        return self._pruning_methods[-1].on_living(t, default_mask)
