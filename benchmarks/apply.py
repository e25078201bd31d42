"""`scramble apply` beside a plain copy and beside load-rotate-save, on a generated bf16 checkpoint.

    python benchmarks/apply.py [--gigabytes 3.2] [--folder /tmp/bench] [--twice]

Prints ratios measured in one run. Every side is a whole process and includes the flush to disk; sides
alternate, and the fastest of three counts. The source is in the page cache for all of them. Verification is
off.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 1024,
    "torch_dtype": "bfloat16",
}
LAYER_GB = 0.436
COPY, TWO, ALL, SAVE = "cp -r and sync", "apply, 2 layers", "apply, all layers", "load, rotate, save"
SLOW = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
d = model.config.hidden_size // model.config.num_attention_heads
for layer in (0, 1):
    attention = model.model.layers[layer].self_attn
    v, o = attention.v_proj.weight.data, attention.o_proj.weight.data
    R = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    v.copy_((R @ v.double().view(-1, d, v.shape[1])).view(v.shape))
    o.copy_((o.double().view(o.shape[0], -1, d) @ R.T).view(o.shape))
model.save_pretrained(sys.argv[2])
"""


def generate(folder: Path, gigabytes: float) -> None:
    """Random normal weights in shards of one layer each."""
    import torch
    from safetensors.torch import save_file

    layers = max(2, round(gigabytes / LAYER_GB))
    folder.mkdir(parents=True)
    hidden, neuron = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {
        f"self_attn.{name}_proj": (rows, hidden)
        for name, rows in zip("qkvo", (4096, 1024, 1024, 4096), strict=True)
    }
    shapes |= {
        "mlp.gate_proj": (neuron, hidden),
        "mlp.up_proj": (neuron, hidden),
        "mlp.down_proj": (hidden, neuron),
    }
    shapes |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    files = [
        {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
        for layer in range(layers)
    ]
    vocab = (CONFIG["vocab_size"], hidden)
    files.append(
        {"model.embed_tokens.weight": vocab, "lm_head.weight": vocab, "model.norm.weight": (hidden,)}
    )
    weight_map = {}
    for place, tensors in enumerate(files):
        name = f"model-{place + 1:05d}-of-{len(files):05d}.safetensors"
        values = {key: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for key, shape in tensors.items()}
        save_file(values, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))


def measure(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds of a process with `sync` after it, and its peak memory in MB."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    os.sync()
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss / 1024


def prepare(base: Path, gigabytes: float) -> tuple[float, int]:
    """Generate a checkpoint; its size in GB and how many shards it has."""
    # In a process of its own: a child's peak memory is never below its parent's at the fork.
    with ProcessPoolExecutor(1) as pool:
        pool.submit(generate, base, gigabytes).result()
    sizes = [path.stat().st_size for path in base.glob("*.safetensors")]
    return sum(sizes) / 1e9, len(sizes)


def scramble(base: Path, out: Path, layers: str) -> list[str]:
    call = [sys.executable, "-c", "from scramble.cli.app import main; main()", "apply", str(base)]
    return [*call, "--no-verify", "--out", str(out), "--layers", layers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/scramble-benchmark"))
    parser.add_argument("--rounds", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--twice", action="store_true", help="also the peak memory at twice the size")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    base, out = arguments.folder / "base", arguments.folder / "out"
    size, shards = prepare(base, arguments.gigabytes)
    sides = {
        COPY: ["cp", "-r", str(base), str(out)],
        TWO: scramble(base, out, "0,1"),
        ALL: scramble(base, out, "all"),
        SAVE: [sys.executable, "-c", SLOW, str(base), str(out)],
    }
    best = dict.fromkeys(sides, (float("inf"), 0.0))
    for _ in range(arguments.rounds):
        for name, command in sides.items():
            best[name] = min(best[name], measure(command, out))
    print(f"{size:.2f} GB in {shards} shards, the fastest of {arguments.rounds}")
    for name, (seconds, memory) in best.items():
        print(f"{name:20} {seconds:6.2f} s   peak {memory:6.0f} MB")
    print(f"{TWO}: {best[TWO][0] / best[COPY][0]:.2f} x the copy (at most 1.2)")
    print(f"{ALL}: {best[ALL][0] / best[COPY][0]:.2f} x the copy (at most 2)")
    print(f"{SAVE}: {best[SAVE][0] / best[TWO][0]:.1f} x {TWO} (at least 3)")
    if arguments.twice:
        shutil.rmtree(base)
        size, shards = prepare(base, 2 * arguments.gigabytes)
        peaks = [measure(scramble(base, out, layers), out)[1] for layers in ("0,1", "all")]
        print(f"{size:.2f} GB in {shards} shards: peak {peaks[0]:.0f} MB ({TWO}), {peaks[1]:.0f} MB ({ALL})")
    shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
