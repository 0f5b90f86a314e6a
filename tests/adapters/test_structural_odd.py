"""Nets that are odd in one way each: they are cut, or it is said why not; what would be wrong is refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters.structural import shrink, structure


class Net(nn.Module):
    """A forward in one line."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.many, self.few = 6, 2
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, *inputs):
        return self.run(self, *inputs)


def net(forward, width=6, **modules):
    """With a layer in front and one behind."""
    return Net(forward, i=nn.Linear(4, width), o=nn.Linear(6, 2), **modules), (torch.randn(3, 4),)


def parts(net, x):
    """Pieces of unequal size, a slice between bounds that are computed, and one up to an attribute."""
    first, rest = x.split([net.many, net.few + net.few], -1)
    both = x[:, net.many : net.many + net.few].sum(-1, True) + rest.sum(-1, True)
    return first * x[:, : net.many] + both


class Named:
    """Of which a number takes the sum, and whose names are none of ours, as those of a tensor are before torch 2.13."""

    names = (None, None)

    def __radd__(self, number):
        return number


def images(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 1), *layers), (torch.randn(3, 3, 8, 8),)


def pruned():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.l1_unstructured(model[0], "weight", 3)
    return model, (torch.randn(3, 4),)


def counting(net, x):
    net.steps += 1
    return net.o(torch.relu(net.i(x)))


def counted():
    model, inputs = net(counting)
    model.register_buffer("steps", torch.zeros(()))
    return model, inputs


def parameters(**shapes):
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


CUT = {
    "prelu": lambda: images(nn.PReLU(8), nn.Conv2d(8, 2, 3)),
    "prelu beside as many columns": lambda: images(nn.PReLU(8), nn.Conv2d(8, 8, 1), nn.PReLU(), nn.Conv2d(8, 2, 3)),
    "instance norm": lambda: images(nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3)),
    "instance norm with all": lambda: images(nn.InstanceNorm2d(8, 1e-5, 0.1, True, True), nn.Conv2d(8, 2, 3)),
    "batch norm without affine": lambda: images(nn.BatchNorm2d(8, affine=False), nn.Sigmoid(), nn.Conv2d(8, 2, 3)),
    "circular": lambda: images(nn.Conv2d(8, 8, 3, 1, 1, padding_mode="circular"), nn.Softplus(), nn.Conv2d(8, 2, 3)),
    "transposed groups": lambda: images(
        nn.ReLU(), nn.ConvTranspose2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1)
    ),
    "groups": lambda: images(nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1)),
    "resized": lambda: images(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Dropout2d(), nn.Conv2d(8, 2, 3)),
    "one dim": lambda: (
        nn.Sequential(nn.Conv1d(3, 8, 3), nn.MaxPool1d(2), nn.Conv1d(8, 2, 1)),
        (torch.randn(2, 3, 9),),
    ),
    "rnn": lambda: net(lambda n, x: n.o(n.r(n.i(x)[None])[1][-1]), r=nn.RNN(6, 6)),
    "lstm cell": lambda: net(lambda n, x: n.o(n.r(n.i(x))[0]), r=nn.LSTMCell(6, 6)),
    "gru cell": lambda: net(lambda n, x: n.o(n.r(n.i(x))), r=nn.GRUCell(6, 6)),
    "residual of a square": lambda: net(lambda n, x: n.o(n.i(x) + torch.relu(n.w(n.i(x)))), w=nn.Linear(6, 6)),
    "one layer twice": lambda: net(lambda n, x: n.o(n.w(torch.relu(n.w(n.i(x))))), w=nn.Linear(6, 6)),
    "gated": lambda: net(lambda n, x: n.o(F.glu(n.i(x))), 12),
    "halves": lambda: net(lambda n, x: n.o(torch.mul(*n.i(x).chunk(2, -1))), 12),
    "parts of its own numbers": lambda: net(lambda n, x: n.o(parts(n, n.i(x))), 10),
    "the last two": lambda: net(lambda n, x: n.o(n.i(x)[:, :-2] * n.i(x)[:, [-2]] + n.i(x)[:, [-1]]), 8),
    "einsum": lambda: net(lambda n, x: n.o(torch.einsum("bi,hi->bh", n.i(x), n.a)), **parameters(a=(6, 6))),
    "matmul": lambda: net(lambda n, x: n.o(torch.relu(n.i(x) @ n.a + n.b)), **parameters(a=(6, 6), b=(6,))),
    "weights made in between": lambda: net(
        lambda n, x: n.o(F.linear(n.i(x), n.a - n.a.mean(1, True))), **parameters(a=(6, 6))
    ),
    "a norm of silent units": lambda: net(lambda n, x: n.o(n.n(torch.relu(n.i(x)))), n=nn.RMSNorm(6)),
    "a norm of a difference": lambda: net(lambda n, x: n.o(n.n(n.i(x) - n.i(x).relu() * 2)), n=nn.RMSNorm(6)),
    "a norm with an epsilon": lambda: net(lambda n, x: n.o(n.n(n.i(x) + F.silu(n.i(x)))), n=nn.RMSNorm(6, eps=0.5)),
    "a dict with a number": lambda: net(lambda n, x: {"y": n.o(torch.relu(n.i(x))), "n": 3}),
    "a number beside what has names": lambda: net(lambda n, x: n.o(torch.relu(n.i(x))) * (n.many + Named())),
    "noise": lambda: net(lambda n, x: n.o(torch.relu(n.i(x))) + torch.rand(1)),
    "pruned already": pruned,
    "a buffer that counts": counted,
    "frozen": lambda: (
        nn.Sequential(nn.Linear(4, 8).requires_grad_(False), nn.ReLU(), nn.Linear(8, 2)),
        (torch.randn(3, 4),),
    ),
    "bfloat16": lambda: (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).bfloat16(), (torch.randn(3, 4).bfloat16(),)),
}
STAYS = {
    "weight norm": lambda: (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2)),
        "_weight_norm",
    ),
    "lstm with projections": lambda: (
        Net(lambda n, x: n.r(x[None])[0][0][:, :1], r=nn.LSTM(4, 6, proj_size=3)),
        "projections",
    ),
    "a sum over units": lambda: (net(lambda n, x: n.o(n.i(x)) + n.i(x).sum(-1, True))[0], "takes all of it together"),
    "softmax over units": lambda: (net(lambda n, x: n.o(n.i(x).softmax(-1)))[0], "goes along it"),
    "products of units": lambda: (net(lambda n, x: n.o(n.i(x) @ n.i(x).T @ n.i(x)))[0], "neither side is a parameter"),
    "a slice": lambda: (net(lambda n, x: n.o(n.i(x)[:, 1:7]), 8)[0], "slices it at numbers"),
    "pieces of other numbers": lambda: (
        net(lambda n, x: n.o(torch.mul(*(y[:, :3] for y in n.i(x).split([5, 3], -1))).repeat(1, 2)), 8)[0],
        "splits it at numbers",
    ),
    "a constant": lambda: (net(lambda n, x: n.o(n.i(x) + torch.arange(6)))[0], "joins it with what is fixed"),
    "a norm of units that speak": lambda: (
        net(lambda n, x: n.o(n.n(n.i(x).sigmoid())), n=nn.RMSNorm(6))[0],
        "takes the mean",
    ),
    "a norm behind a sum with a number": lambda: (
        net(lambda n, x: n.o(n.n(n.i(x) + 1)), n=nn.RMSNorm(6))[0],
        "takes the mean",
    ),
    "a layer norm": lambda: (net(lambda n, x: n.o(n.n(n.i(x))), n=nn.LayerNorm(6))[0], "takes the mean"),
    "cumulated": lambda: (net(lambda n, x: n.o(n.i(x).cumsum(-1)))[0], "goes along it"),
}
REFUSED = {
    "a scale by the width": lambda: net(lambda n, x: n.o(torch.relu(n.i(x))) / n.i.out_features),
    "a size in the code": lambda: net(lambda n, x: n.o(n.i(x).view(-1, 6, 2).amax(-1)), 12),
    "weights that zero does not silence": lambda: net(lambda n, x: F.linear(n.i(x).exp(), n.o.weight + 1)),
}


