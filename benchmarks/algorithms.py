"""Every algorithm, optimizer, mask and adapter of `algorithms.yaml` on one model, and a table of all.

    python benchmarks/algorithms.py MODEL [--lanes 2] [--only "grpo;grpo, lora"] [--out runs-out/algorithms]

Trains with `scramble run` in lanes that divide the cores; a finished run is not run again, and one that fails
is told and passed over. Then compares them (`scramble runs compare`), prints the table as Markdown, and
writes the report into `OUT/report`. `seconds` are of lanes side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from runs.comparison.compare import compare
from runs.comparison.report import write_report
from runs.recipe import read_yaml

COLUMNS = {
    "name": "recipe",
    "pass@1_before": "pass@1 before",
    "pass@1_after": "after",
    "reward_first": "reward, first quarter",
    "reward_last": "last",
    "loss_first": "loss, first quarter",
    "loss_last": "last ",
    "kl_to_start": "KL",
    "update_norm": "‖dW‖",
    "sparsity": "sparsity",
    "nss": "NSS",
    "principal": "principal",
    "principal_magnitude_matched": "by magnitude",
    "seconds": "seconds",
}


def train(recipe: dict[str, Any], out: Path, threads: int) -> Path | None:
    """One run in a process of its own; None if it failed."""
    path = out / "recipes" / f"{recipe['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", "from scramble.cli import main; main()", "run", str(path)]
    command += ["--out", str(out), "--threads", str(threads), "--quiet", "--format", "json"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{recipe['name']}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    print(f"{recipe['name']}: done", file=sys.stderr)
    return Path(json.loads(done.stdout)["rows"][0]["run"])


def cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("runs-out/algorithms"))
    parser.add_argument("--recipes", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--only", help="names, with semicolons between them")
    arguments = parser.parse_args()
    content = read_yaml(arguments.recipes)
    names = [name.strip() for name in arguments.only.split(";")] if arguments.only else content["recipes"]
    fixed = {"model": arguments.model, "seed": arguments.seed}
    recipes = [
        content["all"] | content["recipes"][name] | fixed | {"name": re.sub(r"[^\w.]+", "-", name).strip("-")}
        for name in names
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // arguments.lanes)
    with ThreadPoolExecutor(arguments.lanes) as pool:
        folders = list(pool.map(lambda recipe: train(recipe, arguments.out, threads), recipes))
    done = {name: folder for name, folder in zip(names, folders, strict=True) if folder}
    found = compare(list(done.values()))
    page = write_report(found, arguments.out / "report", "algorithms")
    table = found.runs.assign(name=list(done))
    columns = [name for name in COLUMNS if name in table]
    print("| " + " | ".join(COLUMNS[name] for name in columns) + " |")
    print("|---" * len(columns) + "|")
    for row in table[columns].to_dict("records"):
        print("| " + " | ".join(cell(value) for value in row.values()) + " |")
    print(f"\n{page}")
    return 0 if len(done) == len(recipes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
