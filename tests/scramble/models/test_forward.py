"""`scramble.models.forward` against the plain transformers model, and what `verify` makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from scramble.checkpoints import Checkpoint, open_checkpoint
from scramble.equivalence.certify import _divergence
from scramble.equivalence.coverage import default_inputs
from scramble.errors import SelectionError, UndecidedError
from scramble.models.arithmetic import Float64
from scramble.models.forward import Forward, Variant
from scramble.operations.apply import apply
from scramble.operations.verify import verify
from tests.conftest import Command
from tests.models import FAMILIES, Tiny, edit_config, tinies, weights, with_tokenizer

Tensors = dict[str, torch.Tensor]


def values(tensors: Tensors, name: str) -> np.ndarray[Any, Any]:
    return tensors[name].double().numpy()


def plain(
    folder: Path, tokens: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """Logits, and the hidden states that leave each layer, of the model as users load it."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    ).eval()
    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    states: list[np.ndarray[Any, Any]] = []
    for layer in layers:
        layer.register_forward_hook(
            lambda module, given, left: states.append((left[0] if isinstance(left, tuple) else left).numpy())
        )
    with torch.inference_mode(), Float64():
        return model(torch.from_numpy(tokens), use_cache=False).logits.numpy(), states


def changed(base: Path, target: Path, names: list[str], seed: int) -> Tensors:
    """A copy of a checkpoint with noise on some tensors; returns all of its tensors."""
    generator, tensors = torch.Generator().manual_seed(seed), weights(base)
    for name in names:
        noise = torch.randn(tensors[name].shape, generator=generator, dtype=torch.float64)
        tensors[name] = tensors[name] + 0.05 * noise
    target.mkdir()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((base / "config.json").read_bytes())
    return tensors


def forward(
    base: Checkpoint, old: Tensors, variants: list[tuple[list[str], Tensors]], tokens: Any
) -> Forward:
    return Forward(
        base,
        partial(values, old),
        [Variant({name: partial(values, new, name) for name in names}) for names, new in variants],
        tokens,
    )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(st.data())
