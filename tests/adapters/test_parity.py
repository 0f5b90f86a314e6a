"""The drop-in does what torch.nn.utils.prune does, call for call, on everything the original does right.

Each seed draws a module and a sequence of calls; both libraries run it on equal copies with equal generator seeds, and
all that a user can observe is compared after every call and after `remove`. A failure prints the calls.
"""

from __future__ import annotations

import copy
import inspect
import random

import masklib.adapters.prune as ours
import pytest
import torch
import torch.nn.utils.prune as theirs
from torch import nn

SEQUENCES = 400

MODULES = {
    "Linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 8)),
    "Conv2d": (lambda: nn.Conv2d(3, 5, 2), (2, 3, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 2), (1, 3, 4, 4)),
    "Embedding": (lambda: nn.Embedding(7, 5), None),
    "LSTM": (lambda: nn.LSTM(4, 3), (2, 1, 4)),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), None),
}


def prunable(module: nn.Module, rng: random.Random) -> str:
    return rng.choice(sorted(n.removesuffix("_orig") for n, _ in module.named_parameters()))


def amount(rng: random.Random):
    return rng.choice([0, 1, 2, 3, 0.0, 0.1, 0.25, 0.3, 0.5, 0.77, 1.0, 1000, -1, 1.5, "half"])


def draw(rng: random.Random, module: nn.Module) -> tuple[str, tuple, dict]:
    """One call: the function's name, its arguments after the module, and its keyword arguments."""
    name = prunable(module, rng)
    shape = getattr(module, name).shape
    scores = torch.randn(shape) if rng.random() < 0.3 else None
    dim = rng.choice([-1, 0, 1, len(shape) - 1, -len(shape), len(shape)])
    if rng.random() < 0.05:
        scores = torch.randn(2, 3, 1, 7)
    calls = {
        "identity": (name,),
        "random_unstructured": (name, amount(rng)),
        "l1_unstructured": (name, amount(rng), scores),
        "random_structured": (name, amount(rng), dim),
        "ln_structured": (name, amount(rng), rng.choice([1, 2, 3, float("inf"), float("-inf"), 0.5]), dim, scores),
        "custom_from_mask": (name, (torch.rand(shape) < rng.random()).to(torch.float32)),
    }
    if rng.random() < 0.2:
        method = rng.choice(["L1Unstructured", "RandomUnstructured", "LnStructured"])
        extra = {"n": 2} if method == "LnStructured" else {}
        return "global_unstructured", (method,), {"amount": amount(rng), **extra}
    function = rng.choice(list(calls))
    return function, calls[function], {}


def run(prune, module: nn.Module, call: tuple[str, tuple, dict]) -> Exception | None:
    function, args, kwargs = call
    if function == "global_unstructured":
        names = sorted(n.removesuffix("_orig") for n, _ in module.named_parameters())
        args = ([(module, n) for n in names], getattr(prune, args[0]))
    else:
        args = (module, *args)
    try:
        getattr(prune, function)(*args, **kwargs)
    except Exception as error:
        return error
    return None


def observed(module: nn.Module) -> dict:
    """All that a user can see, but for the order of parameters, which the original scrambles."""
    names = [n.removesuffix("_orig") for n, _ in module.named_parameters()]
    hooks = [
        (type(h).__name__, h._tensor_name, [type(m).__name__ for m in h] if hasattr(h, "__len__") else None)
        for h in module._forward_pre_hooks.values()
    ]
    return {
        "keys": set(module.state_dict()),
        "state": {k: (v.dtype, v.tolist()) for k, v in sorted(module.state_dict().items())},
        "values": {n: getattr(module, n).tolist() for n in sorted(names)},
        "is parameter": {n: isinstance(getattr(module, n), nn.Parameter) for n in sorted(names)},
        "hooks": sorted(hooks, key=repr),
    }


