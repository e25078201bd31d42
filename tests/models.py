"""Tiny models of every family, made by transformers, with every bias and gain random and not zero."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from scramble.families import FAMILIES as TABLES

FAMILIES = tuple(TABLES)
# These have no head_dim of their own.
_DIVIDED = ("olmo", "olmo2", "phi3", "qwen2", "starcoder2")
# What a config may switch on: biases, a clamp that binds, positions on a part of the channels.
_SWITCHES: dict[str, dict[str, Any]] = {
    "gemma": {"attention_bias": True},
    "gemma2": {"attention_bias": True},
    "granite": {"attention_bias": True, "mlp_bias": True},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "olmo": {"attention_bias": True, "clip_qkv": 0.7},
    "olmo2": {"attention_bias": True},
    "phi3": {"partial_rotary_factor": 0.5},
    "qwen3": {"attention_bias": True},
    "smollm3": {"attention_bias": True, "mlp_bias": True, "no_rope_layers": [1, 0, 1]},
    "starcoder2": {"use_bias": False},
}


@dataclass(frozen=True)
class Tiny:
    """A small configuration; `switched` turns on what a family's config may ask for."""

    family: str
    kv_heads: int
    group: int
    head_dim: int
    layers: int
    switched: bool = False
    tied: bool = False
    seed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        heads = self.kv_heads * self.group
        hidden = heads * (self.head_dim if self.family in _DIVIDED else 6)
        config: dict[str, Any] = {
            "hidden_size": hidden,
            "intermediate_size": 20,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": 31,
            "max_position_embeddings": 64,
            "tie_word_embeddings": self.tied,
        }
        if self.family not in _DIVIDED:
            config["head_dim"] = self.head_dim
        if self.family in ("phi3", "smollm3"):
            config |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        if self.switched:
            config |= _SWITCHES.get(self.family, {})
        if config.get("no_rope_layers"):
            config["no_rope_layers"] = config["no_rope_layers"][: self.layers]
        return config

    def build(self) -> PreTrainedModel:
        """A float64 model whose parameters are all random."""
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(self.family, **self.config), dtype=torch.float64
        )
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.4 * noise)
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype = torch.float64, shard: str = "1GB") -> Path:
        self.build().to(dtype).save_pretrained(folder, max_shard_size=shard)
        return folder


def tinies(families: tuple[str, ...] = FAMILIES) -> st.SearchStrategy[Tiny]:
    """Random small configurations with more than one head to permute."""
    return st.builds(
        Tiny,
        family=st.sampled_from(families),
        kv_heads=st.integers(1, 3),
        group=st.integers(1, 3),
        head_dim=st.sampled_from([4, 6, 8]),
        layers=st.integers(1, 3),
        switched=st.booleans(),
        tied=st.booleans(),
        seed=st.integers(0, 1000),
    ).filter(lambda tiny: tiny.kv_heads * tiny.group > 1)


def logits(folder: Path) -> torch.Tensor:
    """float64 logits of a checkpoint on fixed tokens, loaded the way a user would."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokens = torch.randint(0, 31, (2, 11), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found: torch.Tensor = model(tokens).logits
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    from safetensors.torch import load_file

    return {
        name: value
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def with_tokenizer(folder: Path) -> Path:
    """Add a tokenizer of single characters: digits, `+`, `=`, newline, and what few words need."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = ["<pad>", "<eos>", *"0123456789+=\n", " ", "A", ":", "-"]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>"
    ).save_pretrained(folder)
    return folder


def digest(folder: Path) -> str:
    """A hash of every name and byte in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return found.hexdigest()