@pytest.mark.train
def test_variants_are_what_transformers_computes(family: str, data: st.DataObject) -> None:
    tiny = data.draw(tinies((family,)))
    rng = data.draw(st.randoms(use_true_random=False))
    # As many tokens as sequences of all variants: nothing that is not a batch may be taken for one.
    batch, time = data.draw(st.sampled_from([(1, 3), (2, 5), (1, 9), (3, 9)]))
    tokens = np.random.default_rng(tiny.seed).integers(0, 31, (batch, time))
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = tiny.save(root / "base")
        old, checkpoint = weights(base), open_checkpoint(base)
        stored = [name for name in checkpoint.tensors if not checkpoint.architecture.is_buffer(name)]
        chosen = [rng.sample(stored, rng.choice([1, 2, len(stored)])) for _ in range(2)]
        new = [changed(base, root / str(at), names, at) for at, names in enumerate(chosen)]
        found = forward(checkpoint, old, list(zip(chosen, new, strict=True)), tokens)
        logits = list(found.logits())
        assert found.arithmetic == "float64"
        reference, states = plain(base, tokens)
        scale = np.abs(reference).max()
        np.testing.assert_allclose(logits[0], reference, rtol=0, atol=1e-12 * scale)
        assert [row[0] for row in found.layer_errors] == [0.0] * tiny.layers
        for at in range(2):
            expected, own = plain(root / str(at), tokens)
            np.testing.assert_allclose(logits[1 + at], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
            for layer, (one, other) in enumerate(zip(own, states, strict=True)):
                gap = np.linalg.norm(one - other) / np.linalg.norm(other)
                assert found.layer_errors[layer][1 + at] == pytest.approx(gap, rel=1e-9, abs=1e-14)


def test_a_tied_head_with_a_bias_of_its_own_is_verified(tmp_path: Path) -> None:
    base = Tiny("phi", 2, 1, 8, layers=1, tied=True, seed=1).save(tmp_path / "base")
    assert "lm_head.bias" in weights(base)
    assert "lm_head.weight" not in weights(base)
    tokens = np.arange(12).reshape(2, 6)
    (found,) = forward(open_checkpoint(base), weights(base), [], tokens).logits()
    np.testing.assert_allclose(found, plain(base, tokens)[0], rtol=0, atol=1e-12)


def test_hidden_states_are_compared_in_the_base_s_frame(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 2, 8, layers=2, seed=1).save(tmp_path / "base", torch.bfloat16)
    done = apply(base, tmp_path / "out", symmetries=("residual-permutation",))
    equivalence = done.scrambles[0].equivalence
    assert equivalence is not None
    assert len(equivalence.layers) == 2
    for layer in equivalence.layers:
        assert layer.algebra is not None
        assert max(layer.algebra, layer.storage) < 1e-14 < layer.noise


def test_values_are_read_when_a_station_is_reached_and_not_kept(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 2, 8, layers=3, seed=1).save(tmp_path / "base")
    old, read = weights(base), list[str]()

    def get(name: str) -> np.ndarray[Any, Any]:
        read.append(name)
        return values(old, name)

    found = Forward(open_checkpoint(base), get, [Variant()], np.zeros((1, 4), dtype=np.int64))
    assert not read
    logits = found.logits()
    next(logits)
    layers = [int(name.split(".")[2]) for name in read if ".layers." in name]
    assert layers == sorted(layers)
    assert len(layers) == sum(".layers." in name for name in old)
    assert all(one.is_meta for one in found._model.parameters())


_PEAK = """
import json, re, sys, threading, time
from pathlib import Path
from scramble.operations.verify import verify
def held():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
def watch():
    while not over:
        seen.append(held())
        time.sleep(0.002)
for base, model in zip(sys.argv[1::2], sys.argv[2::2]):
    seen, over = [held()], False
    thread = threading.Thread(target=watch)
    thread.start()
    found = verify(Path(base), Path(model))
    over = True
    thread.join()
    print(json.dumps([seen[0], max(seen), found.verdict]))
"""


@pytest.mark.train
def test_memory_follows_the_largest_layer_not_the_model(tmp_path: Path) -> None:
    """Anonymous memory: mapped pages of the checkpoints are the system's to drop."""
    from transformers import LlamaConfig

    folders, sizes = list[Path](), list[int]()
    for layers in (4, 4, 28):  # the first one warms up
        config = LlamaConfig(
            hidden_size=128,
            intermediate_size=1024,
            num_hidden_layers=layers,
            num_attention_heads=4,
            vocab_size=64,
            max_position_embeddings=64,
        )
        base, out = tmp_path / f"base{len(sizes)}", tmp_path / f"out{len(sizes)}"
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(base)
        apply(base, out, layers="1", check=False)
        sizes.append(4 * (base / "model.safetensors").stat().st_size)  # in float64
        folders += [base, out]
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, folders)],
        capture_output=True,
        text=True,
        check=True,
    )
    _, small, large = map(json.loads, done.stdout.splitlines()[-3:])
    assert (small[2], large[2]) == ("equivalent", "equivalent")
    assert sizes[2] - sizes[1] > 80e6
    assert large[1] - small[1] < 0.2 * (sizes[2] - sizes[1])


def test_an_error_inside_the_model_is_could_not_tell(checkpoint: Path, command: Command) -> None:
    target = checkpoint.with_name("out")
    apply(checkpoint, target, layers="all", check=False)
    tokens = np.full((1, 4), 99)  # the vocabulary has 31
    found = forward(open_checkpoint(checkpoint), weights(checkpoint), [], tokens)
    with pytest.raises(UndecidedError, match="cannot run this model: IndexError") as caught:
        next(found.logits())
    assert "\n" not in str(caught.value)
    for folder in (checkpoint, target):
        edit_config(folder, rope_parameters={"rope_type": "no such type", "rope_theta": 1e4})
    undecided = command("verify", checkpoint, target)
    assert (undecided.code, undecided.err.count("\n")) == (2, 1)


def test_a_variant_of_what_takes_no_part_is_could_not_tell(tmp_path: Path) -> None:
    base = Tiny("llama", 2, 2, 8, layers=1).save(tmp_path / "base")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors = weights(base) | {name: torch.ones(4)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UndecidedError, match="inv_freq' takes no part in the logits"):
        forward(open_checkpoint(base), tensors, [([name], tensors)], np.zeros((1, 4), dtype=np.int64))