def outputs(module: nn.Module, shape) -> list:
    if isinstance(module, nn.Embedding):
        return module(torch.arange(7)).tolist()
    if isinstance(module, nn.Bilinear):
        return module(torch.ones(2, 3), torch.ones(2, 4)).tolist()
    result = module(torch.ones(shape))
    return (result[0] if isinstance(result, tuple) else result).tolist()


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_a_random_sequence_of_calls_gives_the_same(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kind = rng.choice(list(MODULES))
    make, shape = MODULES[kind]
    reference = make()
    mine = copy.deepcopy(reference)
    history = [kind]
    for step in range(rng.randint(1, 4)):
        call = draw(rng, reference)
        history.append(call)
        torch.manual_seed(1000 * seed + step)
        expected = run(theirs, reference, call)
        torch.manual_seed(1000 * seed + step)
        got = run(ours, mine, call)
        assert (expected is None) == (got is None), (history, expected, got)
        if expected is not None:
            assert isinstance(got, type(expected)), (history, expected, got)
            assert str(got), history
            return  # the original leaves a half-pruned module behind
        assert observed(mine) == observed(reference), history
        assert outputs(mine, shape) == outputs(reference, shape), history
    for name in [n.removesuffix("_orig") for n, _ in reference.named_parameters() if n.endswith("_orig")]:
        theirs.remove(reference, name)
        ours.remove(mine, name)
    assert observed(mine) == observed(reference), history
    assert outputs(mine, shape) == outputs(reference, shape), history


def test_the_comparison_tells_a_wrong_library_from_a_right_one(monkeypatch):
    """Mutants of the drop-in that the sequences above must catch."""
    right = ours.L1Unstructured.compute_mask

    def one_too_few(self, t, default_mask):
        mask = right(self, t, default_mask)
        mask.view(-1)[(mask.view(-1) == 0).nonzero()[:1]] = 1
        return mask

    mutants = {
        "prunes one too few": one_too_few,
        "forgets the scores": lambda self, t, default_mask: right(self, torch.ones_like(t), default_mask),
        "prunes the largest": lambda self, t, default_mask: right(self, 1 / t, default_mask),
    }
    for wrong in mutants.values():
        monkeypatch.setattr(ours.L1Unstructured, "compute_mask", wrong)
        caught = 0
        for seed in range(60):
            try:
                test_a_random_sequence_of_calls_gives_the_same(seed)
            except AssertionError:
                caught += 1
        assert caught


# ---- the classes, used directly --------------------------------------------------------------------------------------

METHODS = {
    "Identity": lambda p: p.Identity(),
    "L1Unstructured int": lambda p: p.L1Unstructured(3),
    "L1Unstructured float": lambda p: p.L1Unstructured(0.4),
    "L1Unstructured zero": lambda p: p.L1Unstructured(0),
    "RandomUnstructured": lambda p: p.RandomUnstructured(0.4),
    "RandomStructured": lambda p: p.RandomStructured(1, dim=0),
    "RandomStructured zero": lambda p: p.RandomStructured(0),
    "LnStructured": lambda p: p.LnStructured(1, n=2, dim=0),
    "LnStructured last": lambda p: p.LnStructured(0.5, n=1),
    "CustomFromMask": lambda p: p.CustomFromMask(torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1]])),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("dead", [0, 4])
def test_compute_mask_and_prune_of_a_method_by_itself(make, dead):
    torch.manual_seed(0)
    t = torch.randn(3, 4)
    alive = torch.ones(3, 4)
    alive.view(-1)[torch.randperm(12)[:dead]] = 0
    for use in (
        lambda p: make(p).compute_mask(t, alive.clone()),
        lambda p: make(p).prune(t, alive.clone()),
        lambda p: make(p).prune(t, alive.clone(), importance_scores=t.exp()),
        lambda p: container(p, make(p)).compute_mask(t, alive.clone()),
    ):
        torch.manual_seed(1)
        expected = use(theirs)
        torch.manual_seed(1)
        got = use(ours)
        assert torch.equal(got, expected)
        assert got.dtype == expected.dtype


def container(prune, method):
    result = prune.PruningContainer()
    result._tensor_name = method._tensor_name = "weight"
    result.add_pruning_method(method)
    return result


@pytest.mark.parametrize("kind", ["unstructured", "structured", "global"])
def test_subclasses_receive_what_their_type_promises(kind):
    def seen_by(prune):
        seen = []

        class Every(prune.BasePruningMethod):
            PRUNING_TYPE = kind
            dim = 0

            def compute_mask(self, t, default_mask):
                seen.append((t.detach().clone(), default_mask.clone()))
                mask = default_mask.clone()
                mask.view(-1)[0] = 0
                return mask

        torch.manual_seed(0)
        module = prune.ln_structured(nn.Linear(4, 5), "weight", 2, n=2, dim=0)
        Every.apply(module, "weight")
        return seen, module.weight_mask

    for (a, mask_a), (b, mask_b) in [(seen_by(theirs), seen_by(ours))]:
        assert torch.equal(mask_a, mask_b)
        for (t, alive), (u, living) in zip(a, b, strict=True):
            assert torch.equal(t, u)
            assert torch.equal(alive, living)


# ---- names and signatures --------------------------------------------------------------------------------------------

PUBLIC = [n for n, v in vars(theirs).items() if getattr(v, "__module__", None) == theirs.__name__]


def test_the_list_of_names_is_the_originals():
    assert len(PUBLIC) >= 20
    assert "_compute_norm" in PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_takes_the_calls_the_original_takes(name):
    expected, got = (list(inspect.signature(getattr(m, name)).parameters.values()) for m in (theirs, ours))
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    positional = [(p.name, p.kind, p.default) for p in expected if p.kind in kinds]
    assert [(p.name, p.kind, p.default) for p in got if p.kind in kinds] == positional
    assert {p.name for p in expected} <= {p.name for p in got}


@pytest.mark.parametrize("name", [n for n in PUBLIC if inspect.isclass(getattr(theirs, n))])
def test_every_class_has_the_originals_methods(name):
    expected = {n for n in vars(getattr(theirs, name)) if not n.startswith("__") and n != "_abc_impl"}
    assert all(hasattr(getattr(ours, name), n) for n in expected)
    mro = [c.__name__ for c in getattr(theirs, name).__mro__]
    assert [c.__name__ for c in getattr(ours, name).__mro__] == mro
