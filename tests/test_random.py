"""Counter-based noise: a documented function of (key, name, index) and of nothing else."""

from __future__ import annotations

import random
from collections import Counter

import noise_oracle as oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib.selection import _random
from masklib.testing import layouts
from masklib.testing._strategies import DTYPES, KEYS, NAMES

GOLDEN = {  # (key, name): the first two values; they may never change
    (0, ""): [968999591178511036, 8524995788417003113],
    (-1, ""): [-4166672980652862585, -3018895058059795013],
    (42, "fc1.weight"): [-3101429014323705599, -966292874020075866],
    (2**63, "gewicht-ü"): [8262640818690383390, 1572584824767920986],
}


def noise(shape, key=5, name="w", **options):
    return ml.scores.random({name: torch.zeros(shape, **options)}, key=key)[name]


# ---- what it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "name"), GOLDEN)
def test_golden_values(key, name):
    assert noise(2, key, name).tolist() == GOLDEN[key, name]


def test_the_oracle_has_the_published_constants():
    """The first outputs of SplitMix64 from seed 0, and FNV-1a of the authors' test vectors."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [oracle.mix((i + 1) * oracle.GOLDEN % 2**64) for i in range(3)] == first
    assert oracle.fnv1a("") == 0xCBF29CE484222325
    assert oracle.fnv1a("a") == 0xAF63DC4C8601EC8C
    assert oracle.fnv1a("foobar") == 0x85944171F73967E8


@given(KEYS, st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.integers(0, 99))
def test_elements_are_the_documented_hash(key, name, n):
    assert noise(n, key, name).tolist() == [oracle.noise(key, name, oracle.ELEMENTS, i) for i in range(n)]


@given(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 5, 2**16 - 1, 2**16 + 1, 2**17 + 3]))
def test_noise_of_other_devices_is_the_same(seed, size):
    """The path for other devices, run here on the CPU."""
    cpu = torch.device("cpu")
    assert torch.equal(_random.run(seed, 0, size), _random._on_device(seed, size, cpu))


@given(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 5, 2**16 - 1, 2**16 + 1, 2**17 + 3]))
def test_noise_of_a_run_is_that_of_the_whole(seed, first):
    assert torch.equal(_random.run(seed, first, 2**16 + 2), _random.run(seed, 0, first + 2**16 + 2)[first:])


@given(KEYS, st.sampled_from(["", *NAMES]), st.integers(0, 7), st.integers(0, 7))
def test_items_are_a_stream_of_their_own(key, name, n, k):
    """random_structured kills the k items of least noise."""
    got = ml.random_structured({name: torch.zeros(n, 2)}, dim=0, key=key, amount=min(k, n))[name]
    order = sorted(range(n), key=lambda i: oracle.noise(key, name, oracle.ITEMS, i))
    assert got.tolist() == [[i not in order[:k]] * 2 for i in range(n)]


def test_channels_of_a_mapping_are_ranked_by_one_noise():
    s = {"b": torch.zeros(3, 2), "a": torch.zeros(2, 5)}
    items = sorted((oracle.noise(3, n, oracle.ITEMS, i), n, i) for n in s for i in range(len(s[n])))
    got = ml.random_structured(s, dim=0, key=3, amount=2)
    assert {(n, i) for n in s for i in range(len(s[n])) if not got[n][i].any()} == {item[1:] for item in items[:2]}


def test_many_chunks():
    got = noise(2**17 + 5)
    for i in (0, 2**16 - 1, 2**16, 2**17, 2**17 + 4):
        assert got[i] == oracle.noise(5, "w", oracle.ELEMENTS, i)
    assert got.unique().numel() == got.numel()


# ---- what it depends on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_not_the_dtype(dtype):
    assert torch.equal(noise((4, 6), dtype=dtype), noise((4, 6)))


@given(layouts(torch.full((2, 3, 2, 2), float("nan"))))
def test_neither_layout_nor_values(s):
    assert torch.equal(ml.scores.random({"w": s}, key=5)["w"], noise((2, 3, 2, 2)))


def test_neither_shape_nor_what_comes_after():
    """The index is the row-major one: a view has the same noise, a prefix is a prefix, shards are a concatenation."""
    whole = noise((4, 6))
    assert torch.equal(noise(24), whole.view(24))
    assert torch.equal(noise((2, 6)), whole[:2])


def test_neither_order_nor_presence_of_other_names():
    s = {n: torch.zeros(3) for n in NAMES}
    together = ml.scores.random(s, key=5)
    for n in NAMES:
        assert torch.equal(together[n], noise(3, name=n))
    assert len({tuple(v.tolist()) for v in together.values()}) == len(NAMES)


def test_a_bare_tensor_is_named_by_nothing():
    assert torch.equal(ml.scores.random(torch.zeros(3), key=5), noise(3, name=""))


@given(st.integers(0, 2**64 - 1))
def test_keys_are_taken_modulo_64_bits(key):
    signed = (key + 2**63) % 2**64 - 2**63
    for same in (signed, torch.tensor(signed), np.int64(signed), np.uint64(key)):
        assert torch.equal(noise(3, key), noise(3, same))
    assert not torch.equal(noise(3, key), noise(3, key ^ 1))


def test_not_the_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(noise(2**17), noise(2**17 + 1)[:-1])
    finally:
        torch.set_num_threads(before)


def test_no_global_generator_is_touched():
    s = {"w": torch.zeros(40, 40)}

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    before = states()
    ml.scores.random(s, key=1)
    ml.random_unstructured(s, key=1, amount=0.5)
    ml.random_structured(s, dim=1, key=1, amount=0.5)
    assert states() == before


# ---- how random it is -----------------------------------------------------------------------------------------------

N = 2**16


def uniform(values, sigmas=5):
    """Whether the 64 bits are balanced, and so are 16 bins of the highest bits."""
    bits = torch.stack([(values >> b) & 1 for b in range(64)]).double().mean(1)
    bins = ((values >> 60) & 15).bincount(minlength=16).double()
    even = (bits - 0.5).abs().max() < sigmas * 0.5 / len(values) ** 0.5
    return bool(even) and bool((bins - len(values) / 16).abs().max() < sigmas * (len(values) / 16) ** 0.5)


def test_it_is_uniform_over_indices():
    assert uniform(noise(N))


def test_it_is_uniform_over_keys_and_unrelated_between_neighbours():
    first = torch.cat([noise(1, key) for key in range(2000)])
    assert uniform(first)
    for other in (noise(N, 6), noise(N, 5, "x"), noise(N + 1)[1:]):
        assert uniform(noise(N) ^ other)
    items = torch.tensor([oracle.noise(5, "w", oracle.ITEMS, i) for i in range(2000)])
    assert uniform(noise(2000) ^ items)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int8])
def test_pruning_is_exact_and_uniform_in_every_dtype(dtype):
    """Ties of a coarse dtype would favour high indices: each tenth loses its share, to 5 standard deviations."""
    n = 200_000
    dead = ~ml.random_unstructured(torch.zeros(n, dtype=dtype), key=11, amount=0.3)
    assert dead.sum() == 60_000
    tenths = dead.view(10, -1).double().mean(1)
    assert (tenths - 0.3).abs().max() < 5 * (0.3 * 0.7 / (n / 10)) ** 0.5


def test_every_pair_of_channels_dies_about_as_often():
    times = 1200
    died = Counter()
    for key in range(times):
        mask = ml.random_structured(torch.zeros(4, 1), dim=0, key=key, amount=2)
        died[tuple((~mask).nonzero()[:, 0].tolist())] += 1
    assert len(died) == 6
    assert max(abs(count - times / 6) for count in died.values()) < 5 * (times * 5 / 36) ** 0.5


# ---- transforms -----------------------------------------------------------------------------------------------------


def test_vmap_over_keys():
    keys = torch.tensor([0, -1, 7])
    expected = torch.stack([ml.scores.random(torch.zeros(2, 3), key=k) for k in keys.tolist()])
    assert torch.equal(torch.vmap(lambda k: ml.scores.random(torch.zeros(2, 3), key=k))(keys), expected)


def test_examples_of_a_batch_share_the_noise_of_one_key():
    batch = torch.zeros(3, 4)
    got = torch.vmap(lambda s: ml.random_unstructured(s, key=1, amount=2))(batch)
    assert torch.equal(got, ml.random_unstructured(batch[0], key=1, amount=2).expand(3, 4))
