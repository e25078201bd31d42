"""The training itself: a model, an optimizer, TRL's trainer for the algorithm, our records of it."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from runs.algorithms import Job, Row
from runs.folder import RunFolder
from runs.recipe import Recipe
from runs.rollouts import Rollouts
from scramble.checkpoints import open_checkpoint
from scramble.errors import MissingDependencyError, RunError

try:
    import datasets
    import trl  # noqa: F401
except ImportError as missing:
    raise MissingDependencyError(f"training needs {missing.name}: pip install 'scramble[runs]'") from None
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
)
from transformers.utils import logging

from runs.recorder import Progress, Recorder
from runs.update_norm import UpdateNorm


def train(
    recipe: Recipe, start: Path, rows: list[Row], folder: RunFolder, threads: int, progress: Progress
) -> dict[str, Any]:
    """Train and write checkpoints.

    The seed is set before the model is made and again by the trainer, so that it reaches what is drawn
    for the model, the order of the data and the rollouts.

    Args:
        rows: the data set, as the recipe's algorithm made it.

    Returns:
        What `run.json` says of the end: the last `step`, the `hash` of its checkpoint, and with `match` the
        `update_norm` there and whether it was `reached`; and what the recipe's back end adds.

    Raises:
        RunError: the task's scores are wrong, a loss or gradient is not finite, or memory ran out.
    """
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    model, tokenizer = load(start, recipe.seed)
    rollouts = Rollouts(recipe.task, *recipe.algorithm.reward_values)
    norm = UpdateNorm(model, recipe.match.update_norm) if recipe.match else None
    recorder = Recorder(recipe, folder, model, tokenizer, rollouts, progress)
    with (
        recipe.backend.session(),
        tempfile.TemporaryDirectory() as scratch,
        _out_of_memory(recipe),
        contextlib.redirect_stdout(sys.stderr),
    ):
        trainer = recipe.algorithm.build(
            Job(
                model=model,
                tokenizer=tokenizer,
                rows=rows,
                arguments=arguments(recipe, scratch)
                | recipe.backend.arguments(recipe.algorithm, rows, tokenizer),
                optimizer=recipe.optimizer.build(model),
                callbacks=[*filter(None, [norm]), recorder],  # the norm first: it says which step is the last
                rollouts=rollouts,
            )
        )
        trainer.remove_callback(PrinterCallback)
        with recipe.backend.sampling(trainer, recipe.seed):
            trainer.train()
            end = recipe.backend.finish(trainer)
    end |= {
        "step": recorder.last_step,
        "hash": open_checkpoint(folder.checkpoint(recorder.last_step)).hash(full=True),
    }
    if norm:
        end |= {"update_norm": norm.norm, "reached": norm.reached}
    return end


def load(start: Path, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The start in float32, and its tokenizer with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32), tokenizer


def arguments(recipe: Recipe, scratch: str) -> dict[str, Any]:
    """Arguments of transformers' `TrainingArguments` that are the same for every algorithm."""
    return {
        "output_dir": scratch,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "full_determinism": torch.cuda.is_available(),
        "max_steps": recipe.steps,
        **recipe.optimizer.arguments(),
        "bf16": recipe.precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),  # transformers refuses bf16 on a CPU that was not asked for
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


@contextlib.contextmanager
def _out_of_memory(recipe: Recipe) -> Iterator[None]:
    """One line in place of the allocator's."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        kinds = (MemoryError, torch.OutOfMemoryError)
        if not isinstance(error, kinds) and "can't allocate memory" not in str(error):
            raise
        micro = recipe.algorithm.micro_batch or "all sequences of an update"
        raise RunError(
            f"out of memory: lower algorithm.micro_batch (now {micro}) or the length of completions"
        ) from error
