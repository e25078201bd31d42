"""What `verify` without a manifest must see before it says "equivalent": every tensor, row and expert that differs."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from scramble.checkpoints import open_checkpoint
from scramble.errors import SymmetryError, UndecidedError
from scramble.operations.apply import apply
from scramble.operations.coverage import default_inputs
from scramble.operations.fold import fold
from scramble.operations.verify import verify
from scramble.pytest_plugin import assert_equivalent
from scramble.symmetries import SYMMETRIES
from tests.conftest import Command
from tests.models import FAMILIES, Tiny, weights

ULP = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@dataclass(frozen=True)
class Large(Tiny):
    """A tiny model with more rows in its tables and more experts than a few tokens reach."""

    rows: int = 4000
    positions: int = 64
    experts: int = 0

    @property
    def config(self) -> dict[str, Any]:
        config = super().config | {"vocab_size": self.rows, "max_position_embeddings": self.positions}
        if self.family == "gpt2":
            config["n_positions"] = self.positions
        if self.experts:
            keys = ("num_experts", "num_local_experts", "n_routed_experts")
            config |= {key: self.experts for key in keys if key in config} | {"num_experts_per_tok": 1}
            config |= {key: 1 for key in ("n_group", "topk_group") if key in config}
        return config


def copy(base: Path, target: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A checkpoint of the same config with other tensors."""
    target.mkdir()
    save_file(
        {name: one.contiguous() for name, one in tensors.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    (target / "config.json").write_bytes((base / "config.json").read_bytes())
    return target


def damaged(weight: torch.Tensor, kind: str, share: float, rng: random.Random) -> torch.Tensor:
    """A copy with random rows (or all, or one entry) that are no longer what they were."""
    found = weight.clone().reshape(len(weight) if weight.ndim else 1, -1)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    count = max(1, round(share * len(found)))
    rows = torch.tensor(sorted(rng.sample(range(len(found)), count)))
    old = found[rows]
    noise = torch.randn(old.shape, generator=generator, dtype=torch.float64)
    if kind == "zeroed":
        new = torch.zeros_like(old)
    elif kind == "scaled":
        new = old * 1.5
    elif kind == "negated":
        new = -old
    elif kind == "swapped":
        new = old.roll(1, dims=0) if count > 1 else old.roll(1, dims=1)
    elif kind == "noise":
        new = (old.double() * (1 + 8 * ULP[weight.dtype] * (1 + noise.abs()) * noise.sign())).to(weight.dtype)
    else:
        new = old.clone()
        column = rng.randrange(old.shape[1])
        new[0, column] = new[0, column] * 1.25 + 0.125
    found[rows] = new
    return found.reshape(weight.shape)


KINDS = ("zeroed", "scaled", "negated", "swapped", "noise", "entry")


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(st.data())
def test_damage_to_any_one_tensor_is_never_equivalent(family: str, data: st.DataObject) -> None:
    tiny = Tiny(
        family,
        kv_heads=2,
        group=data.draw(st.sampled_from([1, 2])),
        head_dim=8,
        layers=2,
        switched=data.draw(st.booleans()),
        tied=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 100)),
    )
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]))
    rng = random.Random(data.draw(st.integers(0, 2**31)))
    with TemporaryDirectory() as scratch:
        base = tiny.save(Path(scratch) / "base", dtype)
        tensors = weights(base)
        name = data.draw(st.sampled_from(sorted(tensors)))
        kind, share = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
        new = damaged(tensors[name], kind, share, rng)
        if torch.equal(new, tensors[name]):
            return
        copy(base, Path(scratch) / "other", tensors | {name: new})
        try:
            found = verify(base, Path(scratch) / "other")
        except UndecidedError as error:
            assert name in str(error)  # noqa: PT017
        else:
            assert found.verdict == "not equivalent", (tiny, name, kind, share, dtype, found)


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_rows_that_random_tokens_miss(tied: bool, tmp_path: Path, command: Command) -> None:
    base = Large("llama", 2, 1, 8, layers=1, tied=tied, seed=1).save(tmp_path / "base", torch.bfloat16)
    tensors = weights(base)
    drawn = default_inputs(open_checkpoint(base)).tokens
    rows = [row for row in range(3, 4000, 190) if row not in drawn][:20]
    assert len(rows) == 20
    tensors["model.embed_tokens.weight"][rows] = 0
    other = copy(base, tmp_path / "other", tensors)
    assert command("verify", base, other).code == 1
    with pytest.raises(AssertionError, match="not equivalent"):
        assert_equivalent(base, other)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("rows", [range(32, 64), [41], [63]])
def test_positions_behind_the_sequences(family: str, rows: Any, tmp_path: Path, command: Command) -> None:
    base = Tiny(family, 2, 1, 8, layers=1, seed=1).save(tmp_path / "base", torch.bfloat16)
    tensors = weights(base)
    (name,) = (one for one in tensors if "wpe" in one or "embed_positions" in one)
    tensors[name][list(rows)] = 0
    other = copy(base, tmp_path / "other", tensors)
    assert command("verify", base, other).code == 1
    with pytest.raises(AssertionError, match="not equivalent"):
        assert_equivalent(base, other)
