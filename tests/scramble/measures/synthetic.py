"""Runs that are the same on every machine: weights and updates drawn by numpy, nothing trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "vocab_size": 31,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 10000.0,
}
_LAYER = {
    "self_attn.q_proj": (24, 24),
    "self_attn.k_proj": (12, 24),
    "self_attn.v_proj": (12, 24),
    "self_attn.o_proj": (24, 24),
    "mlp.gate_proj": (20, 24),
    "mlp.up_proj": (20, 24),
    "mlp.down_proj": (24, 20),
    "input_layernorm": (24,),
    "post_attention_layernorm": (24,),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (31, 24),
    **{f"model.layers.{at}.{name}.weight": shape for at in (0, 1) for name, shape in _LAYER.items()},
    "model.norm.weight": (24,),
    "lm_head.weight": (31, 24),
}
# What the commands are asked; runs are `START:END` in the folder that `write` fills.
COMMANDS: dict[str, tuple[str, ...]] = {
    "diff": ("diff", "base:a", "--by", "model,module,layer,tensor"),
    "diff-eta": ("diff", "base:b", "--by", "module", "--eta", "0.001"),
    "overlap": ("overlap", "base:a", "base:b", "scrambled:c", "--by", "model,module,layer"),
    "overlap-parts": ("overlap", "base:a", "base:b", "--by", "model,module", "--decompose"),
    "spectra": ("spectra", "base:a", "--by", "model,tensor", "--rank", "4"),
    "principal": ("principal", "base:a", "--by", "model,module", "--rank", "4", "--alpha", "0.3"),
}
SCRAMBLE = ("--symmetry", "vo-rotation:layers=0", "--symmetry", "head-permutation:layers=1")


def write(folder: Path) -> None:
    """`base`, in bf16; `a`, `b` and `c`, ends in float32 whose updates have a part in common.

    `scrambled`, the start of `c`, is left to `scramble apply base --out scrambled` with `SCRAMBLE`.
    """
    rng = np.random.default_rng(20_251_126)
    base = {
        name: (1 + 0.1 * rng.standard_normal(shape) if "norm" in name else 0.1 * rng.standard_normal(shape))
        for name, shape in SHAPES.items()
    }
    stored = {name: torch.from_numpy(value).bfloat16() for name, value in base.items()}
    _save(folder / "base", stored)
    shared = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    for end in ("a", "b", "c"):
        tensors = {}
        for name, shape in SHAPES.items():
            update = 3e-4 * (0.5 * shared[name] + rng.standard_normal(shape))
            tensors[name] = (stored[name].double() + torch.from_numpy(update)).float()
        _save(folder / end, tensors)


def _save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
