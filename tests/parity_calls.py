"""Random pruning calls as code that can be pasted: what the parity tests run on two libraries.

`draw(rng, net, function)` gives a call of a function on a network; `prune` and `net` are its free names. A call makes
one mistake at most, so that both libraries must raise for the same reason. Scores and weights have no ties that the
result could depend on, but where ties are meant.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf, nan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

KINDS = {
    "Linear": "nn.Linear(6, 5)",
    "Conv1d": "nn.Conv1d(4, 6, 3)",
    "Conv2d": "nn.Conv2d(3, 5, 2)",
    "Conv3d": "nn.Conv3d(2, 3, 2)",
    "ConvTranspose1d": "nn.ConvTranspose1d(4, 3, 2)",
    "ConvTranspose2d": "nn.ConvTranspose2d(3, 4, 2)",
    "ConvTranspose3d": "nn.ConvTranspose3d(2, 3, 2)",
    "Embedding": "nn.Embedding(7, 5)",
    "LSTM": "nn.LSTM(4, 3)",
    "Bilinear": "nn.Bilinear(3, 4, 5)",
}
FUNCTIONS = (
    "identity",
    "random_unstructured",
    "l1_unstructured",
    "random_structured",
    "ln_structured",
    "custom_from_mask",
    "global_unstructured",
)
AMOUNTS = (0, 1, 2, 3, 0.0, 0.1, 0.25, 0.3, 0.5, 0.77, 1.0)
BAD_AMOUNTS = (1000, -1, 1.5, -0.1, nan, "half", None)
NORMS = (1, 2, 3, 0.5, inf, -inf, "fro")


class Call(NamedTuple):
    """A call as code, and what is known of it.

    Attributes:
        code: the call, with `prune` and `net` as free names.
        ranked: the values that it ranks in a network, all of them different; None if it ranks nothing.
        tied: the module's key, the parameter's name and the dim of the items of a call that ranks many equal scores.
    """

    code: str
    ranked: Callable[[nn.ModuleDict], Tensor] | None = None
    tied: tuple[str, str, int | None] | None = None


def network(rng: random.Random, kind: str) -> str:
    """Code for a network of a module of the given kind and perhaps one more."""
    kinds = [kind, *rng.choices(list(KINDS), k=rng.choice([0, 0, 1]))]
    net = "nn.ModuleDict({" + ", ".join(f'"{key}": {KINDS[k]}' for key, k in zip("ab", kinds)) + "})"
    return net + (".double()" if rng.random() < 0.15 else "")


def pairs(net: nn.ModuleDict) -> list[tuple[str, str]]:
    """The parameters as (module, name), by the names they have when they are not pruned."""
    return [(k, n.removesuffix("_orig")) for k, m in net.items() for n, _ in sorted(m.named_parameters())]


def draw(rng: random.Random, net: nn.ModuleDict, function: str) -> Call:
    """A call of a function of the library, or `remove`, that ties leave no doubt about unless they are meant."""
    for _ in range(50):
        call = DRAWN[function](rng, net) if function in DRAWN else _local(rng, net, function)
        if call.ranked is None or call.tied or not _ties(call.ranked(net)):
            return call
    return Call("prune.is_pruned(net)")


def _local(rng: random.Random, net: nn.ModuleDict, function: str) -> Call:
    key, name = _site(rng, net, structured=function in ("random_structured", "ln_structured"))
    t = getattr(net[key], name)
    mistake = rng.choices(["", "name", "amount", "dim", "shape"], [86, 2, 6, 3, 3])[0]
    amount = repr(rng.choice(BAD_AMOUNTS if mistake == "amount" else AMOUNTS))
    dim = rng.choice([t.dim(), -t.dim() - 1] if mistake == "dim" and t.dim() > 1 else range(-t.dim(), t.dim()))
    where = f'net["{key}"], "{"missing" if mistake == "name" else name}"'
    begin = f"prune.{function}({where}"
    if function != "remove" and rng.random() < 0.2:
        begin = f"prune.{''.join(word.title() for word in function.split('_'))}.apply({where}"
    if function in ("identity", "remove"):
        return Call(f"{begin})")
    if function == "custom_from_mask":
        return Call(f"{begin}, mask={_mask(rng, t)}{'[..., None]' if mistake == 'shape' else ''})")
    if function == "random_unstructured":
        return Call(f"{begin}, {amount})")
    if function == "random_structured":
        return Call(f"{begin}, {amount}, {rng.choice(['', 'dim='])}{dim})")
    given, tied = _scores(rng, t, wrong=mistake == "shape")
    if function == "l1_unstructured":
        ranked = None if mistake else _magnitudes(key, name, given)
        return Call(
            f"{begin}, amount={amount}, importance_scores={given})", ranked, (key, name, None) if tied else None
        )
    # The original takes the Frobenius norm of slices with at most two dims, and raises for others.
    n = rng.choice(NORMS if t.dim() <= 3 else NORMS[:-1])
    form = rng.choice(["{}, {!r}, {}, {}", "amount={}, n={!r}, dim={}, importance_scores={}"])
    ranked = None if mistake or t.dim() == 1 else _norms(key, name, given, n, dim)
    return Call(f"{begin}, {form.format(amount, n, dim, given)})", ranked, (key, name, dim) if tied else None)


def _contain(rng: random.Random, net: nn.ModuleDict) -> Call:
    """What a container of one's own computes for scores, without a module."""
    key, name = rng.choice(pairs(net))
    t = getattr(net[key], name).detach()
    numbers = [rng.choice((0, 1, 2, 0.25, 0.5)) for _ in range(rng.randint(1, 3))]
    methods = [f"prune.{rng.choice(('L1', 'Random'))}Unstructured({number})" for number in numbers]
    return Call(f"contained(prune, [{', '.join(methods)}], {_noise(rng, t)}, {_mask(rng, t)})")


