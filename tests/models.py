"""Tiny models of every family, made by transformers, with every bias and gain random and not zero."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from scramble.errors import UnknownFamilyError
from scramble.families import FAMILIES as TABLES
from scramble.families import architecture
from scramble.models.arithmetic import Float64

FAMILIES = tuple(TABLES)
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 10}
Config = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a family's configuration has beside the usual keys. A family without any needs no entry.

    Attributes:
        small: keys that make a model small, or that transformers needs.
        switches: what a config may switch on: biases, a clamp that binds, partial positions, other norms.
        own: the family's own names for the usual keys, from these.
        heads: KV heads, and query heads for each, that the family has for those that are asked for.
        head_dim: whether `head_dim` is a key, so that the hidden size is none of its multiples.
    """

    small: Config = field(default_factory=dict)
    switches: Config = field(default_factory=dict)
    own: Callable[[Tiny, Config], Config] = lambda tiny, usual: {}
    heads: Callable[[Tiny], tuple[int, int]] = lambda tiny: (tiny.kv_heads, tiny.group)
    head_dim: bool = True


def _ungrouped(tiny: Tiny) -> tuple[int, int]:
    return tiny.kv_heads, 1


def _gpt2(tiny: Tiny, usual: Config) -> Config:
    names = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    return {own: usual[name] for own, name in names.items()} | {"n_positions": 64}


def _falcon_heads(tiny: Tiny) -> tuple[int, int]:
    """The new architecture has any number of KV heads, the old one (switched) has one or all of them."""
    if not tiny.switched:
        return tiny.kv_heads, tiny.group
    return (1, tiny.kv_heads * tiny.group) if tiny.group > 1 else (tiny.kv_heads, 1)


def _falcon(tiny: Tiny, usual: Config) -> Config:
    count = tiny.heads[0]
    return {
        "num_kv_heads": count,
        "new_decoder_architecture": not tiny.switched,
        "multi_query": count == 1,
    }


