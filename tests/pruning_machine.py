"""A model of the drop-in, at random calls: it holds dense weights, and a mask for each pruned site."""

from __future__ import annotations

import copy
import pickle
from functools import partial, reduce

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from pruned_net import NAMES, Net, along, channels, dotted, everything, loss
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import weights
from masklib.testing._subject import checkered, dying

SITES = ("linear.weight", "linear.bias", "embedding.weight", "head.weight", "lstm.weight_hh_l0", "lstm.bias_ih_l0")
MATRICES = tuple(site for site in SITES if "bias" not in site)
TIED = ("embedding.weight", "head.weight")
EMBEDDING = TIED[0]  # the parameter of both
RATE = 0.25
site = st.sampled_from(SITES + TIED)
amounts = st.sampled_from([0.3, 0.5, 0, 1, 2, 0.9])
dims = st.sampled_from([0, 1, -1])
norms = st.sampled_from([1, 2, float("inf")])


def parameter_of(name):
    """The name under which a site's parameter is known."""
    return EMBEDDING if name in TIED else name


BAD = (
    lambda m, n: prune.l1_unstructured(m, n, 1000),
    lambda m, n: prune.remove(m, f"no_{n}"),
    lambda m, n: prune.random_unstructured(m, n, 1.5),
    lambda m, n: prune.random_structured(m, n, 1000, dim=0),
    lambda m, n: prune.ln_structured(m, n, 1, n=2, dim=7),
    lambda m, n: prune.custom_from_mask(m, n, torch.ones(99)),
    lambda m, n: prune.l1_unstructured(m, n, 1, importance_scores=torch.ones(99)),
    lambda m, n: prune.global_unstructured([(m, n)], prune.RandomUnstructured, amount=1000),
    lambda m, n: prune.global_unstructured([(m, n), (m, "no")], prune.L1Unstructured, amount=1),
    lambda m, n: prune.global_unstructured([(m, n)], prune.LnStructured, amount=1, n=2),
)