def _site(rng: random.Random, net: nn.ModuleDict, *, structured: bool) -> tuple[str, str]:
    """A parameter; for structured calls hardly ever a vector, and no vector that is pruned.

    The original takes such a vector for a matrix of one row, and prunes that.
    """
    vectors = [(k, n) for k, n in pairs(net) if getattr(net[k], n).dim() == 1]
    dense = [(k, n) for k, n in vectors if not hasattr(net[k], f"{n}_mask")]
    if structured and (rng.random() < 0.9 or not dense):
        return rng.choice([site for site in pairs(net) if site not in vectors])
    return rng.choice(dense if structured else pairs(net))


def _global(rng: random.Random, net: nn.ModuleDict) -> Call:
    chosen = rng.sample(pairs(net), rng.randint(1, len(pairs(net))))
    amount = rng.choice(BAD_AMOUNTS if rng.random() < 0.07 else AMOUNTS)
    given = {(k, n): _noise(rng, getattr(net[k], n)) for k, n in chosen if rng.random() < 0.3}
    several = {"L1Unstructured": 8, "RandomUnstructured": 5, "Identity": 1, "LnStructured": 1, "CustomFromMask": 1}
    method = rng.choices(list(several), list(several.values()))[0]
    kwargs = {"Identity": "", "LnStructured": ", amount=1, n=2", "CustomFromMask": ", mask=None"}
    sites = ", ".join(f'(net["{k}"], "{n}")' for k, n in chosen)
    by_site = ", ".join(f'(net["{k}"], "{n}"): {code}' for (k, n), code in given.items())
    code = f"prune.global_unstructured([{sites}], prune.{method}{kwargs.get(method, f', amount={amount!r}')}"
    code += f", importance_scores={{{by_site}}})" if given else ")"
    parts = [_magnitudes(*site, given.get(site, "None")) for site in chosen]
    return Call(code, (lambda net: torch.cat([part(net) for part in parts])) if method == "L1Unstructured" else None)


DRAWN = {"global_unstructured": _global, "contain": _contain}

# ---- tensors as code -------------------------------------------------------------------------------------------------


def _noise(rng: random.Random, t: Tensor) -> str:
    """Scores of a tensor's shape and dtype: the original's structured masks take the dtype of the scores."""
    generator = f"generator=torch.Generator().manual_seed({rng.randrange(1000)})"
    return f"torch.randn({tuple(t.shape)}, dtype={t.dtype}, {generator})"


def _mask(rng: random.Random, t: Tensor) -> str:
    return f"({_noise(rng, t)} > {rng.choice([-1, 0, 1])})" + rng.choice(["", ".float()", ".long()", ".double()"])


def _scores(rng: random.Random, t: Tensor, *, wrong: bool) -> tuple[str, bool]:
    """Importance scores, and whether they are full of ties."""
    if wrong:
        return f"torch.ones({(*t.shape, 2)})", False
    style = rng.choices(["None", "free", "tied"], [60, 33, 7])[0]
    code = _noise(rng, t)
    return {"None": ("None", False), "free": (code, False), "tied": (f"{code}.sign()", True)}[style]


# ---- what a call ranks -----------------------------------------------------------------------------------------------


def _magnitudes(key: str, name: str, given: str) -> Callable[[nn.ModuleDict], Tensor]:
    """The magnitudes of the live entries."""

    def ranked(net: nn.ModuleDict) -> Tensor:
        t, alive = _ranked_tensor(net[key], name, given)
        return t[alive].abs()

    return ranked


def _norms(key: str, name: str, given: str, n: Any, dim: int) -> Callable[[nn.ModuleDict], Tensor]:
    """The norms of the live channels."""

    def ranked(net: nn.ModuleDict) -> Tensor:
        t, alive = _ranked_tensor(net[key], name, given)
        norms = torch.linalg.vector_norm(t.double().movedim(dim, 0).flatten(1), 2 if n == "fro" else n, dim=1)
        return norms[alive.movedim(dim, 0).flatten(1).any(1)]

    return ranked


def _ranked_tensor(module: nn.Module, name: str, given: str) -> tuple[Tensor, Tensor]:
    t = eval(given, {"torch": torch})
    t = getattr(module, name).detach() if t is None else t
    return t, getattr(module, f"{name}_mask", torch.ones(t.shape)) != 0


def _ties(values: Tensor) -> bool:
    """Whether two values are too near each other to rely on their order."""
    return values.numel() > 1 and bool((values.sort().values.diff() <= 1e-6 * values.max()).any())
