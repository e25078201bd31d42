"""What the tables say of a tensor is what transformers' modules say, built on the meta device."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from scramble.architecture import Architecture, Role
from scramble.checkpoints import open_checkpoint
from scramble.families import FAMILIES as TABLES
from scramble.families import architecture
from scramble.internals.transformers import get_model_conversion_mapping
from scramble.measures.pairs.ends import ends
from scramble.measures.pairs.places import Places
from scramble.measures.pairs.selection import Selection, matrices
from tests.models import FAMILIES, Tiny
from tests.scramble.written import with_mtp

SWITCHED = pytest.mark.parametrize("switched", [False, True])


conversions = cache(get_model_conversion_mapping)


def stored(model: PreTrainedModel, name: str) -> str:
    """What checkpoints call a tensor or module, where transformers renames a whole one (GPT-NeoX's head)."""
    for one in conversions(model):
        old, new = one.source_patterns[0], one.target_patterns[0].rstrip(".")
        if old.startswith("^") and name.split(".")[0] == new:
            return old.strip("^\\.") + name.removeprefix(new)
    return name


@cache
def on_meta(family: str, switched: bool) -> tuple[PreTrainedModel, Architecture]:
    """transformers' model without memory, and the table for the tensors that it has in memory."""
    tiny = Tiny(family, 2, 2, 8, layers=3, switched=switched)
    model = tiny.on_meta()
    shapes = {stored(model, name): tuple(one.shape) for name, one in model.state_dict().items()}
    found = architecture(tiny.config | {"model_type": family}, shapes)
    found.check(shapes)
    return model, found


def slow_roles(model: PreTrainedModel) -> dict[str, Role]:
    """By the class of the module that holds a tensor, and how many dimensions it has."""
    return {stored(model, name): _role(model, name) for name in model.state_dict()}


def _role(model: PreTrainedModel, name: str) -> Role:
    path, _, own = name.rpartition(".")
    module, value = model.get_submodule(path), model.state_dict()[name]
    if isinstance(module, torch.nn.Embedding) or module is model.get_output_embeddings():
        return "embedding"
    if "Norm" in type(module).__name__:
        return "norm"
    bias = "bias" in own  # those of experts are stacked and have two dimensions
    return "matrix" if value.ndim >= 2 and not bias else "bias"


@SWITCHED
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_the_role_of_the_module_that_holds_it(family: str, switched: bool) -> None:
    model, found = on_meta(family, switched)
    held = slow_roles(model)
    assert {name: found.role(name) for name in held} == held
    # What the table has beside what transformers saves: constants that older conversions store, MTP layers.
    for name, slot in found.slots().items():
        if name not in held:
            assert slot.mtp is not None or found.role(name) == "buffer", name
    made = {name for name, _ in model.named_buffers()} - held.keys()
    assert all(found.is_buffer(name) for name in made if "inv_freq" in name and "original" not in name)


@SWITCHED
@pytest.mark.parametrize("family", FAMILIES)
def test_roles_of_a_checkpoint_are_those_in_memory(family: str, switched: bool, tmp_path: Path) -> None:
    """Experts that are stored one by one are linear maps."""
    checkpoint = open_checkpoint(
        Tiny(family, 2, 2, 8, layers=3, switched=switched).save(tmp_path / "base", torch.bfloat16)
    )
    in_memory = slow_roles(on_meta(family, switched)[0])
    assert checkpoint.roles.keys() == checkpoint.tensors.keys()
    for name, role in checkpoint.roles.items():
        name = name.replace("block_sparse_moe", "mlp")  # as Mixtral's are called in memory
        expert = re.search(r"\.experts\.\d+\.", name)
        assert role == ("matrix" if expert else in_memory[name]), name


@SWITCHED
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_and_the_embedding_are_those_that_transformers_ties(family: str, switched: bool) -> None:
    model, found = on_meta(family, switched)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {module: stored(model, name) for name, module in model.named_modules()}
    assert found.head_and_embedding == (f"{names[head]}.weight", f"{names[embedding]}.weight")
    inside = {f"{names[head]}.{name}" for name, _ in head.named_parameters()}
    assert {name for name in found.slots() if found.is_head(name)} == inside
    bare = Architecture(found.family, found.config, bare=True)
    assert set(bare.head_and_embedding) <= bare.slots().keys()
    assert {name for name in bare.slots() if bare.is_head(name)} == inside


@SWITCHED
@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_depend_on_what_transformers_holds(family: str, switched: bool) -> None:
    model, found = on_meta(family, switched)
    assert {name for name in found.slots() if found.takes_part(name)} == slow_roles(model).keys()


@SWITCHED
@pytest.mark.parametrize("family", FAMILIES)
def test_routed_experts_are_what_the_module_of_experts_holds(family: str, switched: bool) -> None:
    model, found = on_meta(family, switched)
    held = slow_roles(model)
    routed = {name for name in held if "experts" in name.split(".")[:-1]}
    assert {name for name in held if found.slots()[name].routed} == routed
    layers = {slot.layer for slot in found.slots().values() if slot.routed and slot.mtp is None}
    assert layers == Tiny(family, 2, 2, 8, layers=3, switched=switched).sparse


def slow_place(tensor: str) -> dict[str, object]:
    """Layer and module by the name alone."""
    number = re.search(r"\.(\d+)\.", tensor)
    whole = re.sub(r"\[\d+\]$", "", tensor)
    parts = [part for part in whole.split(".") if not part.isdigit()] or [whole]
    if len(parts) > 1 and parts[-1] in ("weight", "bias"):
        parts.pop()
    layer = int(number[1]) if number else None
    return {"layer": layer, "module": parts[-1].removesuffix("_bias"), "tensor": tensor}


@SWITCHED
@pytest.mark.parametrize("family", FAMILIES)
def test_places_in_a_table_are_those_that_names_tell(family: str, switched: bool, tmp_path: Path) -> None:
    """Labels of modules and numbers of layers in tables and figures are read off names by people too."""
    folder = Tiny(family, 2, 2, 8, layers=2, switched=switched).save(tmp_path / "base", torch.bfloat16)
    in_memory = on_meta(family, switched)[1]
    for one in (open_checkpoint(folder).architecture, in_memory):
        names = list(one.slots())
        names += [f"{name}[1]" for name, slot in one.slots().items() if slot.layout.stacked]
        by_table, by_name = Places(one.slots(), one.slots()), Places(one.slots())
        for name in names:
            assert by_table(name) == by_name(name) == slow_place(name)
    run = ends(folder, folder)
    for name in run.tensors:
        assert run.where(name) == slow_place(name) | {"role": run.start.roles[name]}


def mtp_tables(family: str) -> Architecture:
    config = Tiny(family, 2, 2, 8, layers=2).config | {"model_type": family}
    return architecture(config | {"num_nextn_predict_layers": 2})


@pytest.mark.parametrize("family", FAMILIES)
def test_mtp_layers_are_numbered_on_and_hold_their_own_embeddings_and_heads(family: str) -> None:
    """The rows of an embedding or a head are tokens, wherever it stands: it is no matrix of a layer."""
    found = mtp_tables(family)
    behind = {name: slot for name, slot in found.slots().items() if slot.mtp is not None}
    assert bool(behind) == (TABLES[family].mtp(found.config) != ())
    for name, slot in behind.items():
        prefix = found.family.layer.replace("{layer}", str(slot.mtp))
        assert name.startswith(prefix), name
        assert found.layers <= (slot.mtp or 0) < found.layers + 2
        assert slot.layer is None
        assert not found.is_head(name)
        assert not found.takes_part(name)
    for name, slot in found.slots().items():
        rows = slot.layout.shape({axis: 1000 if axis == "vocab" else 1 for axis in slot.sizes})
        assert (1000 in rows) == (found.role(name) == "embedding" and "position" not in slot.layout.axes)
    if family == "deepseek_v3":
        assert {slot.mtp for slot in behind.values()} == {2, 3}
        copied = {name for name in behind if found.role(name) == "embedding"}
        ends_of = ("embed_tokens.weight", "shared_head.head.weight")
        assert copied == {f"model.layers.{layer}.{name}" for layer in (2, 3) for name in ends_of}
        assert found.role("model.layers.2.eh_proj.weight") == "matrix"
        assert found.role("model.layers.2.enorm.weight") == "norm"


def test_spectra_and_masks_pass_over_the_copied_head_of_an_mtp_layer(tmp_path: Path) -> None:
    base = with_mtp(tmp_path)
    run = ends(base, base)
    inside, every = matrices(run, Selection()), matrices(run, Selection(embeddings=True))
    slots = run.start.architecture.slots()
    assert set(every) - set(inside) == {name for name in every if "vocab" in slots[name].layout.axes}
    assert {slots[name].number for name in inside} == {0, 1, 2}
    assert {"model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight"} <= set(every)
    assert "model.layers.2.eh_proj.weight" in inside