class Pruning(RuleBasedStateMachine):
    """`dense` has the parameters by name, `masks` those of the pruned sites, bool."""

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed):
        torch.default_generator.manual_seed(seed)
        self.net = Net()
        self.dense = {n: p.detach().clone() for n, p in self.net.named_parameters()}
        self.masks = {}
        self.saved = None
        self.remember_identity()

    def remember_identity(self):
        self.objects = list(self.net.parameters())

    # ---- the model ----

    def sites(self, name, root):
        return TIED if root and name in TIED else (name,)

    def alive(self, *names):
        """Who is alive at all of some sites of one parameter."""
        start = torch.ones_like(self.dense[parameter_of(names[0])], dtype=torch.bool)
        return reduce(torch.logical_and, [self.masks[n] for n in names if n in self.masks], start)

    def effective(self, name):
        return torch.where(self.alive(name), self.dense[parameter_of(name)], 0)

    def now(self, *names):
        """Scores and mask, as the core takes them."""
        return self.dense[parameter_of(names[0])], self.alive(*names)

    def where(self, name):
        """The module of the net and the name in it, for the adapter's calls."""
        prefix, _, last = name.partition(".")
        return getattr(self.net, prefix), last

    def root(self, root):
        return {"root": self.net} if root else {}

    # ---- pruning: what the core says ----

    def determined(self, function, step, name, root, **arguments):
        names = self.sites(name, root)
        kept = step(*self.now(*names))
        getattr(prune, function)(*self.where(name), **arguments, **self.root(root))
        self.masks.update(dict.fromkeys(names, kept))

    @rule(name=site, root=st.booleans())
    def identity(self, name, root):
        self.determined("identity", ml.identity, name, root)

    @rule(name=site, amount=amounts, root=st.booleans())
    def l1_unstructured(self, name, amount, root):
        if self.possible(amount, self.alive(*self.sites(name, root))):
            step = partial(ml.l1_unstructured, amount=amount)
            self.determined("l1_unstructured", step, name, root, amount=amount)

    @rule(name=site, amount=amounts, seed=st.integers(0, 99), root=st.booleans())
    def l1_unstructured_by_scores(self, name, amount, seed, root):
        if self.possible(amount, alive := self.alive(*self.sites(name, root))):
            scores = torch.randn(alive.shape, generator=torch.Generator().manual_seed(seed))
            self.determined(
                "l1_unstructured",
                lambda dense, alive: ml.l1_unstructured(scores, alive, amount=amount),
                name,
                root,
                amount=amount,
                importance_scores=scores,
            )

    @rule(name=st.sampled_from(MATRICES), amount=amounts, n=norms, dim=dims, root=st.booleans())
    def ln_structured(self, name, amount, n, dim, root):
        if self.possible(amount, channels(self.alive(*self.sites(name, root)), dim)):
            step = partial(ml.ln_structured, n=n, dim=dim, amount=amount)
            self.determined("ln_structured", step, name, root, amount=amount, n=n, dim=dim)

    @rule(name=site, period=st.integers(2, 6), root=st.booleans())
    def custom_from_mask(self, name, period, root):
        mask = checkered(self.dense[parameter_of(name)], period)
        step = partial(ml.custom_from_mask, mask=mask != 0)
        self.determined("custom_from_mask", step, name, root, mask=mask)

    @rule(names=st.lists(site, min_size=1, max_size=4), amount=amounts)
    def global_l1(self, names, amount):
        pairs = [self.where(name) for name in names]
        self.pooled(self.groups(names), amount, pairs)

    @rule(amount=amounts)
    def global_l1_of_the_model(self, amount):
        """By default all weights of the model, at every site of each."""
        groups = {p: TIED if p == EMBEDDING else (p,) for p in weights(self.net)}
        self.pooled(groups, amount, self.net)

    def pooled(self, groups, amount, parameters):
        """One pool; among equals the parameter that was named first dies first."""
        alive = {p: self.alive(*sites) for p, sites in groups.items()}
        if self.possible(amount, *alive.values()):
            scores = {str(i): self.dense[p] for i, p in enumerate(groups)}
            kept = ml.l1_unstructured(scores, dict(zip(scores, alive.values())), amount=amount)
            prune.global_unstructured(parameters, prune.L1Unstructured, amount=amount)
            for i, sites in enumerate(groups.values()):
                self.masks.update(dict.fromkeys(sites, kept[str(i)]))

    def groups(self, names):
        """The sites of each parameter in a global call."""
        groups = {}
        for name in dict.fromkeys(names):
            groups.setdefault(parameter_of(name), []).append(name)
        return groups

    def possible(self, amount, *alive):
        return isinstance(amount, float) or amount <= sum(int(mask.sum()) for mask in alive)

    # ---- pruning: what chance says ----

    @rule(name=site, amount=amounts, root=st.booleans())
    def random_unstructured(self, name, amount, root):
        names = self.sites(name, root)
        before = self.alive(*names)
        if self.possible(amount, before):
            prune.random_unstructured(*self.where(name), amount, **self.root(root))
            self.take_over(names, before, before.sum(), amount, lambda mask: mask.sum())

    @rule(name=st.sampled_from(MATRICES), amount=amounts, dim=dims, root=st.booleans())
    def random_structured(self, name, amount, dim, root):
        names = self.sites(name, root)
        before = self.alive(*names)
        if self.possible(amount, channels(before, dim)):
            prune.random_structured(*self.where(name), amount, dim, **self.root(root))
            kept = self.take_over(names, before, channels(before, dim).sum(), amount, lambda m: channels(m, dim).sum())
            assert torch.equal(kept, before & along(channels(kept, dim), dim, kept))

    @rule(names=st.lists(site, min_size=1, max_size=4), amount=amounts)
    def global_random(self, names, amount):
        groups = self.groups(names)
        before = {p: self.alive(*sites) for p, sites in groups.items()}
        if self.possible(amount, *before.values()):
            prune.global_unstructured(map(self.where, names), prune.RandomUnstructured, amount=amount)
            for p, sites in groups.items():
                self.shrunk(sites, before[p])
            total = sum(int(mask.sum()) for mask in before.values())
            left = sum(int(self.masks[sites[0]].sum()) for sites in groups.values())
            assert left == total - dying(total, amount)

    def take_over(self, names, before, items, amount, count):
        """Take the net's mask for the model's, if it is below the old one and as large as it should be."""
        kept = self.shrunk(names, before)
        assert int(count(kept)) == int(items) - dying(int(items), amount)
        return kept

    def shrunk(self, names, before):
        module, last = self.where(names[0])
        kept = getattr(module, f"{last}_mask") != 0
        assert not (kept & ~before).any()
        self.masks.update(dict.fromkeys(names, kept))
        return kept

    # ---- endings ----

    @precondition(lambda self: self.masks)
    @rule(data=st.data(), root=st.booleans())
    def remove(self, data, root):
        name = data.draw(st.sampled_from(sorted(self.masks)))
        prune.remove(*self.where(name), **self.root(root))
        for n in self.sites(name, root):
            if n in self.masks:
                self.dense[parameter_of(n)] = self.effective(n)
                del self.masks[n]

    @precondition(lambda self: self.masks)
    @rule(data=st.data(), root=st.booleans())
    def undo(self, data, root):
        name = data.draw(st.sampled_from(sorted(self.masks)))
        prune.undo(*self.where(name), **self.root(root))
        for n in self.sites(name, root):
            self.masks.pop(n, None)

    # ---- what else happens to modules ----

    @rule()
    def train(self):
        """A step of SGD, as a dense net with the effective weights would go, but for masked entries."""
        twin = self.dense_twin()
        loss(twin).backward()
        torch.testing.assert_close(loss(self.net), loss(twin))
        optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE)
        loss(self.net).backward()
        for n, p in self.parameters().items():
            sites = TIED if n == EMBEDDING else (n,)
            expected = sum(self.alive(s) * getattr(*dotted(twin, s)).grad for s in sites)
            torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-5)
            assert not p.grad[~reduce(torch.logical_or, map(self.alive, sites))].any()
            self.dense[n] = self.dense[n].sub(p.grad, alpha=RATE)
        optimizer.step()
        optimizer.zero_grad()

    def dense_twin(self):
        """A net without pruning, its tied weight in two, of the effective weights."""
        twin = Net()
        twin.head.weight = nn.Parameter(twin.head.weight.detach().clone())
        twin.load_state_dict({n: self.effective(n) for n in [*self.dense, "head.weight"]})
        return twin

    def parameters(self):
        return {n.removesuffix("_orig"): p for n, p in self.net.named_parameters()}

    @rule(seed=st.integers(0, 99))
    def rewind(self, seed):
        """Other values, ties and zeros among them, written in place."""
        generator = torch.Generator().manual_seed(seed)
        for n, p in self.parameters().items():
            self.dense[n] = torch.randn(p.shape, generator=generator)
            with torch.no_grad():
                p.copy_(self.dense[n])

    @rule()
    def save(self):
        state = {n: t.clone() for n, t in self.net.state_dict().items()}
        self.saved = (state, dict(self.dense), dict(self.masks))

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self):
        """Refused if other sites are pruned now; masks come with it, even those of more entries."""
        state, dense, masks = self.saved
        if masks.keys() == self.masks.keys():
            self.net.load_state_dict(state)
            self.dense, self.masks = dict(dense), dict(masks)

    @rule()
    def deepcopy(self):
        self.go_on_with(copy.deepcopy(self.net))

    @rule()
    def pickle(self):
        self.go_on_with(pickle.loads(pickle.dumps(self.net)))

    def go_on_with(self, twin):
        """The copy goes on; the one that is left is spoilt, which must not matter."""
        for tensor in self.net.state_dict().values():
            tensor.zero_()
        self.net = twin
        self.remember_identity()

    @rule()
    def bake(self):
        """A clean copy that computes the same; weights that are pruned apart at tied sites part."""
        clean = prune.bake(self.net)
        assert not prune.is_pruned(clean)
        assert list(clean.state_dict()) == list(Net().state_dict())
        for n in SITES:
            assert torch.equal(getattr(*dotted(clean, n)), self.effective(n))
        alike = torch.equal(*(self.effective(n) for n in TIED))
        assert alike or clean.head.weight is not clean.embedding.weight

    @rule(name=site, bad=st.sampled_from(BAD))
    def fail(self, name, bad):
        before, state = everything(self.net), torch.get_rng_state()
        with pytest.raises((ValueError, TypeError, IndexError, AttributeError)):
            bad(*self.where(name))
        assert everything(self.net) == before
        assert torch.equal(torch.get_rng_state(), state)

    # ---- what always holds ----

    @invariant()
    def what_is_read_is_the_dense_under_the_mask(self):
        for name in SITES:
            assert torch.equal(getattr(*self.where(name)), self.effective(name))

    @invariant()
    def parameters_and_masks_agree(self):
        parameters = self.parameters()
        assert list(parameters) == [n for n, _ in NAMES]
        for name, mask in self.masks.items():
            module, last = self.where(name)
            assert torch.equal(getattr(module, f"{last}_mask"), mask.float())
        assert all(torch.equal(p, self.dense[n]) for n, p in parameters.items())
        embedding, head = (self.net.get_parameter(f"{n}{self.suffix(n)}") for n in TIED)
        assert embedding is head

    def suffix(self, name):
        return "_orig" if name in self.masks else ""

    @invariant()
    def parameters_keep_their_identity(self):
        assert all(p is q for p, q in zip(self.net.parameters(), self.objects, strict=True))

    @invariant()
    def the_state_dict_has_the_names_it_should(self):
        expected = {f"{n}{self.suffix(n)}" for n in [*self.dense, "head.weight"]} | {f"{n}_mask" for n in self.masks}
        assert set(self.net.state_dict()) == expected

    @invariant()
    def is_pruned_agrees(self):
        assert prune.is_pruned(self.net) == bool(self.masks)
        for child, module in self.net.named_children():
            assert prune.is_pruned(module) == any(name.startswith(f"{child}.") for name in self.masks)
            hooks = [hook._tensor_name for hook in module._forward_pre_hooks.values()]
            assert sorted(hooks) == sorted(n.partition(".")[2] for n in self.masks if n.startswith(f"{child}."))
