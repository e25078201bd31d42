"""The training itself: TRL's GRPOTrainer with the recipe's settings, our checkpoints and our metrics."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runs import reporting
from runs.evaluate import Evaluator
from runs.folder import RunFolder
from runs.recipe import Recipe
from runs.tasks import Example
from scramble.checkpoints import open_checkpoint
from scramble.errors import MissingDependencyError

try:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
except ImportError as missing:
    raise MissingDependencyError(f"training needs {missing.name}: pip install 'scramble[runs]'") from None
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging

Progress = Callable[[int, int, dict[str, Any]], None]


def train(
    recipe: Recipe,
    start: Path,
    examples: list[Example],
    folder: RunFolder,
    threads: int,
    progress: Progress,
    held_out: list[Example],
) -> str:
    """Train and write checkpoints; returns the hash of the last one.

    The seed is set before the model is made and again by the trainer, so that it reaches what is drawn
    for the model, the order of the data and the rollouts.
    """
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    rollouts = _Rollouts(recipe)
    evaluators = [Evaluator(recipe, held_out, folder, tokenizer)] if held_out else []
    with tempfile.TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=model,
            args=_config(recipe, scratch),
            train_dataset=Dataset.from_list([recipe.task.row(example) for example in examples]),
            processing_class=tokenizer,
            reward_funcs=rollouts.reward,
            callbacks=[*evaluators, _Recorder(recipe, folder, model, tokenizer, rollouts, progress)],
            tools=recipe.task.tools or None,
        )
        trainer.remove_callback(PrinterCallback)
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train()
    return open_checkpoint(folder.checkpoint(recipe.steps)).hash(full=True)


def _config(recipe: Recipe, scratch: str) -> GRPOConfig:
    algorithm, optimizer = recipe.algorithm, recipe.optimizer
    sequences = algorithm.prompts * algorithm.generations
    micro = algorithm.micro_batch or sequences
    return GRPOConfig(
        output_dir=scratch,
        seed=recipe.seed,
        data_seed=recipe.seed,
        full_determinism=torch.cuda.is_available(),
        max_steps=recipe.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=sequences // micro,
        num_generations=algorithm.generations,
        max_completion_length=algorithm.max_new_tokens,
        temperature=algorithm.temperature,
        loss_type=algorithm.loss,
        beta=algorithm.beta,
        optim="adamw_torch",
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
        bf16=recipe.precision == "bf16",
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        **reporting.arguments(recipe.report_to, recipe.name),
        max_tool_calling_iterations=recipe.task.turns,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class _Rollouts:
    """The reward, and digests of each step's prompts and rollouts, which show that seeds reach them."""

    def __init__(self, recipe: Recipe) -> None:
        self.task = recipe.task
        self.digests = {"prompts": "", "rollouts": ""}

    def reward(self, prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
        """1 for a correct answer, else 0."""
        self.digests = {"prompts": _digest(prompts), "rollouts": _digest(completions)}
        return self.task.scores(completions, answer)


class _Recorder(TrainerCallback):
    """Writes metrics and checkpoints as training goes."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rollouts: _Rollouts,
        progress: Progress,
    ) -> None:
        self.recipe, self.folder, self.model, self.tokenizer = recipe, folder, model, tokenizer
        self.rollouts, self.progress = rollouts, progress
        self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if step in {*self.recipe.save_steps, *self.recipe.fp32_steps, self.recipe.steps}:
            _save(self.model, self.folder.checkpoint(step), torch.bfloat16, self.tokenizer)
        if step in self.recipe.fp32_steps:
            _save(self.model, self.folder.checkpoint(step, fp32=True), torch.float32, self.tokenizer)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {key: float(value) for key, value in (logs or {}).items() if _is_number(value)}
        if "reward" not in numbers:
            return
        row = {"step": state.global_step, "seconds": round(time.monotonic() - self.began, 2)}
        row |= numbers | self.rollouts.digests
        with (self.folder.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.progress(state.global_step, self.recipe.steps, row)


def _digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _save(
    model: PreTrainedModel, target: Path, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write the weights in a dtype, rounded to nearest; the folder appears when it is whole."""
    partial = target.with_name(target.name + ".partial")
    shared: dict[int, torch.Tensor] = {}  # tied weights stay one tensor, so they are written once
    weights = {
        name: shared.setdefault(value.data_ptr(), value.detach().to("cpu", dtype))
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(partial, state_dict=weights)
    config = json.loads((partial / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(partial)
    partial.rename(target)
