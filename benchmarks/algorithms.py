"""Algorithms and optimizers beside each other: what each learned, how far it went, and where in the weights.

    python benchmarks/algorithms.py MODEL [--steps 20] [--recipes FILE.yaml] [--only grpo,sft] [--csv FILE]

Runs a list of recipes one after the other (a finished run is not run again, one that fails is told and
passed over) and prints a row for each:

first, last       mean reward over the first and the last quarter of the steps that sampled; the loss where
                  there is no reward, named in `measure`
score_start, _end share of right answers, one sample at temperature 1 to each of `--prompts` prompts of the
                  task with another seed: comparable between all rows
kl                of the end to the start, nats a token, over the full vocabulary at the tokens of the end's
                  samples (the token-wise KL of arXiv 2511.08567, fig. 15)
update_norm       ||W - W0||_F of the bf16 weights, all tensors
sparsity, nss     of the whole model, and of its matrices (`scramble diff`, `scramble spectra`)
principal         share of the update in the principal weights (top-64, alpha 0.5; `scramble principal`), with
                  `chance` and change rates by magnitude (`magnitude`) beside it
seconds           of training

`--recipes` is a mapping of names to recipes, without `model`, `steps`, `seed`; the list below is the default.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from runs.folder import RunFolder
from runs.recipe import Recipe, parse, read_yaml
from runs.run import run
from runs.summary import measured
from scramble.checkpoints import locate
from scramble.errors import ScrambleError
from scramble.geometry.matrices import Selection
from scramble.geometry.principal import count_masks, principal
from scramble.geometry.spectra import measure, spectra
from scramble.updates.ends import open_run
from scramble.updates.tables import diff

TASK = {"name": "few-shot-sums"}
SAMPLING = {"prompts": 4, "generations": 8, "max_new_tokens": 4}
ADAMW = {"learning_rate": 3e-5}
TEXTS = {"batch": 32}
RECIPES: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": {"name": "grpo"} | SAMPLING, "optimizer": ADAMW},
    "grpo, beta 0.04": {"algorithm": {"name": "grpo", "beta": 0.04} | SAMPLING, "optimizer": ADAMW},
    "grpo, 2 x 2 updates": {
        "algorithm": {"name": "grpo", "mini_batches": 2, "iterations": 2} | SAMPLING,
        "optimizer": ADAMW,
    },
    "dr_grpo": {"algorithm": {"name": "dr_grpo"} | SAMPLING, "optimizer": ADAMW},
    "dapo": {"algorithm": {"name": "dapo", "overlong_buffer": 2} | SAMPLING, "optimizer": ADAMW},
    "rloo": {"algorithm": {"name": "rloo"} | SAMPLING, "optimizer": ADAMW},
    "reinforce++": {"algorithm": {"name": "reinforce++"} | SAMPLING, "optimizer": ADAMW},
    "reinforce++-baseline": {"algorithm": {"name": "reinforce++-baseline"} | SAMPLING, "optimizer": ADAMW},
    "rejection_sft": {"algorithm": {"name": "rejection_sft"} | SAMPLING, "optimizer": ADAMW},
    "sft": {"algorithm": {"name": "sft"} | TEXTS, "optimizer": ADAMW},
    "dpo": {"algorithm": {"name": "dpo"} | TEXTS, "optimizer": {"learning_rate": 1e-5}},
    "simpo": {"algorithm": {"name": "simpo"} | TEXTS, "optimizer": {"learning_rate": 1e-5}},
    "grpo, sgd": {
        "algorithm": {"name": "grpo"} | SAMPLING,
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
    },
    "grpo, muon": {
        "algorithm": {"name": "grpo"} | SAMPLING,
        "optimizer": {"name": "muon", "learning_rate": 3e-5, "adamw_learning_rate": 3e-5},
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--prompts", type=int, default=256, help="on which score and KL are measured")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("runs-out/algorithms"))
    parser.add_argument("--recipes", type=Path)
    parser.add_argument("--only", help="names, comma-separated")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    recipes = read_yaml(arguments.recipes) if arguments.recipes else RECIPES
    if arguments.only:
        recipes = {name.strip(): recipes[name.strip()] for name in arguments.only.split(",")}
    settings = {
        "model": arguments.model,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "precision": arguments.precision,
    }
    rows, failed = [], 0
    for name, content in recipes.items():
        try:
            recipe = parse(Recipe, {"task": TASK} | content | settings, name)
            folder = run(recipe, arguments.out, threads=arguments.threads)
            rows.append(row(name, recipe, folder, arguments.prompts))
        except ScrambleError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(f"{name}: done", file=sys.stderr)
        if arguments.csv:
            pd.DataFrame(rows).to_csv(arguments.csv, index=False)
    with pd.option_context("display.width", 250, "display.max_columns", 50):
        print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    return 1 if failed else 0


def row(name: str, recipe: Recipe, folder: RunFolder, prompts: int) -> dict[str, Any]:
    start, end = locate(recipe.model), folder.checkpoint(folder.last_step)
    kind, values = measured(folder.metrics)
    quarter = max(1, len(values) // 4)
    opened = open_run(f"{start}:{end}")
    whole = diff(opened, ["model"]).iloc[0]
    nss = spectra(measure(opened, chosen=Selection()), ["model"]).iloc[0]["nss"]
    shares = principal(count_masks(opened, rank=64, alphas=(0.5,)), ["model"])
    top = shares[shares["mask"] == "principal"].iloc[0]
    return {
        "recipe": name,
        "measure": kind,
        "first": sum(values[:quarter]) / quarter,
        "last": sum(values[-quarter:]) / quarter,
        **compared(recipe, start, end, prompts),
        "sparsity": whole["sparsity"],
        "nss": nss,
        "principal": top["overlap_update"],
        "chance": top["chance_update"],
        "magnitude": top["magnitude_matched_update"],
        "seconds": folder.record["seconds"],
    }


@torch.no_grad()
def compared(recipe: Recipe, start: Path, end: Path, count: int, batch: int = 32) -> dict[str, float]:
    """Scores of start and end, the KL of the end to the start at the end's own samples, the update's norm."""
    task = recipe.task.model_copy(update={"seed": recipe.task.seed + 1, "size": count})
    examples = task.examples()
    longest = getattr(recipe.algorithm, "max_new_tokens", 4)
    tokenizer = AutoTokenizer.from_pretrained(start, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    models = {
        which: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for which, path in (("start", start), ("end", end))
    }
    right = dict.fromkeys(models, 0)
    divergence, tokens = 0.0, 0
    for at in range(0, count, batch):
        part = examples[at : at + batch]
        inputs = tokenizer([example.prompt for example in part], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        for which, model in models.items():
            torch.manual_seed(at)
            texts = model.generate(
                **inputs,
                max_new_tokens=longest,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                pad_token_id=tokenizer.pad_token_id,
            )
            new = texts[:, inputs["input_ids"].shape[1] :]
            answers = tokenizer.batch_decode(new, skip_special_tokens=True)
            right[which] += sum(task.correct(text, e.answer) for text, e in zip(answers, part, strict=True))
        ended = (new == tokenizer.eos_token_id).cumsum(dim=1)
        kept = ended - (new == tokenizer.eos_token_id).long() == 0  # up to the first end of text, with it
        mask = torch.cat([inputs["attention_mask"], kept.long()], dim=1)
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logs = {
            which: model(texts, attention_mask=mask, position_ids=places)
            .logits[:, -new.shape[1] - 1 : -1]
            .log_softmax(dim=-1)
            for which, model in models.items()
        }
        each = (logs["end"].exp() * (logs["end"] - logs["start"])).sum(dim=-1)
        divergence += float((each * kept).sum())
        tokens += int(kept.sum())
    pairs = zip(models["start"].parameters(), models["end"].parameters(), strict=True)
    return {
        "score_start": right["start"] / count,
        "score_end": right["end"] / count,
        "kl": divergence / tokens,
        "update_norm": sum(float((new.double() - old.double()).square().sum()) for old, new in pairs) ** 0.5,
    }


if __name__ == "__main__":
    raise SystemExit(main())
