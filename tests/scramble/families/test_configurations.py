"""A config.json in any form that transformers reads gives the tables what transformers' model has."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, PreTrainedModel

from scramble.checkpoints import Checkpoint, open_checkpoint
from scramble.errors import UnknownFamilyError
from scramble.families import FAMILIES as TABLES
from scramble.families import architecture
from scramble.operations.apply import apply
from scramble.symmetries import SYMMETRIES
from tests.models import FAMILIES, Tiny, built, logits

Config = dict[str, Any]
ROTARY = ("rope_scaling", "rope_parameters", "partial_rotary_factor", "rotary_pct")
LAYERS = 2


def plain(family: str, heads: int = 4) -> Config:
    """A small config of a family in which all keys are said, and which stays valid without some."""
    config = Tiny(family, kv_heads=2, group=heads // 2, head_dim=8, layers=LAYERS).config
    hidden = 8 * heads
    config |= {"model_type": family, "hidden_size": hidden, "num_attention_heads": heads, "head_dim": 8}
    if family == "gpt2":
        config |= {"n_embd": hidden, "n_head": heads}
        del config["max_position_embeddings"]
    if family == "opt":
        config |= {"word_embed_proj_dim": hidden}
    if family == "deepseek_v3":
        config |= {"n_routed_experts": 16, "n_group": 4, "num_key_value_heads": heads}
    if family in ("falcon", "deepseek_v3"):
        del config["head_dim"]
    if family == "smollm3":
        config["no_rope_layers"] = [0, 1]
    del config["tie_word_embeddings"]
    return config


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Keys left out, null, switched, under another name, rotary settings in the old or the new form."""
    family = draw(st.sampled_from(FAMILIES))
    table = TABLES[family]
    config = plain(family, draw(st.sampled_from([4, 32])))
    for key, default in table.defaults.items():
        how = draw(st.sampled_from(["kept", "kept", "left out", "null", "switched"]))
        if key in ROTARY or key == "n_positions":
            continue
        if how == "left out":
            config.pop(key, None)
        elif how == "null":
            config[key] = None
        elif how == "switched" and isinstance(default, bool):
            config[key] = draw(st.booleans())
    for alias, name in table.aliases.items():
        if name in config and draw(st.booleans()):
            config[alias] = config[name] if draw(st.booleans()) else config.pop(name)
    part = st.sampled_from([None, 0.5, 1.0, "left out", "left out"])
    for key in ("partial_rotary_factor", "rotary_pct"):
        if (chosen := draw(part)) != "left out":
            config[key] = chosen
    for key in draw(st.sampled_from([(), ("rope_scaling",), ("rope_parameters",), ROTARY[:2]])):
        rotary: Config = {"rope_theta": 5000.0}
        rotary |= draw(
            st.sampled_from(
                [{"rope_type": "default"}, {"type": "linear", "factor": 2.0}, {"type": "default"}]
            )
        )
        if (chosen := draw(part)) != "left out":
            rotary["partial_rotary_factor"] = chosen
        nested = draw(st.sampled_from([False, False, False, True]))
        config[key] = {"full_attention": rotary, "sliding_attention": rotary} if nested else rotary
    return config


def build(config: Config, folder: Path) -> PreTrainedModel | None:
    """Weights that transformers saves for a config, beside the very config; None where it refuses."""
    try:
        model = built(CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config)), seed=1)
        model.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(config))
        return model if torch.isfinite(logits(folder)).all() else None
    except UnknownFamilyError:
        raise
    except Exception:  # whatever a config can make transformers raise
        return None


