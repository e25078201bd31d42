"""Where a weight stands: layers of towers, of encoder and decoder, and of other stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.conftest import Command
from tests.models import weights
from tests.scramble.written import folder, moved
from tests.training import swept

LAYER = {"self_attn.q_proj.weight": (6, 6), "mlp.fc1.weight": (10, 6), "norm1.weight": (6,)}
# Text model, vision tower, and what stands beside them, as hubs hold them.
MULTIMODAL = {
    "llava, before transformers 5": (
        "language_model.model.layers.{}.",
        "vision_tower.vision_model.encoder.layers.{}.",
        ("language_model", "vision_tower"),
        {
            "language_model.model.embed_tokens.weight": (11, 6),
            "multi_modal_projector.linear_1.weight": (6, 6),
        },
    ),
    "llava": (
        "model.language_model.layers.{}.",
        "model.vision_tower.encoder.layers.{}.",
        ("language_model", "vision_tower"),
        {"lm_head.weight": (11, 6), "model.multi_modal_projector.linear_1.weight": (6, 6)},
    ),
    "qwen2_vl": (
        "model.layers.{}.",
        "visual.blocks.{}.",
        ("model", "visual"),
        {"visual.merger.mlp.0.weight": (6, 6), "visual.patch_embed.proj.weight": (6, 3, 2, 2)},
    ),
    "qwen3_vl": (
        "model.language_model.layers.{}.",
        "model.visual.blocks.{}.",
        ("language_model", "visual"),
        {
            "model.visual.deepstack_merger_list.0.linear_fc1.weight": (6, 6),
            "model.visual.pos_embed.weight": (9, 6),
        },
    ),
    "an encoder-decoder": (
        "decoder.block.{}.",
        "encoder.block.{}.",
        ("decoder", "encoder"),
        {"shared.weight": (11, 6), "decoder.final_layer_norm.weight": (6,)},
    ),
    "audio": (
        "thinker.model.layers.{}.",
        "thinker.audio_tower.layers.{}.",
        ("model", "audio_tower"),
        {"thinker.lm_head.weight": (11, 6), "thinker.audio_tower.conv1.weight": (6, 3, 3)},
    ),
}


def multimodal(path: Path, layout: str) -> Path:
    text, vision, _, beside = MULTIMODAL[layout]
    generator = torch.Generator().manual_seed(0)
    shapes = dict(beside)
    for prefix, layers in ((text, 3), (vision, 2)):
        shapes |= {
            prefix.format(layer) + name: shape for layer in range(layers) for name, shape in LAYER.items()
        }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return folder(path, tensors, model_type="something-new")


@pytest.mark.parametrize("layout", MULTIMODAL)
def test_layers_of_a_tower_are_its_own(layout: str, tmp_path: Path, command: Command) -> None:
    start = multimodal(tmp_path / "start", layout)
    _, vision, (text_tower, vision_tower), _ = MULTIMODAL[layout]
    end = moved(start, tmp_path / "end", {vision.format(0): 0.5})
    levels = "layer,module,layer-module,tower,tensor"
    rows = command("diff", f"{start}:{end}", "--by", levels, "--format", "json").json["rows"]
    size = sum(int(np.prod(shape)) for shape in LAYER.values())
    layers = {(row["tower"], row["layer"]): row for row in rows if row["level"] == "layer"}
    assert {(text_tower, layer) for layer in range(3)} | {(vision_tower, layer) for layer in range(2)} <= set(
        layers
    )
    for layer in range(3):
        assert (layers[text_tower, layer]["n"], layers[text_tower, layer]["changed"]) == (size, 0)
    assert layers[vision_tower, 0]["n"] == size
    assert layers[vision_tower, 0]["sparsity"] == pytest.approx(0.5)
    assert layers[vision_tower, 1]["changed"] == 0
    modules = {(row["tower"], row["module"]): row for row in rows if row["level"] == "module"}
    assert modules[text_tower, "q_proj"]["n"] == 3 * 36
    assert modules[vision_tower, "q_proj"]["n"] == 2 * 36
    total = sum(value.numel() for value in weights(start).values())
    for level in levels.split(","):
        assert sum(row["n"] for row in rows if row["level"] == level) == total, level


# Of one run or two, by the number.
TABLES = (
    *(("diff", 1), ("overlap", 2), ("overlap", 2, "--decompose"), ("spectra", 1), ("principal", 1)),
    *(("consensus", 2), ("rates", 2), ("overlap", 2, "--mean"), ("rates", 2, "--correlate")),
)
FIGURES = [[*table] for table in TABLES if table[-1] not in ("--mean", "--correlate")]


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two runs of one start."""
    folder = tmp_path_factory.mktemp("towers")
    start = multimodal(folder / "start", "llava")
    return [f"{start}:{moved(start, folder / f'end{seed}', {'': 0.5}, seed)}" for seed in (0, 1)]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_towers_stand_in_every_table(table: Any, updates: list[str], command: Command) -> None:
    towers_stand_in(command, table, updates)


@pytest.mark.parametrize("table", swept(FIGURES, kept=1), ids=str)
def test_towers_stand_in_every_figure(
    table: Any, updates: list[str], tmp_path: Path, command: Command
) -> None:
    towers_stand_in(command, table, updates, "--plot", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").exists()


def towers_stand_in(command: Command, table: Any, updates: list[str], *more: Any) -> None:
    name, count, *options = table
    found = command(name, *updates[:count], *options, *more, "--by", "module", "--format", "json")
    assert found.code == 0, found.err
    rows = [row for row in found.json["rows"] if row["module"] == "fc1"]
    assert {row["tower"] for row in rows} == {"language_model", "vision_tower"}
    assert len({json.dumps(row) for row in rows}) == len(rows)


def test_a_real_multimodal_model_counts_its_parameters(tmp_path: Path, command: Command) -> None:
    text = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": 31}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 20}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = AutoConfig.for_model("llava", text_config=text, vision_config=vision, image_token_index=30)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "start")
    end = moved(tmp_path / "start", tmp_path / "end", {"vision_tower": 1.0})
    rows = command("diff", f"{tmp_path / 'start'}:{end}", "--by", "model,tower", "--format", "json").json[
        "rows"
    ]
    assert rows[0]["n"] == model.num_parameters()
    changed = {row["tower"]: row["changed"] for row in rows if row["level"] == "tower"}
    assert [tower for tower, count in changed.items() if count] == ["vision_tower"]


PATHS = st.lists(st.sampled_from(["a", "b", "layers", "x"]), min_size=1, max_size=3).map(".".join)


@given(st.lists(st.tuples(PATHS, st.integers(0, 2), PATHS), min_size=1))
def test_two_layers_share_a_place_only_where_they_are_one(parts: list[tuple[str, int, str]]) -> None:
    from scramble.measures.pairs.places import Places

    names = {f"{stack}.{layer}.{rest}.weight": (stack, layer) for stack, layer, rest in parts}
    places = Places([*names, "lm_head.weight", "a.mlp.0.weight"])
    found: dict[tuple[object, object], set[tuple[str, int]]] = {}
    for name, layer in names.items():
        where = places(name)
        assert where["layer"] == layer[1]
        found.setdefault((where.get("tower"), where["layer"]), set()).add(layer)
    assert all(len(layers) == 1 for layers in found.values())
    assert ("tower" in places("lm_head.weight")) == (len({stack for stack, _ in names.values()}) > 1)
