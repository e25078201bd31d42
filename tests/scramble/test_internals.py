"""What transformers and torch do not promise to keep is there, and does what is relied on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from scramble.internals import transformers as internals
from scramble.internals.method import Method
from scramble.internals.torch import tree_map
from tests.methods import lack
from tests.models import FAMILIES, MIXTURES, Tiny, weights

CPU = torch.device("cpu")


def mixture(family: str = "mixtral") -> Tiny:
    return Tiny(family, 2, 2, 8, layers=2, seed=1)


def emptied(folder: Path) -> Any:
    """The model of a folder, every weight zero."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def test_a_model_without_weights_is_of_the_class_and_draws_none(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MixtralConfig(**mixture().config)
    drawn: list[object] = []
    normal = torch.Tensor.normal_
    monkeypatch.setattr(
        torch.Tensor, "normal_", lambda self, *a, **k: drawn.append(self) or normal(self, *a, **k)
    )
    state = torch.get_rng_state()
    model = internals.without_weights(MixtralForCausalLM, config, dtype=torch.float64)
    assert type(model) is MixtralForCausalLM
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert torch.equal(torch.get_rng_state(), state)
    assert not drawn
    MixtralForCausalLM(config)  # which does draw: the counter counts
    assert drawn


def test_a_model_without_weights_obeys_the_device_of_the_context() -> None:
    with torch.device("meta"):
        model = internals.without_weights(MixtralForCausalLM, MixtralConfig(**mixture().config))
    assert all(parameter.is_meta for parameter in model.parameters())


def test_experts_that_are_stored_one_by_one_are_merged(tmp_path: Path) -> None:
    folder = mixture().save(tmp_path / "base")
    stored = weights(folder)
    first, third = (f"model.layers.1.block_sparse_moe.experts.{{}}.{one}.weight" for one in ("w1", "w3"))
    layer = {name: value for name, value in stored.items() if name.startswith("model.layers.1.")}
    assert first.format(0) in layer
    model = emptied(folder)
    assert internals.convert(model, layer, CPU, torch.float64) == []
    experts = model.get_submodule("model.layers.1").mlp.experts
    for expert, both in enumerate(experts.gate_up_proj):
        expected = torch.cat([layer[first.format(expert)], layer[third.format(expert)]])
        assert torch.equal(both, expected)
    zero = dict(model.get_submodule("model.layers.0").named_parameters())
    assert not any(value.any() for value in zero.values())  # whose tensors were not given


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_is_stored_becomes_what_transformers_loads(family: str, tmp_path: Path) -> None:
    folder = Tiny(family, 2, 2, 8, layers=2, seed=1).save(tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    model = emptied(folder)
    assert internals.convert(model, weights(folder), CPU, torch.float64) == []
    expected = dict(loaded.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in model.named_parameters())


def test_names_that_are_not_the_models_are_named(tmp_path: Path) -> None:
    model = emptied(mixture().save(tmp_path / "base"))
    unknown = internals.convert(model, {"model.layers.1.other.weight": torch.ones(2)}, CPU, torch.float64)
    assert unknown == ["model.layers.1.other.weight"]


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_are_given_states_experts_and_weights(family: str) -> None:
    model = mixture(family).build()
    given: list[tuple[Any, ...]] = []
    for name, module in model.named_modules():
        if name.split(".")[-1] == internals.EXPERTS:
            module.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    tokens = torch.arange(1, 6)[None]
    with torch.inference_mode():
        model(tokens)
    assert len(given) == len(mixture(family).sparse)
    counts = ("num_local_experts", "n_routed_experts", "num_experts")
    count = next(getattr(model.config, name) for name in counts if hasattr(model.config, name))
    used = model.config.num_experts_per_tok
    for one in given:
        experts, shares = internals.reached(one)
        assert experts.shape == shares.shape == (tokens.numel(), used)
        assert not experts.is_floating_point()
        assert 0 <= int(experts.min()) <= int(experts.max()) < count
        assert shares.is_floating_point()


def test_a_model_is_saved_when_it_is_no_longer_held_for_a_quantised_one(tmp_path: Path) -> None:
    model = mixture().build()

    class Held:
        is_serializable = staticmethod(lambda *_, **__: False)
        quantization_config = None

    model.hf_quantizer, model.is_quantized, model.config.quantization_config = Held(), True, {"bits": 4}
    with pytest.raises(Exception, match=r"."):
        model.save_pretrained(tmp_path / "held")
    internals.unquantized(model)
    model.save_pretrained(tmp_path / "plain")
    assert "quantization" not in (tmp_path / "plain" / "config.json").read_text()


def test_the_linear_map_of_gpt2_holds_a_matrix() -> None:
    model = Tiny("gpt2", 2, 1, 8, layers=1).build()
    found = [module for module in model.modules() if isinstance(module, internals.Conv1D)]
    assert len(found) == 4
    assert all(module.weight.ndim == 2 for module in found)


@pytest.mark.parametrize("method", internals.RESUMED.values(), ids=lambda one: one.name)
def test_methods_that_read_a_state_are_what_they_were(method: Method) -> None:
    """That a trainer calls what is put in their place: `tests/runs/internals`."""
    assert lack(method) is None


def test_trees_are_walked_into_what_modules_pass_to_each_other() -> None:
    one = torch.ones(1)
    tree = ((one, None), {"states": [one]}, BaseModelOutput(last_hidden_state=one))
    (first, nothing), named, output = tree_map(lambda leaf: leaf if leaf is None else leaf + 1, tree)
    assert nothing is None
    assert [float(found) for found in (first, *named["states"], output.last_hidden_state)] == [2, 2, 2]
    assert isinstance(output, BaseModelOutput)
    cache = DynamicCache()
    assert tree_map(lambda leaf: leaf, cache) is cache  # a leaf, which goes through as it is
