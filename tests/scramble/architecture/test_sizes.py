"""A made-up family whose layers differ in width: heads, channels of a head and neurons are a layer's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scramble.architecture import Config, Family, Table
from scramble.checkpoints import open_checkpoint
from scramble.equivalence.claims import claim
from scramble.errors import ManifestError, UnknownFamilyError
from scramble.families import FAMILIES, architecture
from scramble.families.blocks import decoder
from scramble.measures.maps.heads import boundaries
from scramble.measures.pairs.ends import ends
from scramble.operations.apply import apply
from scramble.operations.compose import compose
from scramble.operations.inspect import inspect
from scramble.operations.invert import invert
from scramble.transforms.record import read_record
from tests.models import weights
from tests.scramble.written import folder

# KV heads, query heads for each, channels of a head, neurons.
Widths = tuple[int, int, int, int]
HIDDEN, VOCABULARY = 6, 11
AXES = ("kv_head", "group", "v", "neuron")
WIDTHS: list[Widths] = [(2, 2, 4, 10), (3, 1, 5, 7)]


def _sizes(config: Config, layer: int | None) -> dict[str, int]:
    whole = {"hidden": HIDDEN, "vocab": VOCABULARY}
    if layer is None:
        return whole
    found = dict(zip(AXES, config["widths"][layer], strict=True))
    return whole | found | {"qk": found["v"]}


def _table(config: Config, layer: int) -> Table:
    return {**decoder.ATTENTION, **decoder.QKV_BIAS, **decoder.GATED_MLP}


UNEVEN = Family(
    name="uneven",
    sizes=_sizes,
    table=_table,
    outside=lambda config: {
        "model.embed_tokens.weight": "vocab hidden",
        "lm_head.weight": "vocab hidden",
    },
    defaults={"tie_word_embeddings": False},
)


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    FAMILIES["uneven"] = UNEVEN
    yield
    del FAMILIES["uneven"]


def uneven(path: Path, widths: list[Widths], seed: int = 0) -> Path:
    """A checkpoint, its shapes written here and not taken from the table."""
    generator, shapes = torch.Generator().manual_seed(seed), dict[str, tuple[int, ...]]()
    for layer, (heads, group, channels, neurons) in enumerate(widths):
        queries, values = heads * group * channels, heads * channels
        shapes |= {
            f"model.layers.{layer}.{name}": shape
            for name, shape in {
                "self_attn.q_proj.weight": (queries, HIDDEN),
                "self_attn.k_proj.weight": (values, HIDDEN),
                "self_attn.v_proj.weight": (values, HIDDEN),
                "self_attn.o_proj.weight": (HIDDEN, queries),
                "self_attn.q_proj.bias": (queries,),
                "self_attn.k_proj.bias": (values,),
                "self_attn.v_proj.bias": (values,),
                "mlp.gate_proj.weight": (neurons, HIDDEN),
                "mlp.up_proj.weight": (neurons, HIDDEN),
                "mlp.down_proj.weight": (HIDDEN, neurons),
            }.items()
        }
    shapes |= {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    tensors = {
        name: 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    config = {"model_type": "uneven", "num_hidden_layers": len(widths), "widths": widths}
    return folder(path, tensors, **config)


def slow_logits(model: Path, widths: list[Widths]) -> np.ndarray:
    """(time, vocab): attention head by head and neurons one by one, from the stored tensors."""
    held = {name: value.numpy() for name, value in weights(model).items()}
    states = held["model.embed_tokens.weight"][[3, 1, 4, 1, 5, 9]]
    ahead = np.triu(np.full((len(states), len(states)), -np.inf), 1)
    for layer, (heads, group, channels, neurons) in enumerate(widths):
        own = {
            name.removeprefix(f"model.layers.{layer}."): one
            for name, one in held.items()
            if f".{layer}." in name
        }
        q, k, v = (
            states @ own[f"self_attn.{name}_proj.weight"].T + own[f"self_attn.{name}_proj.bias"]
            for name in "qkv"
        )
        mixed = np.zeros_like(states)
        for head in range(heads * group):
            query = slice(head * channels, (head + 1) * channels)
            key = slice(head // group * channels, (head // group + 1) * channels)
            scores = np.exp(q[:, query] @ k[:, key].T / math.sqrt(channels) + ahead)
            attended = scores / scores.sum(axis=1, keepdims=True) @ v[:, key]
            mixed += attended @ own["self_attn.o_proj.weight"][:, query].T
        states = states + mixed
        added = np.zeros_like(states)
        for neuron in range(neurons):
            gate, up = (states @ own[f"mlp.{name}_proj.weight"][neuron] for name in ("gate", "up"))
            added += np.outer(np.tanh(gate) * up, own["mlp.down_proj.weight"][:, neuron])
        states = states + added
    return states @ held["lm_head.weight"].T


CHOSEN = ("vo-rotation", "head-permutation", "neuron-permutation")
SOME = st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(2, 5), st.integers(2, 9))


@given(st.lists(SOME, min_size=1, max_size=3), st.permutations(CHOSEN), st.integers(0, 99))
def test_scrambles_of_layers_of_different_widths_are_exact(
    widths: list[Widths], chosen: tuple[str, ...], seed: int
) -> None:
    with TemporaryDirectory() as scratch:
        base, out = uneven(Path(scratch) / "base", widths, seed), Path(scratch) / "out"
        apply(base, out, layers="all", symmetries=chosen, seed=seed, check=False)
        reference = slow_logits(base, widths)
        gap = np.linalg.norm(slow_logits(out, widths) - reference) / np.linalg.norm(reference)
        assert gap < 1e-12
        old, new = weights(base), weights(out)
        for name, value in old.items():
            inside = ".layers." in name
            assert torch.equal(value, new[name]) != inside, name
        images = compose(out)(old)
        assert all(np.allclose(images[name], new[name], rtol=0, atol=1e-14) for name in new)
        invert(out, Path(scratch) / "back")
        for name, value in weights(Path(scratch) / "back").items():
            assert torch.allclose(value, old[name], rtol=0, atol=1e-13), name


def test_groups_axes_and_heads_are_those_of_the_layer(tmp_path: Path) -> None:
    base = uneven(tmp_path / "base", WIDTHS)
    manifest = apply(base, tmp_path / "out", layers="all", symmetries=CHOSEN, check=False)
    assert [step.group for step in manifest.steps] == [
        *("O(4)^2", "O(5)^3"),
        *("S(2)^2 x S(2), none the identity", "S(3), none the identity"),
        *("S(10), none the identity", "S(7), none the identity"),
    ]
    axes = "hidden=6, vocab=11, kv_head=2/3, group=1/2, v=4/5, neuron=7/10, qk=4/5"
    assert inspect(base).attrs["meta"]["axes"] == axes
    checkpoint = open_checkpoint(base)
    for layer, (heads, group, channels, _) in enumerate(WIDTHS):
        found = boundaries(checkpoint, f"model.layers.{layer}.self_attn.q_proj.weight", 0)
        assert [one.at for one in found] == [channels * head for head in range(1, heads * group)]


def test_claims_and_aligned_updates_take_the_sizes_of_the_layer(tmp_path: Path) -> None:
    base, out = uneven(tmp_path / "base", WIDTHS), tmp_path / "out"
    apply(base, out, layers="all", symmetries=CHOSEN, check=False)
    source, scrambled = open_checkpoint(base), open_checkpoint(out)
    claimed = claim(scrambled, read_record(out).stages(source))
    assert claimed.exact.keys() == {name for name in source.tensors if ".layers." in name}
    for name, values in claimed.exact.items():
        np.testing.assert_allclose(values(), scrambled.words(name).view(np.float64), atol=1e-14)
        assert claimed.off(name) == 0
    run = ends(out, out, aligned=True)
    for name in run.tensors:
        assert (run.read(name, "aligned").delta == 0).all()


def test_sizes_of_a_layer_are_checked(tmp_path: Path) -> None:
    base = uneven(tmp_path / "base", WIDTHS)
    config = {"model_type": "uneven", "num_hidden_layers": 2, "widths": WIDTHS}
    found, held = architecture(config), weights(base)
    shapes = {name: tuple(value.shape) for name, value in held.items()}
    found.check(shapes)
    for name, slot in found.slots().items():
        assert slot.sizes == found.sizes_of(slot.layer)
        assert slot.shape() == shapes[name]
    swapped = architecture(config | {"widths": WIDTHS[::-1]})
    with pytest.raises(UnknownFamilyError, match=r"layers\.0\.self_attn\.q_proj\.weight' has shape"):
        swapped.check(shapes)
    with pytest.raises(UnknownFamilyError, match=r"no usable size for the axes \{'neuron': 0\}"):
        architecture(config | {"widths": [WIDTHS[0], (3, 1, 5, 0)]}).slots()


def test_a_manifest_of_other_widths_is_refused(tmp_path: Path) -> None:
    """Its elements fit some layer of the model, not the one that they are for."""
    base = uneven(tmp_path / "base", WIDTHS)
    apply(base, tmp_path / "out", layers="1", symmetries=CHOSEN, check=False)
    other = uneven(tmp_path / "other", WIDTHS[::-1])
    for name in ("scramble.json", "scramble/elements.safetensors"):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_bytes((tmp_path / "out" / name).read_bytes())
    with pytest.raises(ManifestError, match=r"\(3, 5, 5\), the model's axes are \(2, 4\)"):
        compose(other)


def test_one_length_for_all_layers_is_the_ordinary_case() -> None:
    config = {"model_type": "uneven", "num_hidden_layers": 2, "widths": WIDTHS}
    same = replace(UNEVEN, sizes=lambda config, layer: _sizes(config, 0))
    found = replace(architecture(config), family=same)
    assert found.sizes_of(None) == found.sizes_of(0) == found.sizes_of(1) == found.sizes
