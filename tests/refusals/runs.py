"""Refusals of the commands of runs and experiments: what is seen before anything is trained."""

from __future__ import annotations

from typing import Any

from scramble.errors import (
    CheckpointError,
    DamagedRunError,
    RecipeError,
    SelectionError,
    SymmetryError,
    TargetError,
)
from tests.refusals.harness import OPTION, Refusal, Usage, always
from tests.refusals.world import RECIPE, RUN, content, experiment, recipe

TOOLS = {"name": "tools", "data": "x.jsonl"}
VLLM = {"backend": {"name": "vllm"}}
RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"step": 3}, "step: unknown key"),
    "unknown nested key": ({"optimizer": {"lr": 1}}, "optimizer.lr: unknown key"),
    "unknown task": ({"task": {"name": "chess"}}, "task"),
    "unknown task key": ({"task": {"name": "few-shot-sums", "shot": 1}}, "shot: unknown key"),
    "no steps": ({"steps": 0}, "steps"),
    "late checkpoint": ({"save_steps": [5]}, "step 5 is to be saved"),
    "one generation": ({"algorithm": {"generations": 1}}, "generations"),
    "micro batch": (
        {"algorithm": {"prompts": 2, "generations": 4, "micro_batch": 3}},
        "micro_batch does not divide",
    ),
    "pattern without a group": ({"task": {"name": "few-shot-sums", "answer_pattern": "x"}}, "a group"),
    "operands": ({"task": {"name": "few-shot-sums", "low": 9, "high": 2}}, "low 9 is above high 2"),
    "name with a path": ({"name": "../x"}, "name"),
    "unknown algorithm": ({"algorithm": {"name": "ppo"}}, "algorithm"),
    "a key of another algorithm": (
        {"algorithm": {"name": "sft", "prompts": 4}},
        "algorithm.prompts: unknown key",
    ),
    "micro batch of texts": (
        {"algorithm": {"name": "sft", "batch": 4, "micro_batch": 3}},
        "micro_batch does not divide batch 4",
    ),
    "mini-batches": (
        {"algorithm": {"name": "rloo", "mini_batches": 3}},
        "mini_batches does not divide 4 x 8",
    ),
    "rewards": (
        {"algorithm": {"name": "grpo", "right": 0, "wrong": 1}},
        "right 0.0 is not above wrong 1.0",
    ),
    "overlong buffer": (
        {"algorithm": {"name": "dapo", "overlong_buffer": 99}},
        "overlong_buffer 99 is above max_new_tokens 64",
    ),
    "epsilon": (
        {"algorithm": {"name": "dapo", "epsilon_high": 0.1}},
        "epsilon_high 0.1 is below epsilon 0.2",
    ),
    "unknown optimizer": ({"optimizer": {"name": "lion"}}, "optimizer"),
    "a key of another optimizer": (
        {"optimizer": {"name": "sgd", "betas": [0.9, 0.9]}},
        "optimizer.betas: unknown key",
    ),
    "no norm to match": ({"match": {"update_norm": 0}}, "match.update_norm"),
    "unknown preset": ({"preset": "nonesuch"}, "no preset 'nonesuch'"),
    "tools of rloo": (
        {"algorithm": {"name": "rloo"}, "task": TOOLS},
        "task 'tools': TRL's trainer for algorithm 'rloo'",
    ),
    "tools resampled": ({"algorithm": {"name": "dapo"}, "task": TOOLS}, "set algorithm.resamples to 0"),
    "tools imitated": ({"algorithm": {"name": "sft"}, "task": TOOLS}, "task 'tools' has no texts to imitate"),
    "evaluation of texts": (
        {"algorithm": {"name": "sft"}, "evaluation": {}},
        "evaluation.max_new_tokens: needed",
    ),
    "evaluation of preferences": (
        {"algorithm": {"name": "dpo"}, "task": {"name": "preference", "data": "x"}, "evaluation": {}},
        "evaluation: task 'preference' has no answers to check",
    ),
    **{
        f"vllm for {name}": (
            {"algorithm": {"name": name, "batch": 8}} | VLLM,
            f"backend 'vllm' samples completions, which algorithm '{name}' does not train on",
        )
        for name in ("sft", "dpo", "simpo")
    },
    "unknown back end": ({"backend": {"name": "sglang"}}, "backend"),
    "a key of no back end": ({"backend": {"name": "vllm", "mode": "server"}}, "backend.mode: unknown key"),
    "no cache": ({"backend": {"name": "vllm", "kv_cache_gib": 0}}, "backend.kv_cache_gib"),
    "more than the GPU": (
        {"backend": {"name": "vllm", "gpu_memory_utilization": 1.5}},
        "backend.gpu_memory_utilization",
    ),
    "a key of another back end": (
        {"backend": {"name": "transformers", "kv_cache_gib": 1}},
        "backend.kv_cache_gib: unknown key",
    ),
    "seed of a mask without chance": ({"mask": {"kind": "safe", "seed": 1}}, "mask.seed: unknown key"),
    "alpha of a mask": ({"mask": {"kind": "safe", "alpha": 1.0}}, "mask.alpha"),
    "unknown mask": ({"mask": {"kind": "best"}}, "mask"),
    "mask and adapter": ({"mask": {"kind": "safe"}, "adapter": {"name": "lora"}}, "give one of the two"),
    "norm of an adapter": (
        {"match": {"update_norm": 1}, "adapter": {"name": "lora"}},
        "which an adapter is not",
    ),
    "unknown adapter": ({"adapter": {"name": "milora"}}, "adapter.name"),
    "collapse without KL": ({"collapse": {"kl_above": 1}}, "needs the section kl"),
    "collapse without a reward": (
        {"collapse": {"reward_below": 0}, "algorithm": {"name": "sft"}},
        "'sft' has no reward",
    ),
}
TEXTS = {
    "not YAML": ("a: [", "not YAML"),
    "not a mapping": ("- a", "not a mapping"),
}
ARMS = ["vo-rotation:layers=1"]
PLAIN = {key: value for key, value in RECIPE.items() if key not in ("model", "seed")}
EXPERIMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown key": ({"arm": {}}, RecipeError, "arm: unknown key"),
    "unknown recipe key": ({"recipe": PLAIN | {"lr": 1}}, RecipeError, "lr: unknown key"),
    "recipe sets the seed": (
        {"recipe": PLAIN | {"seed": 1}},
        RecipeError,
        "recipe.seed: the experiment sets this",
    ),
    "no base arm": ({"arms": {"a": ARMS}}, RecipeError, "exactly one arm must have no scrambles"),
    "no seeds": ({"seeds": []}, RecipeError, "seeds"),
    "a seed twice": ({"seeds": [1, 1]}, RecipeError, "a seed is listed twice"),
    "no such base": ({"base": "/nonexistent"}, CheckpointError, "/nonexistent"),
    "no float32 ends": (
        {"recipe": PLAIN | {"fp32_steps": []}},
        RecipeError,
        "put step 2 into recipe.fp32_steps",
    ),
    "unknown symmetry": (
        {"arms": {"base": [], "x": ["vo:layers=1"]}},
        SymmetryError,
        "no symmetry named 'vo'",
    ),
    "layer out of range": (
        {"arms": {"base": [], "x": ["vo-rotation:layers=7"]}},
        SelectionError,
        "outside this model's layers",
    ),
}
RECORDS = {
    "cut record": ("run.json", b'{"status": "fini', "run.json is not JSON"),
    "another record": ("run.json", b"[]", "run.json is not a record"),
    "binary recipe": ("recipe.yaml", b"a: [\x00", "recipe.yaml is not YAML"),
    "not UTF-8": ("recipe.yaml", b"\xff\xfe\xfa", "recipe.yaml is not YAML"),
    "another recipe": ("recipe.yaml", b"hello", "recipe.yaml is not a recipe"),
    "metrics": ("metrics.jsonl", b'{"step": 1\n{"step": 2}\n', "metrics.jsonl has a line that is not JSON"),
    "metrics of numbers": ("metrics.jsonl", b"1\n", "metrics.jsonl has a line that is not a row"),
}
STEPS = ("plan", "run", "contrast", "report")
NOT_THERE = (SelectionError, ("nowhere",))
NO_RECIPE = (RecipeError, ("nowhere", "No such file"))
NO_FILE = (RecipeError, ("notes", "Is a directory"))


