"""Tiny models of every family, made by transformers, with every bias and gain random and not zero."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from scramble.families import FAMILIES as TABLES
from scramble.models.arithmetic import Float64

FAMILIES = tuple(TABLES)
# These have no head_dim of their own.
_DIVIDED = (
    *("cohere", "falcon", "gpt2", "gpt_neox", "olmo", "olmo2", "opt"),
    *("phi", "phi3", "qwen2", "qwen2_moe", "stablelm", "starcoder2"),
)
# These have as many KV heads as query heads.
_UNGROUPED = ("deepseek_v3", "gpt2", "gpt_neox", "opt")
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 10}
# What a family's config needs to be small.
_SMALL: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **{"n_routed_experts": 6, "num_experts_per_tok": 2, "n_group": 3, "topk_group": 2},
        **{"first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": None, "n_shared_experts": 2},
        **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "moe_intermediate_size": 10},
    },
    "glm": _TOKENS,
    "glm4": _TOKENS,
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": _TOKENS,
    "qwen2_moe": {**_MOE, "shared_expert_intermediate_size": 14, "mlp_only_layers": [1]},
    "qwen3_moe": {**_MOE, "mlp_only_layers": [1]},
    "smollm3": _TOKENS,
}
# What a config may switch on: biases, a clamp that binds, positions on a part of the channels, norms.
_SWITCHES: dict[str, dict[str, Any]] = {
    "cohere": {"attention_bias": True, "use_qk_norm": True},
    "deepseek_v3": {
        "attention_bias": True,
        "q_lora_rank": 14,
        "rope_interleave": False,
        "n_group": 1,
        "topk_group": 1,
    },
    "falcon": {"alibi": True, "bias": True, "parallel_attn": False},
    "gemma": {"attention_bias": True},
    "gemma2": {"attention_bias": True},
    "gemma3_text": {"attention_bias": True},
    "glm": {"attention_bias": False},
    "glm4": {"attention_bias": False},
    "gpt2": {"n_inner": 20},
    "gpt_neox": {"attention_bias": False, "rotary_pct": 1.0},
    "gpt_oss": {"attention_bias": False},
    "granite": {"attention_bias": True, "mlp_bias": True},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "olmo": {"attention_bias": True, "clip_qkv": 0.7},
    "olmo2": {"attention_bias": True},
    "opt": {"enable_bias": False, "do_layer_norm_before": False, "word_embed_proj_dim": 10},
    "phi": {"qk_layernorm": True},
    "phi3": {"partial_rotary_factor": 0.5},
    "qwen2_moe": {"qkv_bias": False},
    "qwen3": {"attention_bias": True},
    "qwen3_moe": {"attention_bias": True},
    "smollm3": {"attention_bias": True, "mlp_bias": True, "no_rope_layers": [1, 0, 1]},
    "stablelm": {"qk_layernorm": True, "use_qkv_bias": True, "use_parallel_residual": True},
    "starcoder2": {"use_bias": False},
}

# Of the layers of `Tiny("llama")`.
MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


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
    def heads(self) -> tuple[int, int]:
        """KV heads, and query heads for each, that the configuration really has."""
        if self.family == "falcon" and self.switched and self.group > 1:
            return 1, self.kv_heads * self.group
        return self.kv_heads, 1 if self.ungrouped else self.group

    @property
    def pairs(self) -> bool:
        """Whether the rotary channels come in pairs; these families cannot run otherwise."""
        part = {"phi": 0.5, "stablelm": 0.25, "gpt_neox": 1.0 if self.switched else 0.25}.get(
            self.family, 1.0
        )
        return int(self.head_dim * part) % 2 == 0 and self.head_dim * part >= 2

    @property
    def ungrouped(self) -> bool:
        return self.family in _UNGROUPED or (self.family == "falcon" and self.switched)

    @property
    def config(self) -> dict[str, Any]:
        heads = self.heads[0] * self.heads[1]
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
        if self.family not in (*_DIVIDED, "deepseek_v3"):
            config["head_dim"] = self.head_dim
        if self.family == "gpt2":
            config |= {"n_embd": hidden, "n_head": heads, "n_layer": self.layers, "n_positions": 64}
        if self.family == "opt":
            config |= {"ffn_dim": 20, "word_embed_proj_dim": hidden}
        if self.family == "falcon":
            # The new architecture has any number of KV heads, the old one has one or all of them.
            config |= {"num_kv_heads": self.heads[0], "new_decoder_architecture": not self.switched}
            config |= {"multi_query": self.heads[0] == 1}
        config |= _SMALL.get(self.family, {})
        if self.switched:
            config |= _SWITCHES.get(self.family, {})
        if config.get("no_rope_layers"):
            config["no_rope_layers"] = config["no_rope_layers"][: self.layers]
        return config

    def build(self) -> PreTrainedModel:
        """A float64 model whose parameters are all random."""
        return built(AutoConfig.for_model(self.family, **self.config), self.seed)

    def save(self, folder: Path, dtype: torch.dtype = torch.float64, shard: str = "1GB") -> Path:
        self.build().to(dtype).save_pretrained(folder, max_shard_size=shard)
        return folder


def built(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A float64 model of a config whose parameters are all random."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, experts_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        biases = [(name, one) for name, one in model.named_buffers() if "correction_bias" in name]
        for name, parameter in [*model.named_parameters(), *biases]:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.4 * noise)
    return model.eval()


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
    ).filter(lambda tiny: tiny.heads[0] * tiny.heads[1] > 1 and tiny.pairs)


def logits(folder: Path) -> torch.Tensor:
    """float64 logits of a checkpoint on fixed tokens, loaded the way a user would."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    ).eval()
    tokens = torch.randint(0, 31, (2, 11), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode(), Float64():
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


def error(model: Path, base: Path) -> float:
    """Relative error of the logits of a model against those of its base."""
    reference = logits(base)
    return float(torch.linalg.norm(logits(model) - reference) / torch.linalg.norm(reference))
