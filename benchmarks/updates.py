"""The full overlap table of five runs, on generated bf16 checkpoints, beside plain reading and the eta rule.

    python benchmarks/updates.py [--gigabytes 3.1] [--folder /tmp/bench] [--twice] [--float32]

Every side is a whole process, and all are timed in one run. `--gigabytes` is the size of each of the six
checkpoints (one start, five ends), of which the page cache must hold all for the warm figure. Cold means that
the files were dropped from the page cache. The eta rule is timed on one matrix and scaled by its weights.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RUNS, HIDDEN, NEURON, VOCAB = 5, 1536, 8960, 32768
SHAPES = {
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.k_proj.weight": (256, HIDDEN),
    "self_attn.v_proj.weight": (256, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "mlp.gate_proj.weight": (NEURON, HIDDEN),
    "mlp.up_proj.weight": (NEURON, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, NEURON),
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
}
CONFIG = {"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": NEURON, "vocab_size": VOCAB}
CONFIG |= {"num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True}
DISTINCT = 4  # layers that are drawn; the others hold the same bytes in another order
OVERLAP = "import sys; from scramble.cli.app import main; main()"
CAT = """
import sys
block = bytearray(1 << 24)
for name in sys.argv[1:]:
    with open(name, "rb", 0) as file:
        while file.readinto(block): pass
"""
COMPILE = """
import time, numpy as np
from scramble.measures.updates.joint import count
from scramble.measures.pairs.streams import FileStream
from scramble.checkpoints.shard import read_shard
import sys
from pathlib import Path
entries = [read_shard(Path(name)).tensors[sys.argv[1]] for name in sys.argv[2:]]
began = time.perf_counter()
count([FileStream(entries[0], entries[1])] * 2)
print(time.perf_counter() - began)
"""
ETA = """
import itertools, sys, time, torch
from safetensors import safe_open
name, *files = sys.argv[1:]
start, *ends = [safe_open(file, "pt").get_tensor(name) for file in files]
times = []
for _ in range(2):
    began, table = time.perf_counter(), []
    for a, b in itertools.combinations(ends, 2):
        x, y = ((w.float() - start.float()).abs() > 1e-3 * torch.maximum(w.float().abs(), start.float().abs())
                for w in (a, b))
        table.append((x & y).sum().item() / (x | y).sum().item())
    times.append(time.perf_counter() - began)
