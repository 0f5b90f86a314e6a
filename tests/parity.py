"""Two pruning libraries side by side: the same calls on equal networks, and all that a user can observe compared.

`check(seed, kind, function, library)` is the whole of it: it draws a small network and one to four calls, runs them on
torch.nn.utils.prune and on the library, each on its own copy under equal generator seeds, and compares after every call
and after `remove`. A failure says what differs, and the calls as code that can be pasted.

The original cannot be followed where it corrupts the module (a second call on a tensor that raises): there the sequence
stops, once the library is seen to have left its own module as it was.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from math import inf, nan
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.utils.prune as theirs
from parity_calls import FUNCTIONS, Call, draw, network, pairs
from torch import Tensor, nn

INPUTS: dict[str, tuple[Tensor, ...]] = {
    "Linear": (torch.linspace(-1, 1, 18).view(3, 6),),
    "Conv1d": (torch.linspace(-1, 1, 64).view(2, 4, 8),),
    "Conv2d": (torch.linspace(-1, 1, 150).view(2, 3, 5, 5),),
    "Conv3d": (torch.linspace(-1, 1, 54).view(1, 2, 3, 3, 3),),
    "ConvTranspose1d": (torch.linspace(-1, 1, 40).view(2, 4, 5),),
    "ConvTranspose2d": (torch.linspace(-1, 1, 48).view(1, 3, 4, 4),),
    "ConvTranspose3d": (torch.linspace(-1, 1, 16).view(1, 2, 2, 2, 2),),
    "Embedding": (torch.arange(7),),
    "LSTM": (torch.linspace(-1, 1, 24).view(3, 2, 4),),
    "Bilinear": (torch.linspace(-1, 1, 6).view(2, 3), torch.linspace(1, 2, 8).view(2, 4)),
}


def outputs(net: nn.ModuleDict) -> list[Tensor]:
    """What each module makes of its input."""
    results = []
    for module in net.values():
        dtype = next(module.parameters()).dtype
        result = module(*(x.to(dtype) if x.is_floating_point() else x for x in INPUTS[type(module).__name__]))
        results.append(result[0] if isinstance(result, tuple) else result)
    return results


def train(net: nn.ModuleDict) -> None:
    """One step of gradient descent; the forward pass after it is what refreshes the original's pruned tensors."""
    sum(y.square().mean() for y in outputs(net)).backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.1 * p.grad
            p.grad = None
    outputs(net)


def step(net: nn.ModuleDict) -> None:
    """One step of an optimizer with momentum and decay."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    sum(y.square().mean() for y in outputs(net)).backward()
    optimizer.step()
    optimizer.zero_grad()
    outputs(net)


def reload(net: nn.ModuleDict) -> None:
    """Save, lose all values, and load."""
    saved = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    net.load_state_dict(saved)
    outputs(net)


def renew(net: nn.ModuleDict) -> None:
    """Put a copy in each module's place: the original has to be without a graph for it."""
    with torch.no_grad():
        outputs(net)
    for key, module in net.items():
        net[key] = copy.deepcopy(module)
    outputs(net)


WITHOUT_PRUNING = {each.__name__: each for each in (train, step, reload, renew)}


def contained(prune: ModuleType, methods: list[Any], scores: Tensor, mask: Tensor) -> Any:
    """The mask that a container of methods makes by its last one."""
    for method in methods:
        method._tensor_name = "weight"
    container = prune.PruningContainer(methods[0])
    for method in methods[1:]:
        container.add_pruning_method(method)
    kept = container.compute_mask(scores, mask)
    return kept.dtype, kept.tolist()


# ---- observing -------------------------------------------------------------------------------------------------------


def observe(net: nn.ModuleDict, prune: ModuleType) -> dict[str, Any]:
    """All that a user can see, but for the order of parameters and of hooks, which the original scrambles."""
    seen: dict[str, Any] = {f"state_dict()[{k!r}]": v for k, v in net.state_dict().items()}
    seen["parameters"] = sorted((k, p.requires_grad) for k, p in net.named_parameters())
    seen["buffers"] = sorted((k, b.requires_grad) for k, b in net.named_buffers())
    for key, name in pairs(net):
        t = getattr(net[key], name)
        seen[f"{key}.{name}"] = t.detach()
        seen[f"{key}.{name} is"] = {
            "Parameter": isinstance(t, nn.Parameter),
            "grad": t.requires_grad,
            "leaf": t.is_leaf,
        }
    for key, module in net.items():
        seen[f"hooks of {key}"] = sorted(map(described, module._forward_pre_hooks.values()), key=repr)
        seen[f"is_pruned({key})"] = prune.is_pruned(module)
        if isinstance(module, nn.RNNBase):
            seen[f"{key}._flat_weights"] = [isinstance(w, nn.Parameter) for w in module._flat_weights]
    seen["is_pruned"] = prune.is_pruned(net)
    return seen | {f"output {i}": y.detach() for i, y in enumerate(outputs(net))}


def gradients(net: nn.ModuleDict, prune: ModuleType) -> dict[str, Any]:
    """The gradients of a loss that is a function of all outputs."""
    named = dict(net.named_parameters())
    grads = torch.autograd.grad(sum(y.square().mean() for y in outputs(net)), list(named.values()))
    return {f"gradient of {k}": g for k, g in zip(named, grads)}


def described(hook: Any) -> tuple[Any, ...]:
    """A hook as its type, tensor, numbers and, if it is a container, what it contains."""
    numbers = {k: getattr(hook, k) for k in ("amount", "n", "dim") if hasattr(hook, k)}
    inside = [described(h) for h in hook] if hasattr(hook, "__len__") else None
    return type(hook).__name__, hook._tensor_name, repr(numbers), inside