_BIAS = {"attention_bias": True}
_BIASES = {"attention_bias": True, "mlp_bias": True}
_SETTINGS: dict[str, Settings] = {
    "cohere": Settings(switches={**_BIAS, "use_qk_norm": True}, head_dim=False),
    "deepseek_v3": Settings(
        small={
            **{"n_routed_experts": 6, "num_experts_per_tok": 2, "n_group": 3, "topk_group": 2},
            **{"first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": None, "n_shared_experts": 2},
            **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "moe_intermediate_size": 10},
        },
        switches={**_BIAS, "q_lora_rank": 14, "rope_interleave": False, "n_group": 1, "topk_group": 1},
        heads=_ungrouped,
        own=lambda tiny, usual: {"hidden_size": 6 * usual["num_attention_heads"]},
        head_dim=False,
    ),
    "falcon": Settings(
        switches={"alibi": True, "bias": True, "parallel_attn": False},
        own=_falcon,
        heads=_falcon_heads,
        head_dim=False,
    ),
    "gemma": Settings(switches=_BIAS),
    "gemma2": Settings(switches=_BIAS),
    "gemma3_text": Settings(switches=_BIAS),
    "glm": Settings(small=_TOKENS, switches={"attention_bias": False}),
    "glm4": Settings(small=_TOKENS, switches={"attention_bias": False}),
    "gpt2": Settings(switches={"n_inner": 20}, own=_gpt2, heads=_ungrouped, head_dim=False),
    "gpt_neox": Settings(
        switches={"attention_bias": False, "rotary_pct": 1.0}, heads=_ungrouped, head_dim=False
    ),
    "gpt_oss": Settings(
        small={
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
        },
        switches={"attention_bias": False},
    ),
    "granite": Settings(switches=_BIASES),
    "llama": Settings(switches=_BIASES),
    "mixtral": Settings(small={"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo": Settings(switches={**_BIAS, "clip_qkv": 0.7}, head_dim=False),
    "olmo2": Settings(switches=_BIAS, head_dim=False),
    "opt": Settings(
        switches={"enable_bias": False, "do_layer_norm_before": False, "word_embed_proj_dim": 10},
        own=lambda tiny, usual: {"ffn_dim": 20, "word_embed_proj_dim": usual["hidden_size"]},
        heads=_ungrouped,
        head_dim=False,
    ),
    "phi": Settings(switches={"qk_layernorm": True}, head_dim=False),
    "phi3": Settings(small=_TOKENS, switches={"partial_rotary_factor": 0.5}, head_dim=False),
    "qwen2": Settings(head_dim=False),
    "qwen2_moe": Settings(
        small={**_MOE, "shared_expert_intermediate_size": 14, "mlp_only_layers": [1]},
        switches={"qkv_bias": False},
        head_dim=False,
    ),
    "qwen3": Settings(switches=_BIAS),
    "qwen3_moe": Settings(small={**_MOE, "mlp_only_layers": [1]}, switches=_BIAS),
    "smollm3": Settings(
        small=_TOKENS,
        switches=_BIASES,
        own=lambda tiny, usual: {"no_rope_layers": [1, 0, 1][: tiny.layers]} if tiny.switched else {},
    ),
    "stablelm": Settings(
        switches={"qk_layernorm": True, "use_qkv_bias": True, "use_parallel_residual": True}, head_dim=False
    ),
    "starcoder2": Settings(switches={"use_bias": False}, head_dim=False),
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
    def settings(self) -> Settings:
        return _SETTINGS.get(self.family, Settings())

    @property
    def heads(self) -> tuple[int, int]:
        """KV heads, and query heads for each, that the configuration really has."""
        return self.settings.heads(self)

    @property
    def pairs(self) -> bool:
        """Whether the rotary channels come in pairs; families cannot run otherwise."""
        try:
            architecture(self.config | {"model_type": self.family}).constraints(None)
        except UnknownFamilyError as refused:
            if "not pairs" in str(refused):
                return False
            raise
        return True

    @property
    def sparse(self) -> set[int]:
        """Layers with routed experts, by transformers' modules."""
        names = [name for name in _modules(replace(self, seed=0)) if name.endswith(".experts")]
        prefix = TABLES[self.family].layer
        found = [prefix.replace("{layer}", str(layer)) for layer in range(self.layers)]
        return {layer for layer, one in enumerate(found) if any(name.startswith(one) for name in names)}

    @property
    def norms(self) -> set[str]:
        """Classes of transformers' norms."""
        return {kind for kind in _modules(replace(self, seed=0)).values() if "Norm" in kind}

    def on_meta(self) -> PreTrainedModel:
        """transformers' model without memory."""
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(self.family, **self.config)
            )
        return model

    @property
    def config(self) -> Config:
        heads = self.heads[0] * self.heads[1]
        usual: Config = {
            "hidden_size": heads * (6 if self.settings.head_dim else self.head_dim),
            "intermediate_size": 20,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": 31,
            "max_position_embeddings": 64,
            "tie_word_embeddings": self.tied,
        }
        if self.settings.head_dim:
            usual["head_dim"] = self.head_dim
        switches = self.settings.switches if self.switched else {}
        return usual | self.settings.own(self, usual) | self.settings.small | switches

    def build(self) -> PreTrainedModel:
        """A float64 model whose parameters are all random."""
        return built(AutoConfig.for_model(self.family, **self.config), self.seed)

    def save(self, folder: Path, dtype: torch.dtype = torch.float64, shard: str = "1GB") -> Path:
        self.build().to(dtype).save_pretrained(folder, max_shard_size=shard)
        return folder


@cache
def _modules(tiny: Tiny) -> dict[str, str]:
    """The classes of transformers' modules by name."""
    return {name: type(module).__name__ for name, module in tiny.on_meta().named_modules()}


MIXTURES = tuple(family for family in FAMILIES if Tiny(family, 2, 2, 8, layers=2).sparse)


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