def compare(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Sizes, ties and constraints against the modules that transformers made."""
    architecture, config = checkpoint.architecture, model.config
    sizes = architecture.sizes
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert bool(checkpoint.tied) == tied
    assert architecture.layers == config.num_hidden_layers
    heads = config.num_attention_heads
    assert sizes["kv_head"] * sizes["group"] == heads
    modules = list(model.modules())
    groups = {one.num_key_value_groups for one in modules if hasattr(one, "num_key_value_groups")}
    if groups and architecture.family.name != "deepseek_v3":
        assert groups == {sizes["group"]}
    frequencies = {
        len(one)
        for name, one in model.named_buffers()
        if name.endswith("inv_freq") and "original" not in name
    }
    for layer in range(architecture.layers):
        found = {one.kind: one for one in architecture.constraints(layer)}
        rotary = bool(frequencies) and not getattr(config, "alibi", False)
        if architecture.family.name == "smollm3":
            rotary = bool(config.no_rope_layers[layer])
        assert ("rope" in found) == rotary
        assert ("alibi" in found) == bool(getattr(config, "alibi", False))
        assert ("clamp" in found) == (getattr(config, "clip_qkv", None) is not None)
        if rotary:
            channels = found["rope"].channels or sizes[found["rope"].axis]
            assert {-(-channels // 2)} == frequencies
        if "routing" in found:
            assert found["routing"].groups == config.n_group
        if architecture.family.name == "deepseek_v3":
            assert found["rope"].layout == ("interleaved" if config.rope_interleave else "half")


def scrambled_is_the_same(folder: Path, out: Path) -> None:
    """Every symmetry that the reading allows, written without verification, keeps the function."""
    architecture = open_checkpoint(folder).architecture
    chosen = []
    for name, kind in SYMMETRIES.items():
        symmetry = kind()
        layers = [n for n in range(architecture.layers) if not symmetry.forbidden(architecture, n)]
        if layers and not kind.whole:
            chosen.append(f"{name}:layers={','.join(map(str, layers))}")
    apply(folder, out, symmetries=chosen, check=False)
    reference = logits(folder)
    assert torch.linalg.norm(logits(out) - reference) <= 1e-9 * torch.linalg.norm(reference)


def agrees(config: Config) -> bool:
    """Whether transformers takes a config; if so our reading is its, or is refused for what tables lack."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        model = build(config, folder)
        if model is None:
            return False
        why = ""
        try:
            checkpoint = open_checkpoint(folder)
            compare(checkpoint, model)
            scrambled_is_the_same(folder, Path(scratch) / "out")
        except UnknownFamilyError as refused:
            why = str(refused)
        assert not why or "positions on" in why, config
        return True


@settings(max_examples=10)
@given(configs())
def test_what_transformers_reads_is_what_the_tables_read(config: Config) -> None:
    assume(agrees(config))


@settings(max_examples=100)
@given(configs())
@pytest.mark.train
def test_of_many_configs_the_tables_read_what_transformers_reads(config: Config) -> None:
    assume(agrees(config))


VALUES = st.sampled_from([None, True, 0, -1, 1.5, "a", [], [1], {}, {"rope_type": 1}, {"full_attention": 3}])


@settings(max_examples=150)
@given(st.sampled_from(FAMILIES), st.data())
def test_values_of_any_type_are_read_or_refused(family: str, data: st.DataObject) -> None:
    config = plain(family)
    for key in data.draw(st.lists(st.sampled_from(sorted({*config, *TABLES[family].defaults})), max_size=3)):
        config[key] = data.draw(VALUES)
    config["model_type"] = family
    try:
        found = architecture(config)
        found.constraints(None)
        found.slots()
        found.check({})
    except UnknownFamilyError as refused:
        assert "\n" not in str(refused)  # noqa: PT017


@pytest.mark.parametrize("family", FAMILIES)
def test_every_stated_default_is_that_of_transformers(family: str) -> None:
    """Key by key: left out of a config that says the others."""
    table, config = TABLES[family], plain(family, 32)
    for key, default in table.defaults.items():
        left = {name: value for name, value in config.items() if name != key}
        theirs = CONFIG_MAPPING[family].from_dict(copy.deepcopy(left))
        read = table.read(left)
        assert read[key] == default
        if default is not None:
            nested = (getattr(theirs, "rope_parameters", None) or {}).get("partial_rotary_factor")
            assert (nested if key in ROTARY else getattr(theirs, key)) == default, key
    for alias, name in CONFIG_MAPPING[family].attribute_map.items():
        assert table.aliases.get(alias) == name or table.aliases.get(name) == alias, alias


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi3", {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
        (
            "phi3",
            {
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0, 1.5],
                    "long_factor": [2.0, 3.0],
                    "partial_rotary_factor": 0.5,
                },
                "original_max_position_embeddings": 16,
            },
        ),
        ("phi3", {"rope_scaling": {"type": "default"}, "partial_rotary_factor": 0.5}),
        (
            "phi3",
            {
                "rope_scaling": {"type": "default", "partial_rotary_factor": 0.5},
                "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0},
            },
        ),
        ("deepseek_v3", {"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}),
        ("glm", {"partial_rotary_factor": None}),
        ("glm", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}),
        ("gpt_neox", {"num_key_value_heads": 1, "rotary_pct": 0.5}),
        ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 1.0}),
        ("gpt_neox", {"rope_scaling": {"type": "default", "partial_rotary_factor": 0.5}}),
        ("stablelm", {"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}),
        ("llama", {"num_key_value_heads": None}),
        ("qwen2", {"num_key_value_heads": None, "head_dim": ...}),
        ("qwen3", {"num_key_value_heads": None}),
        ("smollm3", {"num_key_value_heads": None, "no_rope_layers": None}),
        ("deepseek_v3", {"n_group": ..., "n_routed_experts": 16}),
        ("deepseek_v3", {"q_lora_rank": ..., "rope_interleave": None}),
        ("falcon", {"intermediate_size": ..., "n_embed": 32, "hidden_size": ...}),
        ("gpt2", {"hidden_size": 32, "n_embd": ..., "num_hidden_layers": 2, "n_layer": ...}),
        ("mixtral", {"num_experts": 4, "num_local_experts": ...}),
        ("qwen2_moe", {"shared_expert_intermediate_size": ...}),
        ("qwen3_moe", {"num_local_experts": 4, "num_experts": ...}),
        ("opt", {"word_embed_proj_dim": None}),
    ],
)
def test_forms_of_a_config_that_the_hub_has(family: str, changes: Config) -> None:
    config = plain(family) | changes
    assert agrees({key: value for key, value in config.items() if value is not ...})


@pytest.mark.parametrize("form", ["in a layer type", "in all layer types"])
def test_a_part_by_layer_type_is_refused_where_a_family_has_no_parts(form: str, tmp_path: Path) -> None:
    rotary = {
        name: {"rope_type": "linear", "factor": 2.0} for name in ("full_attention", "sliding_attention")
    }
    config = plain("gemma3_text") | {"rope_parameters": rotary}
    assert build(config, tmp_path / "base") is not None
    for name in ("full_attention",) if form == "in a layer type" else rotary:
        rotary[name]["partial_rotary_factor"] = 0.5
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownFamilyError, match="rotary positions"):
        apply(tmp_path / "base", tmp_path / "out", layers="0", symmetries=("qk-rotation",), check=False)
    assert not (tmp_path / "out").exists()