def masks_for(model, found):
    params, noise = dict(model.named_parameters()), torch.Generator().manual_seed(0)
    scores = {n: torch.rand(params[n].shape, generator=noise) for n in found.names}
    return ml.compute_mask(scores, sparsity=0.4, groups=found.groups(layerwise=True))


@pytest.mark.parametrize("name", CUT)
def test_odd_nets_are_cut(name):
    """`shrink` itself compares with the masked model; nothing of the model or of the generator changes."""
    torch.manual_seed(0)
    model, inputs = CUT[name]()
    model.train()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = structure(model, inputs)
    small = shrink(model, masks_for(model, found), found)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert small.training
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_says_why(name):
    model, why = STAYS[name]()
    found = structure(model, (torch.randn(3, 4),))
    assert why in found.explain()
    assert not found.sets


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_graph_cannot_show_is_refused(name):
    torch.manual_seed(0)
    model, inputs = REFUSED[name]()
    found = structure(model, inputs)
    with pytest.raises(ValueError, match=r"no longer compute what the masked one does: .* Not even of"):
        shrink(model, masks_for(model, found), found)


class Odd(nn.Module):
    """An operator that nothing is known of, on one of two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(torch.linalg.inv(torch.diag_embed(self.second(torch.relu(self.first(x))).exp())).sum(-1))


def test_an_unknown_operator_fixes_what_enters_it():
    sets = structure(Odd(), (torch.randn(2, 3),))
    assert [s.dims[0].name for s in sets.sets] == ["first.weight"]
    assert sets.unknown
    assert "that structure() does not know" in sets.explain("second.weight")
    assert "is an operator that structure() does not know" in sets.explain().splitlines()[-1]


class Literal(nn.Module):
    """Code that holds a size as a literal."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Conv2d(1, 4, 3), nn.Linear(16, 2)

    def forward(self, x):
        return self.out(torch.relu(self.first(x)).view(-1, 16))


def test_what_would_not_compute_the_same_is_refused():
    model, inputs = Literal(), (torch.randn(2, 1, 4, 4),)
    sets = structure(model, inputs)
    with pytest.raises(ValueError, match=r"Not even of 4 units of first.weight.* let it read the size"):
        shrink(model, masks_for(model, sets), sets)


class Windowed(nn.Module):
    """A number of the value of the heads that has nothing to do with them."""

    def __init__(self):
        super().__init__()
        self.num_heads = self.head_dim = self.window = 4
        self.into, self.qkv, self.out = nn.Linear(3, 8), nn.Linear(8, 48), nn.Linear(16, 2)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(self.into(x)).view(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        apart = torch.arange(t)[:, None] - torch.arange(t)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=apart.abs() < self.window)
        return self.out(y.transpose(1, 2).flatten(2))


def test_numbers_of_one_value_are_told_apart():
    model, inputs = Windowed(), (torch.randn(2, 3, 3),)
    sets = structure(model, inputs)
    small = shrink(model, masks_for(model, sets), sets)
    assert (small.num_heads, small.head_dim, small.window) == (2, 4, 4)
    assert (model.num_heads, model.head_dim, model.window) == (4, 4, 4)
    assert type(small.head_dim) is int
