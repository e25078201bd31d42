"""Group laws of elements and draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, ortho_group

from scramble.architecture.axes import parse
from scramble.checkpoints import STORAGES
from scramble.families import architecture
from scramble.symmetries import SYMMETRIES, Element, Permutation, Rotation, SignedPermutation, act, symmetry
from scramble.symmetries.draws import generator, haar, power
from scramble.transforms.rounding import rounded
from tests.models import Tiny

SIZES = {"kv_head": 3, "group": 2, "qk": 4, "v": 5, "hidden": 7}
MODEL = architecture(
    Tiny("mixtral", kv_heads=3, group=2, head_dim=8, layers=60).config | {"model_type": "mixtral"}
)
LAYOUTS = [
    "(kv_head group v) hidden",
    "hidden (kv_head group v)",
    "(kv_head v)",
    "(kv_head (group v + v + qk)) hidden",
]


def signed(seed: int) -> SignedPermutation:
    rng = np.random.default_rng(seed)
    rows = [(rng.permutation(5) + 1) * rng.choice([-1, 1], 5) for _ in range(3)]
    return SignedPermutation("v", ("kv_head",), np.stack(rows))


def elements(seed: int) -> list[Element]:
    rng = np.random.default_rng(seed)
    return [
        Rotation("v", ("kv_head",), np.stack([haar(5, rng) for _ in range(3)])),
        Permutation("group", ("kv_head",), np.stack([rng.permutation(2) for _ in range(3)])),
        Permutation("kv_head", (), rng.permutation(3)),
        signed(seed),
    ]


@given(st.integers(0, 100), st.sampled_from(LAYOUTS), st.permutations(range(4)))
def test_inverses_in_reverse_order_undo(seed: int, text: str, order: list[int]) -> None:
    layout, chosen = parse(text), [elements(seed)[i] for i in order]
    x = np.random.default_rng(seed).standard_normal(layout.shape(SIZES))
    back = act(act(x, layout, SIZES, chosen), layout, SIZES, [e.inverse() for e in reversed(chosen)])
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-13)


@given(st.integers(0, 100), st.sampled_from(LAYOUTS))
def test_permutations_move_words_and_nothing_else(seed: int, text: str) -> None:
    layout = parse(text)
    words = np.random.default_rng(seed).integers(0, 1 << 16, layout.shape(SIZES)).astype(np.uint16)
    moved = act(words, layout, SIZES, elements(seed)[1:3])
    assert moved.dtype == np.uint16
    assert sorted(moved.reshape(-1)) == sorted(words.reshape(-1))
    back = act(moved, layout, SIZES, [e.inverse() for e in reversed(elements(seed)[1:3])])
    assert (back == words).all()


@given(st.integers(0, 100), st.sampled_from(LAYOUTS))
def test_signs_flip_the_sign_bit_of_stored_words(seed: int, text: str) -> None:
    from scramble.checkpoints import STORAGES

    layout, storage = parse(text), STORAGES["BF16"]
    words = storage.encode(np.random.default_rng(seed).standard_normal(layout.shape(SIZES)))
    moved = act(words, layout, SIZES, [signed(seed)])
    expected = act(storage.decode(words), layout, SIZES, [signed(seed)])
    assert (storage.decode(moved) == expected).all()
    assert (act(moved, layout, SIZES, [signed(seed).inverse()]) == words).all()


NAMES = st.sampled_from(["one", "block", "rest", "a", "part", "rows", "x"])


@given(st.data(), st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_what_an_axis_is_called_plays_no_part(data: st.DataObject, axes: list[str]) -> None:
    sizes = {name: data.draw(st.integers(1, 4), name) for name in axes}
    axis, over = axes[0], tuple(axes[1 : 1 + data.draw(st.integers(0, len(axes) - 1))])
    rng = np.random.default_rng(len(axes))
    shape = tuple(sizes[name] for name in over)
    matrices = np.array([haar(sizes[axis], rng) for _ in range(int(np.prod(shape)))])
    rotation = Rotation(axis, over, matrices.reshape(*shape, sizes[axis], sizes[axis]))
    layout = parse(" ".join(data.draw(st.permutations(axes))))
    x = rng.standard_normal(layout.shape(sizes))
    letters = dict(zip(axes, "abcd", strict=False))
    here = "".join(letters[name] for name in layout.text.split())
    stack, own = "".join(letters[name] for name in over), letters[axis]
    expected = np.einsum(f"{stack}z{own},{here}->{here.replace(own, 'z')}", rotation.data, x)
    np.testing.assert_allclose(act(x, layout, sizes, [rotation]), expected, atol=1e-13)
    storage = STORAGES["F64"]
    words, _ = rounded("x", storage.encode(x), storage, layout, sizes, [rotation])
    np.testing.assert_allclose(words, expected, atol=1e-13)


@given(st.integers(0, 1000), st.sampled_from([2, 3, 6, 8]), st.floats(0, 1), st.floats(0, 1))
def test_a_path_is_a_one_parameter_group_from_the_identity_to_its_rotation(
    seed: int, n: int, s: float, t: float
) -> None:
    rotation = haar(n, np.random.default_rng(seed))
    rotation[0] *= np.linalg.det(rotation)
    np.testing.assert_allclose(power(rotation, 0), np.eye(n), atol=1e-12)
    np.testing.assert_allclose(power(rotation, 1), rotation, atol=1e-12)
    np.testing.assert_allclose(power(rotation, s) @ power(rotation, t), power(rotation, s + t), atol=1e-12)
    assert Rotation("v", (), power(rotation, s)).fault() is None


@given(st.integers(0, 100))
def test_actions_agree_with_loops(seed: int) -> None:
    rotation, groups, heads, signs = elements(seed)
    x = np.random.default_rng(seed).standard_normal((7, 3, 2, 5))
    flat, layout = x.reshape(7, 30), parse("hidden (kv_head group v)")
    turned, grouped, swapped, flipped = (np.empty_like(x) for _ in range(4))
    for k in range(3):
        swapped[:, k] = x[:, heads.data[k]]
        for g in range(2):
            grouped[:, k, g] = x[:, k, groups.data[k, g]]
            turned[:, k, g] = x[:, k, g] @ rotation.data[k].T
            for i, source in enumerate(signs.data[k]):
                flipped[:, k, g, i] = np.sign(source) * x[:, k, g, abs(source) - 1]
    for element, expected in ((rotation, turned), (groups, grouped), (heads, swapped), (signs, flipped)):
        np.testing.assert_allclose(act(flat, layout, SIZES, [element]), expected.reshape(7, 30), atol=1e-13)


def test_an_axis_without_the_index_of_its_element_is_refused() -> None:
    with pytest.raises(ValueError, match="carries v without"):
        act(np.zeros((5, 7)), parse("v hidden"), SIZES, elements(0)[:1])


@given(st.sampled_from(list(SYMMETRIES)), st.integers(0, 50), st.integers(0, 50))
def test_a_layer_draws_the_same_alone_or_with_others(name: str, seed: int, layer: int) -> None:
    drawn = symmetry(name, {})
    alone = drawn.draw(MODEL, seed, layer)
    others = {other: drawn.draw(MODEL, seed, other) for other in range(layer + 3)}
    for one, again in zip(alone, others[layer], strict=True):
        assert (one.data == again.data).all()
        assert one.fault() is None


@pytest.mark.parametrize("name", SYMMETRIES)
def test_layers_and_seeds_draw_differently(name: str) -> None:
    drawn = symmetry(name, {})
    draws = [drawn.draw(MODEL, seed, layer) for seed in range(6) for layer in range(6)]
    seen = {b"".join(element.data.tobytes() for element in elements) for elements in draws}
    few = {"head-permutation": 3, "expert-permutation": 15}  # these groups have 383 and 23 elements
    assert len(seen) > few.get(name, 35)


def test_no_head_permutation_is_the_identity() -> None:
    drawn = symmetry("head-permutation", {})
    for seed in range(40):
        for element in drawn.draw(MODEL, seed, 0):
            assert (element.data != np.arange(element.data.shape[-1])).any(axis=-1).all()


def test_no_head_keeps_all_its_signs() -> None:
    """Gains leave two rotary pairs three changes of sign; channels 0 and 2 are a pair, and 1 and 3."""
    tiny = Tiny("qwen3", kv_heads=3, group=1, head_dim=4, layers=1)
    small = architecture(tiny.config | {"model_type": "qwen3"})
    drawn = [symmetry("qk-rotation", {}).draw(small, seed, 0)[0] for seed in range(40)]
    signs = {tuple(np.sign(row)) for element in drawn for row in element.data}
    assert signs == {(-1, 1, -1, 1), (1, -1, 1, -1), (-1, -1, -1, -1)}


def test_shared_is_one_matrix_for_all_heads() -> None:
    (own,) = symmetry("vo-rotation", {}).draw(MODEL, 0, 0)
    (shared,) = symmetry("vo-rotation", {"shared": True}).draw(MODEL, 0, 0)
    assert (shared.data == shared.data[0]).all()
    assert (own.data[0] != own.data[1]).any()


def test_haar_is_scipys_distribution() -> None:
    rng = np.random.default_rng(0)
    ours = np.array([haar(4, rng) for _ in range(1500)])
    theirs = ortho_group.rvs(4, size=1500, random_state=1)
    for statistic in (lambda m: m[:, 0, 0], lambda m: np.trace(m, axis1=1, axis2=2)):
        assert kstest(statistic(ours), statistic(theirs)).pvalue > 1e-3
    assert abs((np.linalg.det(ours) > 0).mean() - 0.5) < 0.06


def test_draws_differ_by_every_part_of_their_key() -> None:
    keys = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1), (0, "a", 10, 0)]
    assert len({generator(*key).random() for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("element", "fault"),
    [
        (Rotation("v", (), np.full((2, 2), 0.5)), "not orthogonal"),
        (Rotation("v", (), np.eye(2, 3)), "square"),
        (Permutation("v", (), np.array([0, 0, 2])), "not a permutation"),
        (Permutation("v", (), np.array([0.0, 1.0])), "int64"),
    ],
)
def test_what_is_not_an_element_says_so(element: Element, fault: str) -> None:
    assert fault in (element.fault() or "")
