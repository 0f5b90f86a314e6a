"""Tiny networks of the families that people prune, with inputs: float64, on the CPU, a few milliseconds each."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from zoo_language import LANGUAGE

# ---- of torch alone -------------------------------------------------------------------------------------------------


def mlp():
    net = nn.Sequential(nn.Linear(5, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    return net, (torch.randn(4, 5),)


def vgg():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3)]
    net = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 2 * 2, 10), nn.ReLU(), nn.Linear(10, 4))
    return net, (torch.randn(3, 3, 8, 8),)


class Block(nn.Module):
    def __init__(self, wide, out, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(wide, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Sequential()
        if wide != out:
            self.short = nn.Sequential(nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.short(x)
        return F.relu(y)


def resnet():
    body = [Block(8, 8), Block(8, 8), Block(8, 12, 2)]
    stem = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)]
    return nn.Sequential(*stem, *body, *head), (torch.randn(3, 3, 8, 8),)


class Excite(nn.Module):
    def __init__(self, wide, few):
        super().__init__()
        self.down, self.up = nn.Conv2d(wide, few, 1), nn.Conv2d(few, wide, 1)

    def forward(self, x):
        y = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(F.silu(self.down(y))))


class Inverted(nn.Module):
    def __init__(self, wide, out, grow, excite=False):
        super().__init__()
        inner = wide * grow
        parts = [nn.Conv2d(wide, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True)]
        parts += [
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(),
        ]
        parts += [Excite(inner, 4)] if excite else []
        self.body = nn.Sequential(*parts, nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.same = wide == out

    def forward(self, x):
        return x + self.body(x) if self.same else self.body(x)


def mobilenet(excite=False):
    body = [Inverted(6, 6, 2, excite), Inverted(6, 8, 2, excite), Inverted(8, 8, 3, excite)]
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return net, (torch.randn(3, 3, 8, 8),)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        wide = [6 + 4 * i for i in range(3)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in wide)
        self.convs = nn.ModuleList(nn.Conv2d(w, 4, 3, padding=1, bias=False) for w in wide)
        self.last, self.head = nn.BatchNorm2d(18), nn.Linear(18, 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


def densenet():
    return Dense(), (torch.randn(3, 3, 6, 6),)


class Shuffle(nn.Module):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.third, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x))))
        n, c, h, w = x.shape
        groups = self.second.groups
        x = x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.third(x)).mean((2, 3)))


def shuffle():
    return Shuffle(), (torch.randn(3, 3, 5, 5),)


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.norm1 = nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.down2, self.norm2 = nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12)
        self.up, self.fuse, self.out = (
            nn.ConvTranspose2d(12, 8, 2, 2),
            nn.Conv2d(16, 8, 3, padding=1),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x):
        a = F.silu(self.norm1(self.down1(x)))
        b = F.relu(self.norm2(self.down2(a)))
        return self.out(F.relu(self.fuse(torch.cat([self.up(b), a], 1))))


def unet():
    return Unet(), (torch.randn(2, 2, 8, 8),)


def autoencoder():
    into = [nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()]
    back = [nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 1, 4, 2, 1)]
    return nn.Sequential(*into, *back), (torch.randn(3, 1, 8, 8),)


class Upscale(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 24, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.last(F.relu(F.pixel_shuffle(self.second(F.relu(self.first(x))), 2)))


def upscale():
    return Upscale(), (torch.randn(2, 3, 4, 4),)


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.cells = kind(6, 8, batch_first=True, **options)
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 5)

    def forward(self, tokens):
        return self.head(self.cells(self.embed(tokens))[0])


def lstm():
    return Recurrent(nn.LSTM, num_layers=2), (torch.randint(11, (3, 7)),)


def gru():
    return Recurrent(nn.GRU, num_layers=2, bidirectional=True), (torch.randint(11, (3, 7)),)


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3))
    return net, (torch.randn(2, 5, 5),)


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.mix = nn.Linear(5, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide, self.out = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.into(x)
        return self.out(F.gelu(self.wide(x + self.mix(x, x, x, need_weights=False)[0])))


def attentive():
    return Attentive(), (torch.randn(2, 5, 5),)


class Packed(nn.Module):
    """Attention with one packed projection, as in many vision transformers."""

    def __init__(self):
        super().__init__()
        self.into, self.heads = nn.Linear(5, 12), 3
        self.qkv, self.proj, self.out = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.into(x)
        n, t, _c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(self.proj(y.transpose(1, 2).flatten(2)))


def packed():
    return Packed(), (torch.randn(2, 5, 5),)


PLAIN = {f.__name__: f for f in (mlp, vgg, resnet, mobilenet, densenet, shuffle, unet, autoencoder, upscale, lstm, gru)}
PLAIN |= {"efficientnet": partial(mobilenet, excite=True)}
PLAIN |= {f.__name__: f for f in (encoder, attentive, packed)}


def build(name, seed=0):
    """A network in eval mode whose every parameter and running mean is drawn anew, and its inputs."""
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model, inputs = (PLAIN | LANGUAGE)[name]()
    finally:
        torch.set_default_dtype(default)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    for key, buffer in model.named_buffers():
        if "running" in key:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model.eval(), inputs
