"""More damage is never more equivalent: of the verdict's numbers, and of the weights that they come from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from scramble.equivalence.certify import worse
from scramble.errors import UndecidedError
from scramble.operations.apply import apply
from scramble.operations.verify import verify
from scramble.transforms.manifest import Equivalence
from tests.models import Tiny, weights
from tests.training import swept

NAN, INFINITY = float("nan"), float("inf")
sizes = st.floats(0, 10) | st.floats(0, 1e-8) | st.just(INFINITY)
growth = st.floats(1, 1e6)


@dataclass(frozen=True)
class Checks:
    """Numbers that a verdict is computed from; `claimed` are those that only a manifest gives."""

    storage: tuple[float, float]
    claimed: tuple[float, float, int] | None

    def judged(self, **changes: Any) -> Equivalence:
        algebra, bound, off = self.claimed or (None, None, None)
        values = {"algebra_error": algebra, "algebra_bound": bound, "weights_off": off}
        values |= {"storage_error": self.storage[0], "storage_bound": self.storage[1]}
        rest = {"noise_floor": 1.0, "arithmetic": "float64", "tokens": 1}
        return Equivalence.judged(**values | rest | changes)


pairs = st.tuples(sizes, sizes)
checks = st.builds(Checks, pairs, st.none() | st.tuples(sizes, sizes, st.integers(0, 2)))
WORSE = {
    "storage_error": lambda value, by: value * by + (by - 1),
    "algebra_error": lambda value, by: value * by + (by - 1),
    "weights_off": lambda value, by: value + int(by),
    "storage_bound": lambda value, by: value / by,
    "algebra_bound": lambda value, by: value / by,
}


@given(found=checks, name=st.sampled_from(sorted(WORSE)), by=growth)
@settings(max_examples=100)
def test_a_larger_error_or_a_smaller_bound_never_makes_them_equivalent(
    found: Checks, name: str, by: float
) -> None:
    before = found.judged()
    value = getattr(before, name)
    if value is None:
        return
    after = found.judged(**{name: WORSE[name](value, by)})
    assert before.equivalent or not after.equivalent
    assert after.equivalent == (not after.failed())


@given(
    found=checks, name=st.sampled_from(["storage_error", "algebra_error", "storage_bound", "algebra_bound"])
)
def test_what_is_no_number_is_not_equivalent(found: Checks, name: str) -> None:
    if getattr(found.judged(), name) is not None:
        assert not found.judged(**{name: NAN}).equivalent


@given(storage=pairs, claimed=st.tuples(sizes, sizes, st.integers(0, 2)))
def test_a_further_check_never_makes_them_equivalent(
    storage: tuple[float, float], claimed: tuple[float, float, int]
) -> None:
    few, many = Checks(storage, None).judged(), Checks(storage, claimed).judged()
    assert few.equivalent or not many.equivalent
    failing = (claimed[0] > claimed[1], claimed[2] > 0)
    assert not (any(failing) and many.equivalent)


def test_without_any_check_nothing_is_equivalent() -> None:
    assert not Checks((0.0, 1.0), None).judged(storage_bound=None).equivalent


@given(one=checks, other=checks)
def test_of_two_runs_the_worse_one_counts(one: Checks, other: Checks) -> None:
    both = [one.judged(), other.judged()]
    for first, second in (both, both[::-1]):
        assert worse(first, second).equivalent == (first.equivalent and second.equivalent)
        broken = second.model_copy(update={"storage_error": NAN, "verdict": "not equivalent"})
        assert not worse(first, broken).equivalent


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and its scramble, and the scramble once more without its manifest."""
    folder = tmp_path_factory.mktemp("world")
    base = Tiny("qwen2", kv_heads=2, group=2, head_dim=4, layers=1, seed=3).save(
        folder / "base", torch.bfloat16
    )
    apply(base, folder / "known", layers="all")
    shutil.copytree(folder / "known", folder / "bare")
    (folder / "bare" / "scramble.json").unlink()
    return folder


def rank(base: Path, model: Path) -> int:
    """0: equivalent, or could not tell; 1: not equivalent."""
    try:
        return int(not verify(base, model).equivalent)
    except UndecidedError:
        return 0


def written(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


LAYER = "model.layers.0."
# Of scrambled tensors, a bias, a norm that no symmetry touched, and a table, which is compared by rows too.
DAMAGED = [
    *(f"{LAYER}self_attn.{name}" for name in ("v_proj.weight", "k_proj.bias")),
    f"{LAYER}input_layernorm.weight",
    "model.embed_tokens.weight",
]
# Of the tensor's own scale, from none over what bf16 rounds away (2^-9) in all but the least of its values.
STEPS = [0.0, *(2.0**-16 * 4.0**step for step in range(9))]


@pytest.mark.parametrize(
    ("kind", "name"), swept([("known", DAMAGED[0]), *(("bare", name) for name in DAMAGED)], kept=2)
)
def test_growing_damage_is_never_more_equivalent(kind: str, name: str, world: Path, tmp_path: Path) -> None:
    model = shutil.copytree(world / kind, tmp_path / "model")
    whole = weights(model)
    right = whole[name].double()
    draw = torch.randn(right.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = []
    for size in STEPS:
        damaged = (right + size * right.abs().mean() * draw).to(torch.bfloat16)
        written(model, whole | {name: damaged})
        ranks.append(rank(world / "base", model))
    assert ranks == sorted(ranks)
    assert (ranks[0], ranks[-1]) == (0, 1)


@given(data=st.data())
@settings(max_examples=8)
def test_with_a_manifest_any_single_wrong_weight_is_not_equivalent(
    data: st.DataObject, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = weights(world / "known")
    name = data.draw(st.sampled_from(sorted(whole)))
    words = whole[name].view(torch.int16).flatten().clone()
    place = data.draw(st.integers(0, words.numel() - 1))
    word = int(words[place]) & 0xFFFF
    other = data.draw(st.integers(0, 0xFFFF).filter(lambda one: one != word and {one, word} != {0, 0x8000}))
    words[place] = int(np.uint16(other).view(np.int16))
    model = tmp_path_factory.mktemp("one") / "model"
    shutil.copytree(world / "known", model)
    written(model, whole | {name: words.view(torch.bfloat16).reshape(whole[name].shape)})
    assert rank(world / "base", model) == 1
