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

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Tiny:
    """A small configuration; `biased` turns on the biases that a family's config may ask for."""

    family: str
    kv_heads: int
    group: int
    head_dim: int
    layers: int
    biased: bool = False
    tied: bool = False
    seed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        heads = self.kv_heads * self.group
        # Qwen2 has no head_dim of its own; elsewhere hidden need not be heads * head_dim.
        hidden = heads * (self.head_dim if self.family == "qwen2" else 6)
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
        if self.family != "qwen2":
            config["head_dim"] = self.head_dim
        if self.family in ("llama", "qwen3"):
            config["attention_bias"] = self.biased
        if self.family == "llama":
            config["mlp_bias"] = self.biased
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
        biased=st.booleans(),
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
