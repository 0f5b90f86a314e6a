"""What the laws of adapters work on: a module, the calls made on it as data, and what can be seen of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

UNSTRUCTURED = ("l1_unstructured", "random_unstructured", "global_unstructured")
STRUCTURED = ("ln_structured", "random_structured")
NOISY = ("random_unstructured", "random_structured", "RandomUnstructured")

# ---- calls as data --------------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """An argument that is made from the subject, and how it prints."""

    text: str
    make: Callable[[Subject], Any]

    def __repr__(self) -> str:
        return self.text


class Call(NamedTuple):
    """A function of the adapter, and its arguments after the module and the name."""

    function: str
    arguments: dict[str, Any]

    @property
    def noisy(self) -> bool:
        """Whether chance decides."""
        return self.function in NOISY or "RandomUnstructured" in self.arguments.values()


class Case(NamedTuple):
    """Which module a law is about, in which dtype, and the calls to make on it."""

    host: str
    dtype: torch.dtype
    calls: tuple[Call, ...]
    seed: int


def every(n: int) -> Made:
    """The mask of all but each n-th entry, in the parameter's dtype."""
    return Made(f"index % {n} > 0", lambda s: checkered(s.parameter, n))


def checkered(like: Tensor, n: int = 3) -> Tensor:
    """Zeros at each n-th entry, else ones, of a tensor's shape and dtype."""
    return (torch.arange(like.numel()) % n > 0).view(like.shape).to(like.dtype)


def dying(alive: int, amount: float) -> int:
    """How many of so many go: an int is that many, a float in [0, 1] that share, rounded half to even."""
    return amount if isinstance(amount, int) else round(amount * alive)


# ---- what is drawn --------------------------------------------------------------------------------------------------


def _lines(*shape: int) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: torch.linspace(-1, 2, torch.Size(shape).numel()).view(shape).to(dtype)


