"""What Lightning's `ModelPruning` does to a module, call by call as its source has it, on either library.

Lightning 2.6 imports the original as a module, chooses functions or classes of it by name, prunes each epoch, resets
to first values (lottery tickets), makes pruning permanent in checkpoints by itself, and at the end by the hooks.
"""

from __future__ import annotations

import copy
import inspect
from functools import partial

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import masklib.adapters.prune

FUNCTIONS = {
    "ln_structured": {"n": 2, "dim": 0},
    "l1_unstructured": {},
    "random_structured": {"dim": 0},
    "random_unstructured": {},
}
CLASSES = {"l1_unstructured": "L1Unstructured", "random_unstructured": "RandomUnstructured"}


@pytest.fixture(params=[torch.nn.utils.prune, masklib.adapters.prune], ids=["torch", "masklib"])
def prune(request):
    torch.manual_seed(0)
    return request.param


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 2, bias=False)

    def forward(self, x):
        return self.second(self.first(x).relu())


def parameters_to_prune(net):
    """What is pruned if the user names nothing, in its order."""
    modules = [m for m in net.modules() if not isinstance(m, (Net, nn.Sequential, nn.ModuleList, nn.ModuleDict))]
    names = ("weight", "bias")
    return [(m, n) for n in names for m in modules if isinstance(getattr(m, n, None), nn.Parameter)]


def pruned_stats(module, name):
    if not hasattr(module, f"{name}_mask"):
        return 0, 1
    mask = getattr(module, f"{name}_mask")
    return (mask == 0).sum().item(), mask.numel()


def make_pruning_permanent(prune, net):
    for _, module in net.named_modules():
        for key in list(module._forward_pre_hooks):
            hook = module._forward_pre_hooks[key]
            if isinstance(hook, prune.BasePruningMethod):
                hook.remove(module)
                del module._forward_pre_hooks[key]


def permanent_state_dict(net):
    state = net.state_dict()
    for name in {k.replace("_mask", "") for k in state if k.endswith("_mask")}:
        orig, mask = state.pop(name + "_orig"), state.pop(name + "_mask")
        state[name] = mask.to(dtype=orig.dtype) * orig
    return {name: tensor.cpu() for name, tensor in state.items()}


def copy_param(new, old, name):
    target = getattr(new, name + "_orig") if hasattr(new, name + "_orig") else getattr(new, name)
    source = getattr(old, name)
    if target is None or source is None or not isinstance(target, torch.Tensor) or not isinstance(source, torch.Tensor):
        return
    target.data = source.data.to(target.device)


def train(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()


def local(prune, name, more):
    function = getattr(prune, name)
    assert function.__name__ == name
    pruning = partial(function, **more)

    def apply(parameters, amount):
        for module, parameter in parameters:
            pruning(module, name=parameter, amount=amount)

    return apply


def whole(prune, name):
    method = getattr(prune, CLASSES[name])
    assert inspect.isclass(method)
    assert issubclass(method, prune.BasePruningMethod)
    assert method.PRUNING_TYPE == "unstructured"
    known = set(inspect.signature(method).parameters) - {"self"}
    assert "amount" in known

    def apply(parameters, amount):
        more = {k: v for k, v in {"amount": amount, "dim": 0}.items() if k in known}
        prune.global_unstructured(parameters, pruning_method=method, **more)

    return apply


WAYS = {
    **{f"local {n}": (lambda p, n=n, more=more: local(p, n, more)) for n, more in FUNCTIONS.items()},
    **{f"global {n}": (lambda p, n=n: whole(p, n)) for n in CLASSES},
}


@pytest.mark.parametrize("lottery", [False, True])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_epochs_of_pruning(prune, way, lottery):
    net = Net()
    parameters = parameters_to_prune(net)
    parameters = [(m, n) for m, n in parameters if n == "weight"]
    assert [n for _, n in parameters] == ["weight", "weight"]
    first = {id(m): copy.deepcopy(m) for m, _ in parameters}
    apply, dead = way(prune), 0
    for _epoch in range(3):
        train(net)
        apply(parameters, 0.25)
        stats = [pruned_stats(m, n) for m, n in parameters]
        assert sum(total for _, total in stats) == 64
        assert sum(zeros for zeros, _ in stats) > dead
        dead = sum(zeros for zeros, _ in stats)
        if lottery:
            for module, name in parameters:
                original = copy.deepcopy(first[id(module)])
                copy_param(module, original, name)
                assert torch.equal(module.weight_orig, original.weight)
                assert module.weight_orig.data_ptr() == original.weight.data_ptr()
    net(torch.ones(1, 6))
    saved = permanent_state_dict(net)
    assert sorted(saved) == ["first.bias", "first.weight", "second.weight"]
    assert sum(int((saved[f"{n}.weight"] == 0).sum()) for n in ("first", "second")) == dead
    other = Net()
    other.load_state_dict(saved)
    x = torch.randn(3, 6)
    torch.testing.assert_close(other(x), net(x))
    expected = net(x)
    make_pruning_permanent(prune, net)
    torch.testing.assert_close(net(x), expected)
    assert list(net.state_dict()) == list(Net().state_dict()) or prune is torch.nn.utils.prune
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert not prune.is_pruned(net)
    train(net)


def test_a_method_of_the_users_own(prune):
    """`pruning_fn` may be a subclass of `BasePruningMethod`, with `apply` as a class method, or any callable."""

    class Every(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def __init__(self, amount):
            self.amount = amount

        def compute_mask(self, t, default_mask):
            mask = default_mask.clone()
            mask.view(-1)[:: round(1 / self.amount)] = 0
            return mask

        @classmethod
        def apply(cls, module, name, amount):
            return super().apply(module, name, amount=amount)

    net = Net()
    parameters = parameters_to_prune(net)
    prune.global_unstructured(parameters, pruning_method=Every, amount=0.5)
    assert sum(pruned_stats(m, n)[0] for m, n in parameters) == (48 + 16 + 8) // 2
    hook = Every.apply(net.first, "weight", amount=0.5)
    assert isinstance(hook, prune.PruningContainer)
    assert hook._tensor_name == "weight"
    assert isinstance(hook[-1], Every)
    make_pruning_permanent(prune, net)
    assert sorted(n for n, _ in net.named_parameters()) == ["first.bias", "first.weight", "second.weight"]


def test_a_checkpoint_of_a_pruned_module_resumes(prune):
    """Without `make_pruning_permanent` the pairs are saved; resuming prunes by identity first, then loads."""
    net, other = Net(), Net()
    prune.l1_unstructured(net.first, "weight", 10)
    train(net)
    prune.identity(other.first, "weight")
    other.load_state_dict(net.state_dict())
    prune.l1_unstructured(other.first, "weight", 5)
    assert int((other.first.weight_mask == 0).sum()) == 15
    assert not other.first.weight_mask[net.first.weight_mask == 0].any()
