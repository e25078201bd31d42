"""The training itself: a model, an optimizer, TRL's trainer for the algorithm, our records of it."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from scramble.checkpoints import open_checkpoint
from scramble.errors import MissingDependencyError, RunError, install
from scramble.runs.algorithms import Job, Row
from scramble.runs.algorithms.on_policy import Sampling
from scramble.runs.engine.evaluate import Evaluator, check_held_out, settings_of
from scramble.runs.recipe import reporting
from scramble.runs.recipe.adapters import Adapted
from scramble.runs.recipe.collapse import Watch
from scramble.runs.recipe.optimizers import trainable
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from scramble.runs.tasks import Example
from scramble.runs.tasks.prompts import prompt_ids
from scramble.runs.trainers.rollouts import Rollouts

try:
    import datasets
    import trl  # noqa: F401
except ImportError as missing:
    raise MissingDependencyError(f"training needs {missing.name}: {install('runs')}") from None
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.utils import logging

from scramble.runs.engine.divergence import KlToStart
from scramble.runs.engine.model import check_fits, load
from scramble.runs.engine.recorder import Progress, Recorder
from scramble.runs.engine.resume import Keeps, Resume
from scramble.runs.engine.sampling import recorded, sampling
from scramble.runs.engine.update_norm import UpdateNorm
from scramble.runs.internals.trl import sample_by
from scramble.runs.trainers.callbacks import check_order, in_order
from scramble.runs.trainers.sparse import Sparse


def train(
    recipe: Recipe,
    start: Path,
    rows: list[Row],
    folder: WritableRun,
    threads: int,
    progress: Progress,
    held_out: list[Example],
) -> dict[str, Any]:
    """Train and write checkpoints.

    The seed is set before the model is made and again by the trainer, so that it reaches what is drawn
    for the model, the order of the data and the rollouts.

    Args:
        rows: the data set, as the recipe's algorithm made it.
        held_out: prompts of the evaluation; empty where the recipe asks for none.

    Returns:
        What `run.json` says of it: `seconds`; of the `end` the last `step`, the `hash` of its checkpoint
        (None if weights were not finite), and with `match` the `update_norm` there and whether it was
        `reached`, and what the back end adds; `collapsed`, if training did.

    Raises:
        RunError: the task's scores are wrong, a loss or gradient is not finite, or memory ran out.
    """
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    model, tokenizer = load(start, recipe.seed)
    _check_lengths(recipe, model, tokenizer, rows, held_out)
    of = count(model)
    kl = _kl(recipe, model, tokenizer, rows)  # the start speaks before anything changes it
    sparse = _sparse(recipe, model, start)
    norm = UpdateNorm(model, recipe.match.update_norm) if recipe.match else None
    adapted = Adapted(model, recipe.adapter, recipe.seed) if recipe.adapter else None
    optimizer = recipe.optimizer.build(model)
    if sparse:
        sparse.hold(optimizer)
    asked = _sampling(recipe, model, tokenizer)
    folder.write_record(
        trainable={"weights": sparse.trained if sparse else count(model), "of": of},
        sampling={name: recorded(one) for name, one in asked.items()},
        **({"adapter_start": adapted.start_error} if adapted else {}),
    )
    rollouts = Rollouts(recipe.task, *recipe.algorithm.reward_values)
    watch = Watch(recipe.collapse) if recipe.collapse else None
    evaluator = Evaluator(recipe, held_out, folder, tokenizer) if held_out else None
    recorder = Recorder(
        recipe,
        folder,
        model,
        start,
        adapted.merged if adapted else model.state_dict,
        [rollouts.take, *([kl.take] if kl else [])],
        watch,
        progress,
    )
    keepers: dict[str, Keeps | None] = {"recorder": recorder, "watch": watch, "evaluator": evaluator}
    resume = Resume(
        folder,
        model,
        recipe.resume_every,
        recipe.algorithm.updates if isinstance(recipe.algorithm, Sampling) else 1,
        {name: one for name, one in keepers.items() if one is not None},
        adapted.rewritten if adapted else frozenset(),
    )
    callbacks = in_order([one for one in (norm, kl, evaluator, recorder, resume) if one])
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
                optimizer=optimizer,
                callbacks=callbacks,
                rollouts=rollouts,
            )
        )
        trainer.remove_callback(PrinterCallback)
        check_order(trainer, callbacks)
        if "training" in asked:
            sample_by(trainer, asked["training"])
        sampled: dict[str, Any] = {}
        with (
            recorder.watching(),
            recipe.backend.sampling(trainer, recipe.seed, adapted.merged if adapted else None),
        ):
            resume.train(trainer)
            if not recorder.collapsed:
                sampled = recipe.backend.finish(trainer)
    return {
        "seconds": round(recorder.seconds, 1),
        "end": _end(recorder, norm) | sampled,
        **({"collapsed": recorder.collapsed} if recorder.collapsed else {}),
    }


def _sampling(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, GenerationConfig]:
    """How completions are sampled: in `training`, in the `evaluation`, and those that `kl` is measured on."""
    algorithm, found = recipe.algorithm, {}
    if isinstance(algorithm, Sampling):
        found["training"] = sampling(model, tokenizer, algorithm.temperature, algorithm.max_new_tokens)
    if recipe.evaluation:
        found["evaluation"] = settings_of(model, tokenizer, recipe)
    if recipe.kl:
        found["kl"] = sampling(model, tokenizer, 1.0, recipe.kl.max_new_tokens)
    return found


def _check_lengths(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    held_out: list[Example],
) -> None:
    """Whether all that training, evaluation and kl read and write fits into the model's context."""
    if recipe.task.tools and not tokenizer.chat_template:
        return  # the trainer says what it lacks
    prompts = [prompt_ids(tokenizer, row["prompt"], recipe.task.tools) for row in rows]
    if isinstance(recipe.algorithm, Sampling):
        # What tools answer is left out where the context ends: only the first turn must have room.
        further = 1 if recipe.task.tools else recipe.algorithm.max_new_tokens
        check_fits(model, prompts, further, "the task's prompts")
    for name in ("completion", "chosen", "rejected"):
        texts = [prompt_ids(tokenizer, row["prompt"] + row[name]) for row in rows if name in row]
        check_fits(model, texts, 1, f"the task's rows with {name}")  # and the end of text
    if recipe.kl:
        check_fits(model, prompts[: recipe.kl.prompts], recipe.kl.max_new_tokens, "prompts of kl")
    check_held_out(recipe, model, tokenizer, held_out)


def _end(recorder: Recorder, norm: UpdateNorm | None) -> dict[str, Any]:
    last = recorder.folder.checkpoint(recorder.last_step)
    end: dict[str, Any] = {
        "step": recorder.last_step,
        "hash": open_checkpoint(last).hash(full=True) if last.exists() else None,
    }
    return end | ({"update_norm": norm.norm, "reached": norm.reached} if norm else {})


def _kl(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row]
) -> KlToStart | None:
    if recipe.kl is None:
        return None
    prompts = [prompt_ids(tokenizer, row["prompt"], recipe.task.tools) for row in rows[: recipe.kl.prompts]]
    return KlToStart(model, prompts, sampling(model, tokenizer, 1.0, recipe.kl.max_new_tokens), recipe.kl)


def _sparse(recipe: Recipe, model: PreTrainedModel, start: Path) -> Sparse | None:
    if recipe.mask is None:
        return None
    return Sparse(model, recipe.mask.masks(open_checkpoint(start)), recipe.mask.others == "trained")


def count(model: PreTrainedModel) -> int:
    """Weights that are trained, tied ones once."""
    return sum(weight.numel() for weight in trainable(model))


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
        **reporting.arguments(recipe.report_to, recipe.name),
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