def differences(expected: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """What differs, in words; no words for nothing."""
    words = []
    for k in sorted(expected.keys() | got.keys()):
        a, b = expected.get(k, "missing"), got.get(k, "missing")
        words += [] if same(a, b) else [f"{k}\n  theirs: {a}\n  ours:   {b}"]
    return words


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and a == b


# ---- running ---------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What a call returned or raised, and the state it left the random generator in."""

    value: Any
    error: Exception | None
    random_state: Tensor


def run(prune: ModuleType, net: nn.ModuleDict, code: str, seed: int) -> Outcome:
    """Run a line of code on a network."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also notes down the stack, for devices to come
    names = {
        "torch": torch,
        "inf": inf,
        "nan": nan,
        "prune": prune,
        "net": net,
        "contained": contained,
        **WITHOUT_PRUNING,
    }
    try:
        value, error = eval(code, names), None
    except Exception as raised:
        value, error = None, raised
    if isinstance(value, nn.Module):
        value = next(k for k, m in net.items() if m is value)
    elif hasattr(value, "_tensor_name"):
        value = described(value)
    return Outcome(value, error, torch.get_rng_state())


class Pair:
    """A network and its copy, one for each library, and the code that has been run on them."""

    def __init__(self, code: str, seed: int, library: ModuleType) -> None:
        torch.default_generator.manual_seed(seed)
        self.theirs: nn.ModuleDict = eval(code, {"nn": nn})
        self.ours = copy.deepcopy(self.theirs)
        self.library = library
        self.identities = self.parameters()
        self.lines = [f"torch.manual_seed({seed})", f"net = {code}"]

    def parameters(self) -> list[set[int]]:
        """The identities of the parameters of both."""
        return [{id(p) for p in net.parameters()} for net in (self.theirs, self.ours)]

    def fail(self, *words: str) -> None:
        imports = ["import torch", "from math import inf, nan", "from torch import nn"]
        imports += [
            "from parity import contained, reload, renew, step, train",
            "import torch.nn.utils.prune as prune",
            "",
        ]
        raise AssertionError("\n".join([*words, "", "To see it:", "", *imports, *self.lines]))

    def both(self, code: str, seed: int) -> bool:
        """Run the code on both; the outcomes must agree. Whether they raised."""
        self.lines.append(f"torch.manual_seed({seed}); {code}")
        a, b = run(theirs, self.theirs, code, seed), run(self.library, self.ours, code, seed)
        if (a.error is None) != (b.error is None):
            self.fail(f"theirs raises {a.error!r}, ours {b.error!r}")
        says = str(b.error).strip() or self.library.__file__ == theirs.__file__  # theirs of torch 2.6 may say nothing
        if a.error is not None and not (isinstance(b.error, type(a.error)) and says):
            self.fail(f"theirs raises {a.error!r}, ours another error or one that says nothing: {b.error!r}")
        if a.value != b.value:
            self.fail(f"theirs returns {a.value}, ours {b.value}")
        if a.error is None and not torch.equal(a.random_state, b.random_state):
            self.fail("the random generator is left in different states")
        return a.error is not None

    def compare(self, observed: Callable[[nn.ModuleDict, ModuleType], dict[str, Any]] = observe) -> dict[str, Any]:
        """Observe both, which must agree; what is observed."""
        expected, got = observed(self.theirs, theirs), observed(self.ours, self.library)
        words = differences(expected, got)
        if words:
            self.fail(*words)
        return got

    def compare_numbers(self, key: str, name: str, dim: int | None) -> None:
        """Among ties anyone may die: compare how many entries, or channels along `dim`, are left."""
        alive = [getattr(net[key], f"{name}_mask", torch.ones(1)) != 0 for net in (self.theirs, self.ours)]
        if dim is not None and alive[0].dim() > 1:
            alive = [mask.movedim(dim, 0).flatten(1).any(1) for mask in alive]
        a, b = (int(mask.sum()) for mask in alive)
        if a != b:
            self.fail(f"theirs leaves {a} of {key}.{name} alive, ours {b}")


def check(seed: int, kind: str, function: str, library: ModuleType, *, all_or_nothing: bool = True) -> int:
    """Draw a sequence that begins with a function on a kind of module, and compare; the number of calls made.

    With `all_or_nothing` a call that raises must leave the library's module as it was.
    """
    rng = random.Random(f"{kind} {function} {seed}")
    pair = Pair(network(rng, kind), rng.randrange(1000), library)
    before = pair.compare()
    rest = rng.choices([*FUNCTIONS, "remove", "contain", *WITHOUT_PRUNING], k=rng.randint(0, 3))
    for i, each in enumerate([function, *rest], 1):
        call = Call(f"{each}(net)") if each in WITHOUT_PRUNING else draw(rng, pair.theirs, each)
        if pair.both(call.code, rng.randrange(1000)):
            unchanged = differences(before, observe(pair.ours, library))
            if unchanged and all_or_nothing:
                pair.fail("ours (now shown as theirs before the call) is changed by a call that raised", *unchanged)
            if differences(before, observe(pair.theirs, theirs)):
                return i
            continue
        if call.tied:
            pair.compare_numbers(*call.tied)
            return i
        before = pair.compare()
        if each == "renew":
            pair.identities = pair.parameters()
    pair.compare(gradients)
    remove_all(pair)
    return i


def remove_all(pair: Pair) -> None:
    """Remove all pruning, comparing on the way; the parameters are the objects from before."""
    for key, name in pairs(pair.theirs):
        if hasattr(pair.theirs[key], f"{name}_mask"):
            pair.both(f'prune.remove(net["{key}"], "{name}")', 0)
            pair.compare()
    if pair.parameters() != pair.identities:
        pair.fail("the parameters are not the objects they were")