print(min(times), start.numel())
"""


def layer(seed: int) -> list[dict[str, np.ndarray]]:
    """A layer of the start and of five ends: updates of one size, rounded to bf16; about 15 % change."""
    from scramble.checkpoints.storage import bf16_to_float32, float32_to_bf16

    rng = np.random.default_rng(seed)
    found: list[dict[str, np.ndarray]] = [{} for _ in range(RUNS + 1)]
    for name, shape in SHAPES.items():
        words = float32_to_bf16(rng.standard_normal(shape, np.float32) * 0.02)
        for k in range(RUNS + 1):
            step = rng.standard_normal(shape, np.float32) * np.float32(1.2e-5 if k else 0)
            found[k][name] = float32_to_bf16(bf16_to_float32(words) + step)
    return found


def generate(folder: Path, gigabytes: float, float32: bool) -> None:
    """Six checkpoints in shards of one layer each."""
    import torch
    from safetensors.torch import save_file

    from scramble.checkpoints.storage import bf16_to_float32

    size = 2 * sum(int(np.prod(shape)) for shape in SHAPES.values()) / 1e9
    layers = max(1, round(gigabytes / size))
    drawn = [layer(seed) for seed in range(min(DISTINCT, layers))]
    embedding = np.random.default_rng(9).integers(0x3C00, 0x3C80, (VOCAB, HIDDEN), np.uint16)
    for k in range(RUNS + 1):
        target = folder / ("start" if k == 0 else f"end{k}")
        target.mkdir(parents=True)
        weight_map = {}
        outside = {"model.embed_tokens.weight": embedding, "model.norm.weight": embedding[0]}
        for at in range(layers + 1):
            tensors = outside
            if at < layers:
                tensors = {f"model.layers.{at}.{n}": w for n, w in drawn[at % len(drawn)][k].items()}
            file = f"model-{at + 1:05d}-of-{layers + 1:05d}.safetensors"
            values = {
                name: torch.from_numpy(bf16_to_float32(words) * np.float32(1 + 1e-4 * float32))
                if float32 and k
                else torch.from_numpy(words.view(np.int16)).view(torch.bfloat16)
                for name, words in tensors.items()
            }
            save_file(values, target / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(values, file)
        (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (target / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    os.sync()


def measure(code: str, *arguments: object) -> tuple[float, float, str]:
    """Seconds of a process, its peak memory in MB, and what it printed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    out = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit("failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024, out


def drop(files: list[Path]) -> None:
    """Out of the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def prepare(folder: Path, gigabytes: float, float32: bool) -> tuple[list[Path], list[str], float]:
    """Generate; the files, the runs, and the size of everything in GB. In a child: a peak is inherited."""
    shutil.rmtree(folder, ignore_errors=True)
    child = os.fork()
    if child == 0:
        generate(folder, gigabytes, float32)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the checkpoints could not be written")
    files = sorted(folder.rglob("*.safetensors"))
    runs = [f"{folder / 'start'}:{folder / f'end{k}'}" for k in range(1, RUNS + 1)]
    return files, runs, sum(file.stat().st_size for file in files) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.1, help="of each of the six checkpoints")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/scramble-benchmark"))
    parser.add_argument("--rounds", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--twice", action="store_true", help="also the peak memory at twice the size")
    parser.add_argument("--float32", action="store_true", help="ends in float32: all baselines, two readings")
    arguments = parser.parse_args()
    files, runs, size = prepare(arguments.folder, arguments.gigabytes, arguments.float32)
    call = ["overlap", *runs, "--format", "json", "--quiet"]
    print(f"{len(files)} files, {size:.2f} GB: one start and {RUNS} ends")

    norm = [
        "model.norm.weight",
        *(sorted((arguments.folder / part).glob("*"))[-2] for part in ("start", "end1")),
    ]
    with tempfile.TemporaryDirectory() as empty:
        os.environ["NUMBA_CACHE_DIR"] = empty
        compiling = float(measure(COMPILE, *norm)[2])
        cached = float(measure(COMPILE, *norm)[2])
        del os.environ["NUMBA_CACHE_DIR"]
    print(f"compiling: {compiling:.1f} s, once; in the next process, from the cache on disk: {cached:.2f} s")
    measure(COMPILE, *norm)
    starting, _, _ = measure("from scramble.measures.updates import tables, joint, kernels; import pandas")
    times: dict[str, list[float]] = {
        "read, cold": [],
        "overlap, cold": [],
        "read, warm": [],
        "overlap, warm": [],
    }
    peak = 0.0
    for _ in range(arguments.rounds):
        drop(files)
        times["read, cold"].append(measure(CAT, *files)[0])
        drop(files)
        times["overlap, cold"].append(measure(OVERLAP, *call)[0])
    for _ in range(arguments.rounds):
        times["read, warm"].append(measure(CAT, *files)[0])
        seconds, memory, out = measure(OVERLAP, *call)
        times["overlap, warm"].append(seconds)
        peak = max(peak, memory)
    best = {name: min(several) for name, several in times.items()}
    for name, seconds in best.items():
        print(f"{name:16} {seconds:6.2f} s  {size / seconds:5.2f} GB/s   (all: {times[name]})")
    row = json.loads(out)["rows"][0]
    print(f"densities {row['density_a']:.3f}, {row['density_b']:.3f}; Jaccard {row['jaccard']:.3f}")
    print(f"start-up within that: {starting:.2f} s; peak {peak:.0f} MB (at most 1000)")
    print(f"warm: {size / best['overlap, warm']:.2f} GB/s of checkpoint bytes, whole process (at least 2)")
    print(f"cold: {best['overlap, cold'] / best['read, cold']:.2f} x reading the same files (at most 1.2)")
    name = "model.layers.0.mlp.up_proj.weight"
    parts = ["start", *(f"end{k}" for k in range(1, RUNS + 1))]
    one = [sorted((arguments.folder / part).glob("*.safetensors"))[0] for part in parts]
    _, _, printed = measure(ETA, name, *one)
    seconds, weights = map(float, printed.split())
    total = row["n"] / weights * seconds
    ratio = total / best["overlap, warm"]
    print(f"pairwise eta rule in torch: {seconds:.2f} s for {weights:.3g} weights, {total:.0f} s for all")
    print(f"that is {ratio:.0f} x the whole overlap table (at least 50)")
    if arguments.twice:
        _, runs, size = prepare(arguments.folder, 2 * arguments.gigabytes, arguments.float32)
        _, memory, _ = measure(OVERLAP, "overlap", *runs, "--format", "json", "--quiet")
        print(f"{size:.2f} GB: peak {memory:.0f} MB")
    shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
