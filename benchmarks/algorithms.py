"""Every algorithm, optimizer, mask and adapter of `algorithms.yaml` on one model, and a table of all.

    python benchmarks/algorithms.py MODEL [--lanes 2] [--only "grpo;grpo, lora"] [--out runs-out/algorithms]

Trains in lanes, as experiments do; a finished run is not run again, and one that fails is told and passed
over. Then compares the runs (`scramble runs compare`), prints the table as Markdown, and writes the report
into `OUT/report`. `seconds` are of lanes side by side.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from scramble.interventions.experiment import PlannedRun
from scramble.interventions.lanes import execute, lanes
from scramble.runs.comparison.compare import compare
from scramble.runs.comparison.report import write_report
from scramble.runs.engine.run import plan
from scramble.runs.recipe.recipe import Recipe, parse, read_yaml

COLUMNS = {
    "name": "recipe",
    "pass@1_before": "pass@1 before",
    "pass@1_after": "after",
    "score_first": "score, first quarter",
    "score_last": "last",
    "reward_last": "reward, last",
    "loss_first": "loss, first quarter",
    "loss_last": "last",
    "kl_to_start": "KL",
    "update_norm": "‖dW‖",
    "sparsity": "sparsity",
    "nss": "NSS",
    "principal": "principal",
    "principal_magnitude_matched": "by magnitude",
    "seconds": "seconds",
}


def cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    return (
        f"{value:.0f}" if abs(value) >= 100 else f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs-out/algorithms"))
    parser.add_argument("--recipes", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--only", help="names, with semicolons between them")
    arguments = parser.parse_args()
    content = read_yaml(arguments.recipes)
    names = [name.strip() for name in arguments.only.split(";")] if arguments.only else content["recipes"]
    planned = []
    for name in names:
        slug = re.sub(r"[^\w.]+", "-", name).strip("-")
        own = {"model": arguments.model, "seed": arguments.seed, "name": slug}
        recipe = parse(Recipe, content["all"] | content["recipes"][name] | own, name)
        folder, start, _ = plan(recipe, arguments.out)
        planned.append(PlannedRun(name, arguments.seed, recipe, start, folder))
    failed = execute(planned, arguments.out, lanes(len(planned), arguments.lanes))
    for name, reason in failed.items():
        print(f"{name}: {reason}", file=sys.stderr)
    weighed = {
        one.arm: one.done for one in planned if one.status == "finished" and one.done.finished.end.hash
    }
    if not weighed:
        return 1
    found = compare([folder.path for folder in weighed.values()])
    page = write_report(found, arguments.out / "report", "algorithms")
    table = found.runs.assign(name=list(weighed))
    columns = [name for name in COLUMNS if name in table]
    print("| " + " | ".join(COLUMNS[name] for name in columns) + " |")
    print("|---" * len(columns) + "|")
    for row in table[columns].to_dict("records"):
        print("| " + " | ".join(cell(value) for value in row.values()) + " |")
    print(f"\n{page}")
    return 0 if len(weighed) == len(planned) else 1


if __name__ == "__main__":
    raise SystemExit(main())