@pytest.mark.parametrize(
    ("characters", "shape"), [(2, (1, 2)), (31, (1, 31)), (100, (3, 32)), (999, (16, 32))]
)
def test_prompts_are_cut_into_sequences(characters: int, shape: tuple[int, int], tmp_path: Path) -> None:
    checkpoint = Tiny("llama", 2, 2, 8, layers=1, seed=3).save(tmp_path / "model", torch.bfloat16)
    text = checkpoint.with_name("prompts.txt")
    text.write_text(("12+34=46\n" * 200)[:characters])
    with_tokenizer(checkpoint)
    target = checkpoint.with_name("out")
    apply(checkpoint, target, layers="all", check=False)
    found = default_inputs(open_checkpoint(checkpoint), text).tokens
    assert found.shape == shape
    alphabet = ["<pad>", "<eos>", *"0123456789+=\n"]
    assert "".join(alphabet[one] for one in found.reshape(-1)) == text.read_text()[: found.size]
    verdict = verify(checkpoint, target, prompts=text)
    assert (verdict.verdict, verdict.tokens) == ("equivalent", found.size)
    assert verdict.storage_error != verify(checkpoint, target).storage_error


def test_prompts_that_cannot_be_read_are_refused(checkpoint: Path) -> None:
    target, text = checkpoint.with_name("out"), checkpoint.with_name("prompts.txt")
    apply(checkpoint, target, layers="all", check=False)
    text.write_text("1+1=2")
    with pytest.raises(SelectionError, match="no tokenizer for --prompts"):
        verify(checkpoint, target, prompts=text)
    with_tokenizer(checkpoint)
    assert verify(checkpoint, target, prompts=text).tokens == 5
    for content, reason in ((b"", "fewer than two"), (b"1", "fewer than two"), (b"\xff\xfe", "as text")):
        text.write_bytes(content)
        with pytest.raises(SelectionError, match=reason):
            verify(checkpoint, target, prompts=text)
    for missing in (checkpoint.with_name("none.txt"), checkpoint):
        with pytest.raises(SelectionError, match="cannot be read as text"):
            verify(checkpoint, target, prompts=missing)


def test_a_tokenizer_that_is_damaged_is_one_line(checkpoint: Path) -> None:
    text = checkpoint.with_name("prompts.txt")
    text.write_text("1+1=2")
    (checkpoint / "tokenizer.json").write_text("{")
    with pytest.raises(SelectionError, match="no tokenizer for --prompts") as caught:
        verify(checkpoint, checkpoint, prompts=text)
    assert "\n" not in str(caught.value)


def test_divergence_is_the_slow_definition_s(checkpoint: Path) -> None:
    same = verify(checkpoint, checkpoint)
    assert (same.verdict, same.kl, same.top1_agreement) == ("equivalent", 0.0, 1.0)
    trained = checkpoint.with_name("trained")
    changed(checkpoint, trained, ["model.layers.1.mlp.down_proj.weight"], seed=0)
    save_file(
        {name: value.bfloat16() for name, value in weights(trained).items()},
        trained / "model.safetensors",
        metadata={"format": "pt"},
    )
    found, tokens = verify(checkpoint, trained), default_inputs(open_checkpoint(checkpoint)).tokens
    logits = [plain(folder, tokens)[0] for folder in (checkpoint, trained)]
    assert found.kl is not None
    assert found.kl > 1e-4
    assert (found.kl, found.top1_agreement) == pytest.approx(_divergence(logits[0], logits[1]), rel=1e-9)
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 3, (2, 3, 4, 7))
    kl, agreeing = 0.0, 0
    for p, q in zip(one.reshape(-1, 7), other.reshape(-1, 7), strict=True):
        p_share, q_share = np.exp(p) / np.exp(p).sum(), np.exp(q) / np.exp(q).sum()
        kl += sum(a * np.log(a / b) for a, b in zip(p_share, q_share, strict=True)) / 12
        agreeing += int(np.argmax(p) == np.argmax(q))
    assert 0 < agreeing < 12
    assert _divergence(one, other) == pytest.approx((kl, agreeing / 12))
    assert _divergence(one, one + 5) == pytest.approx((0.0, 1.0), abs=1e-14)
