"""`scramble run` beside a bare TRL script that does the same, and two lanes beside one. On an idle machine.

    python benchmarks/overhead.py MODEL [--steps 10] [--rounds 3] [--folder /tmp] [--parts plain]

Every side is a whole process: start-up, training, the last checkpoint. Sides alternate, the first of a round
is the last of the next, and the fastest of the rounds counts (`states` has one). The bare script has the
recipe's settings, and must end with the same bits.

plain    one run, without states to go on from
states   the same once more with what a resumed run needs: `resume_every` beside TRL's `save_steps`
lanes    two runs of an experiment, in one lane and in two; one lane has one core, or all of them; the figure
         of 1.6 is meant for two cores
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

PARTS = ("plain", "states", "lanes")
ALGORITHM = {"name": "grpo", "prompts": 4, "generations": 8, "max_new_tokens": 4}
RECIPE: dict[str, Any] = {
    "task": {"name": "few-shot-sums"},
    "algorithm": ALGORITHM,
    "optimizer": {"learning_rate": 3e-5},
    "precision": "fp32",
    "resume_every": 0,
}
SCRAMBLE = [sys.executable, "-c", "from scramble.cli.app import main; main()"]
BARE = """
import re, sys
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from scramble.runs.tasks.few_shot_sums import FewShotSums

model, out, steps, save_steps, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(threads)
task = FewShotSums(name="few-shot-sums")

def reward(completions, answer, **_):
    found = [re.match(task.answer_pattern, one) for one in completions]
    return [float(one is not None and one.group(1) == right) for one, right in zip(found, answer)]

tokenizer = AutoTokenizer.from_pretrained(model)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
trainer = GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
    processing_class=tokenizer,
    reward_funcs=reward,
    train_dataset=Dataset.from_list([{"prompt": e.prompt, "answer": e.answer} for e in task.examples()]),
    args=GRPOConfig(
        output_dir=out, seed=1, data_seed=1, max_steps=steps, bf16=False, optim="adamw_torch",
        use_cpu=not torch.cuda.is_available(), learning_rate=3e-5, weight_decay=0.0, max_grad_norm=1.0,
        lr_scheduler_type="constant_with_warmup", per_device_train_batch_size=32, num_generations=8,
        max_completion_length=4, temperature=1.0, beta=0.0, loss_type="grpo", epsilon=0.2, logging_steps=1,
        report_to="none", gradient_checkpointing=False, disable_tqdm=True, save_total_limit=1,
        dataloader_pin_memory=torch.cuda.is_available(), save_steps=save_steps or 500,
        save_strategy="steps" if save_steps else "no",
    ),
)
trainer.train()
trainer.model.to(torch.bfloat16).save_pretrained(out + "/end")
tokenizer.save_pretrained(out + "/end")
"""


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a process; `folder` is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.sync()
    began = time.perf_counter()
    with (folder / "log.txt").open("wb") as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"failed, see {folder / 'log.txt'}: {' '.join(command)[:200]}")
    return seconds


def sides(model: str, steps: int, every: int, threads: int, folder: Path) -> dict[str, list[str]]:
    """The command of each side."""
    recipe = folder / f"recipe-{every}.yaml"
    recipe.write_text(
        yaml.safe_dump(RECIPE | {"model": model, "steps": steps, "seed": 1, "resume_every": every})
    )
    numbers = map(str, (steps, every, threads))
    return {
        "bare TRL": [sys.executable, "-c", BARE, model, str(folder / "bare TRL"), *numbers],
        "scramble run": [
            *(*SCRAMBLE, "run", str(recipe), "--out", str(folder / "scramble run")),
            *("--threads", str(threads), "--quiet"),
        ],
    }


def same_bits(folder: Path, steps: int) -> bool:
    """Whether both sides ended with the same weights."""
    (ours,) = (folder / "scramble run").glob(f"*/checkpoints/step-{steps}/model.safetensors")
    one, other = load_file(ours), load_file(folder / "bare TRL" / "end" / "model.safetensors")
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def compare(name: str, commands: dict[str, list[str]], rounds: int, folder: Path, steps: int) -> None:
    times: dict[str, list[float]] = {side: [] for side in commands}
    for number in range(rounds):
        for side in list(commands)[:: -1 if number % 2 else 1]:
            times[side].append(timed(commands[side], folder / side))
    bare, ours = (min(times[side]) for side in commands)
    for side, found in times.items():
        print(f"{name:8} {side:14} {min(found):7.1f} s   (all: {' '.join(f'{one:.1f}' for one in found)})")
    print(f"{name:8} {ours / bare:.3f} x bare TRL (at most 1.05)")
    if not same_bits(folder, steps):
        raise SystemExit("the two sides ended with different weights: they did not do the same")


def lanes(model: str, steps: int, cores: list[int], folder: Path) -> None:
    """Two runs, in one lane and in two."""
    path = folder / "experiment.yaml"
    content = {"name": "lanes", "base": model, "arms": {"base": []}, "seeds": [1, 2]}
    path.write_text(yaml.safe_dump(content | {"recipe": RECIPE | {"steps": steps}}))
    out = folder / "lanes"
    run = [*SCRAMBLE, "experiment", "run", str(path), "--out", str(out), "--quiet", "--lanes"]
    one_core = ["taskset", "-c", str(cores[0])]
    seconds = {
        "one lane, one core": timed([*one_core, *run, "1"], out),
        f"one lane, {len(cores)} cores": timed([*run, "1"], out),
        f"two lanes, {len(cores)} cores": timed([*run, "2"], out),
    }
    *ones, two = seconds.values()
    for name, found in seconds.items():
        print(f"lanes    {name:20} {found:7.1f} s for two runs of {steps} steps")
    print(f"lanes    two: {ones[0] / two:.2f} x one lane with one core (at least 1.6), ", end="")
    print(f"{ones[1] / two:.2f} x one lane with all cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where a folder for the sides is made")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(arguments.model, arguments.steps, arguments.rounds, Path(folder), arguments.parts)


def measure(model: str, steps: int, rounds: int, folder: Path, parts: Sequence[str]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if "plain" in parts:
        compare("plain", sides(model, steps, 0, len(cores), folder), rounds, folder, steps)
    if "states" in parts:
        every = max(1, steps // 2)
        compare("states", sides(model, steps, every, len(cores), folder), 1, folder, steps)
    if "lanes" in parts:
        lanes(model, steps, cores, folder)


if __name__ == "__main__":
    main()