HOSTS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[torch.dtype], Tensor]]] = {
    "Linear(4, 6)": (lambda: nn.Linear(4, 6), "weight", _lines(2, 4)),
    "Linear(4, 12)": (lambda: nn.Linear(4, 12), "bias", _lines(2, 4)),
    "Conv1d(4, 4, 2)": (lambda: nn.Conv1d(4, 4, 2), "weight", _lines(2, 4, 3)),
    "Embedding(6, 4)": (lambda: nn.Embedding(6, 4), "weight", lambda _: torch.arange(6)),
    "LSTM(3, 4)": (lambda: nn.LSTM(3, 4), "weight_hh_l0", _lines(4, 1, 3)),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


@cache
def calls(dims: int) -> st.SearchStrategy[Call]:
    """Any call that prunes a parameter of so many dims; three of them in a row fit every host."""
    amount = {"amount": st.sampled_from([0.5, 1, 0.3, 0])}
    flat = [
        _call("identity", {}),
        _call("l1_unstructured", amount),
        _call("random_unstructured", amount),
        _call("custom_from_mask", {"mask": st.sampled_from([3, 5, 7]).map(every)}),
        _call("global_unstructured", _POOLED | amount),
    ]
    channels = amount | {"dim": st.sampled_from([0, 1, -1])}
    norm = {"n": st.sampled_from([2, 1, float("inf")])}
    whole = [_call("ln_structured", channels | norm), _call("random_structured", channels)]
    return st.one_of(flat if dims < 2 else flat + whole)


_POOLED = {"pruning_method": st.sampled_from(["L1Unstructured", "RandomUnstructured"])}


def _call(function: str, arguments: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Call]:
    return st.fixed_dictionaries(arguments).map(lambda given: Call(function, given))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A module, a dtype, and one to three calls on one of its parameters."""
    host = draw(st.sampled_from(list(HOSTS)))
    dims = 1 if HOSTS[host][1] == "bias" else 2
    drawn = draw(st.lists(calls(dims), min_size=1, max_size=3))
    return Case(host, draw(st.sampled_from(DTYPES)), tuple(drawn), draw(st.integers(0, 99)))


# ---- the subject ----------------------------------------------------------------------------------------------------


class Subject:
    """A module under an adapter, and all that was called on it, in words.

    Args:
        prune: what has the names of torch.nn.utils.prune.
        case: the module, and the calls that `begin` makes on it.
    """

    module: nn.Module
    said: list[str]

    def __init__(self, prune: Any, case: Case) -> None:
        self.prune, self.case = prune, case
        self.name = HOSTS[case.host][1]
        self.again()

    def again(self) -> None:
        """Begin anew: the module as it was built."""
        torch.default_generator.manual_seed(self.case.seed)
        self.module = self.fresh()
        self.said = [f"m = nn.{self.case.host}.to({self.case.dtype})"]

    def fresh(self) -> nn.Module:
        """Build another such module, of other values."""
        return HOSTS[self.case.host][0]().to(self.case.dtype)

    def do(self, text: str, action: Callable[[], Any]) -> Any:
        """Do something to the module, and write it down first."""
        self.said.append(text)
        return action()

    def call(self, call: Call, module: nn.Module | None = None) -> Any:
        """Make a call, on the module unless another is given."""
        function, arguments = call
        m = self.module if module is None else module
        given = {k: self._given(k, v) for k, v in arguments.items()}
        pooled = function == "global_unstructured"
        where = f"[(m, {self.name!r})]" if pooled else f"m, {self.name!r}"
        text = f"{function}({', '.join([where, *(f'{k}={v!r}' for k, v in arguments.items())])})"
        target = ([(m, self.name)],) if pooled else (m, self.name)
        return self.do(text, lambda: getattr(self.prune, function)(*target, **given))

    def _given(self, argument: str, value: Any) -> Any:
        if isinstance(value, Made):
            return value.make(self)
        return getattr(self.prune, value) if argument == "pruning_method" else value

    def begin(self) -> None:
        """Make all calls of the case."""
        for call in self.case.calls:
            self.call(call)

    def remove(self) -> None:
        """Make the pruning permanent."""
        self.call(Call("remove", {}))

    def rewind(self) -> None:
        """Other values in the parameter, no two of the same magnitude, written in place as a step does."""
        count = self.parameter.numel()
        values = (torch.randperm(count) + 1) * torch.where(torch.rand(count) < 0.5, -1, 1)
        self.do("new values in m's parameter", lambda: fill(self.parameter, values))

    def step(self) -> None:
        """Train for one step."""
        optimizer = torch.optim.SGD(self.module.parameters(), lr=1.0)
        self.do("m(x).sum().backward()", lambda: self.forward().sum().backward())
        self.do("SGD step", optimizer.step)

    def forward(self, module: nn.Module | None = None) -> Tensor:
        """What a module says, this one unless another is given."""
        inputs = HOSTS[self.case.host][2](next(self.module.parameters()).dtype)
        out = (self.module if module is None else module)(inputs)
        return out[0] if isinstance(out, tuple) else out

    @property
    def pruned(self) -> bool:
        """Whether the module has the parameter in its pruned form."""
        return f"{self.name}_orig" in self.module._parameters

    @property
    def parameter(self) -> Tensor:
        """The parameter, pruned or not."""
        return getattr(self.module, f"{self.name}_orig" if self.pruned else self.name)

    @property
    def mask(self) -> Tensor:
        """Who is alive, as bool."""
        return alive(self.module, self.name) if self.pruned else torch.ones_like(self.parameter, dtype=torch.bool)

    @property
    def effective(self) -> Tensor:
        """where(mask, parameter, 0)."""
        return torch.where(self.mask, self.parameter, 0).detach()

    @property
    def read(self) -> Tensor:
        """What stands under the parameter's name."""
        return getattr(self.module, self.name)

    def seen(self) -> tuple[Any, ...]:
        """All there is to see of the module and of the random state, by value and by identity."""
        tables = [*self.module._parameters.items(), *self.module._buffers.items()]
        return (
            [(n, id(t), None if t is None else (t.requires_grad, t.tolist())) for n, t in tables],
            [
                (k, id(h), _length(h), sorted(getattr(h, "__dict__", ())))
                for k, h in self.module._forward_pre_hooks.items()
            ],
            (type(self.module), {k: _values(v) for k, v in sorted(vars(self.module).items())}),
            {n: t.tolist() for n, t in self.module.state_dict().items()},
            self.read.tolist(),
            torch.get_rng_state().tolist(),
        )


def _values(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else None


def _length(hook: Any) -> int:
    return len(hook) if hasattr(hook, "__len__") else 0


def alive(module: nn.Module, name: str) -> Tensor:
    """Who is alive of a pruned parameter, as bool."""
    return getattr(module, f"{name}_mask") != 0


def fill(tensor: Tensor, values: Any) -> None:
    """Write values into a parameter."""
    with torch.no_grad():
        tensor.copy_(torch.as_tensor(values).view_as(tensor))