REFUSALS = [
    *always("run {} --out out", NO_RECIPE, NO_FILE),
    *always("organism {} --out out", NO_RECIPE, NO_FILE),
    Refusal("no such family", "organism --family nonesuch --out out", RecipeError, ("nonesuch",)),
    Refusal("no step", "organism --steps 0 --out out", Usage, ("'--steps'",)),
    *always("runs list {}", NOT_THERE, (SelectionError, ("file",)))[:1],
    *always("runs show {}", NOT_THERE, (SelectionError, ("notes",))),
    *always("runs compare {}", NOT_THERE, (SelectionError, ("notes",))),
    *(one for step in STEPS for one in always(f"experiment {step} {{}} --out out", NO_RECIPE, NO_FILE)),
    *always("demo --model {} --out out", (CheckpointError, ("nowhere",)), (CheckpointError, ("notes",))),
    Refusal(OPTION, "runs list --format xml", Usage, ("'--format'", "xml")),
    Refusal("too few layers", "demo --model model --out out", SelectionError, ("layers 20 and 25",)),
    Refusal("no thread", "run recipe.yaml --threads 0 --out out", Usage, ("'--threads'",)),
    Refusal("no worker", "experiment run experiment.yaml --lanes 0 --out out", Usage, ("'--lanes'",)),
    Refusal(
        "an experiment as a recipe",
        "run experiment.yaml --out out",
        RecipeError,
        ("this is an experiment: scramble experiment run experiment.yaml",),
    ),
    *(
        Refusal(
            "a recipe as an experiment",
            f"experiment {step} recipe.yaml --out out",
            RecipeError,
            ("this is a recipe: scramble run recipe.yaml",),
        )
        for step in STEPS
    ),
    Refusal("alpha", f"runs compare {RUN} --alpha 1", SelectionError, ("above 0 and below 1",)),
    Refusal("a report in a file", f"runs compare {RUN} --report file", TargetError, ("cannot be a folder",)),
    *(
        Refusal(name, "run recipe.yaml --out out", RecipeError, (says, "recipe.yaml"), recipe(**change))
        for name, (change, says) in RECIPES.items()
    ),
    *(
        Refusal(name, line, RecipeError, (says,), content(f"{line.split()[-3]}", text))
        for name, (text, says) in TEXTS.items()
        for line in ("run recipe.yaml --out out", "experiment plan experiment.yaml --out out")
    ),
    *(
        Refusal(
            name, f"experiment {step} experiment.yaml --out out --quiet", error, (says,), experiment(**change)
        )
        for name, (change, error, says) in EXPERIMENTS.items()
        for step in ("plan", "run")
    ),
    *(
        Refusal(
            "nothing to contrast",
            f"experiment {step} experiment.yaml --out out",
            SelectionError,
            ("0 finished run(s)",),
        )
        for step in ("contrast", "report")
    ),
    *(
        Refusal(name, f"{line} {RUN}", DamagedRunError, (says,), content(f"{RUN}/{file}", bytes_))
        for name, (file, bytes_, says) in RECORDS.items()
        for line in ("runs show", "runs compare")
    ),
]
