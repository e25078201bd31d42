"""Samples of a model on held-out prompts, counted; training's random numbers are left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import (
    BatchEncoding,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from scramble.errors import RecipeError
from scramble.runs.engine.chats import Chats
from scramble.runs.engine.model import check_fits, context, load, load_model
from scramble.runs.engine.sampling import ends, recorded, sampling
from scramble.runs.recipe.evaluation import Evaluation, estimate, gain
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from scramble.runs.tasks import Example, Message, VerifiableTask
from scramble.runs.tasks.prompts import prompt_ids
from scramble.runs.trainers.callbacks import Callback

Shown = str | list[Message]
Sample = Callable[[list[Shown]], Sequence[str | list[Message]]]  # completions of prompts


class Evaluator(Callback):
    """Evaluates before training, after it, and at the steps that the recipe asks for; writes `run.json`."""

    def __init__(
        self, recipe: Recipe, examples: list[Example], folder: WritableRun, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        if recipe.evaluation is None:
            raise RecipeError("evaluation: the recipe has no such section")
        self.recipe, self.settings = recipe, recipe.evaluation
        self.examples, self.folder, self.tokenizer = examples, folder, tokenizer
        self.counts: dict[int, list[int]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if not self.counts:  # a resumed run knows them
            self.evaluate(model, state.global_step)

    def kept(self) -> dict[str, Any]:
        return {str(step): right for step, right in self.counts.items()}

    def restore(self, kept: dict[str, Any]) -> None:
        self.counts = {int(step): right for step, right in kept.items()}

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if self.settings.every and state.global_step % self.settings.every == 0:
            self.evaluate(model, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if state.global_step not in self.counts:
            self.evaluate(model, state.global_step)

    def evaluate(self, model: PreTrainedModel, step: int) -> None:
        """Count right samples, and write all that is known so far."""
        self.counts[step] = count_right(model, self.tokenizer, self.recipe, self.examples)
        self.folder.write_record(evaluation=summary(self.settings, self.counts, self.recipe.seed))


def evaluate_finished(recipe: Recipe, examples: list[Example], folder: WritableRun, start: Path) -> None:
    """Evaluate the start and the end of a finished run from their checkpoints, the end in float32 if kept."""
    logging.disable_progress_bar()
    record, end = folder.finished, folder.end
    model, tokenizer = load(start, recipe.seed)
    check_held_out(recipe, model, tokenizer, examples)
    evaluator = Evaluator(recipe, examples, folder, tokenizer)
    settings = {"evaluation": recorded(settings_of(model, tokenizer, recipe))}
    folder.write_record(sampling=record.sampling | settings)
    evaluator.evaluate(model, 0)
    device = model.device
    del model
    evaluator.evaluate(load_model(end).to(device), record.end.step)


def settings_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> GenerationConfig:
    """How the evaluation of a recipe samples.

    Raises:
        RecipeError: the recipe has none.
    """
    if recipe.evaluation is None or recipe.evaluated_tokens is None:
        raise RecipeError("evaluation: the recipe has no such section")
    return sampling(model, tokenizer, recipe.evaluation.temperature, recipe.evaluated_tokens)


def check_held_out(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> None:
    """Whether prompts of the evaluation and what is sampled after them fit into the model's context.

    Raises:
        RunError: the first that does not, by its row.
    """
    tools = recipe.task.tools
    prompts = [recipe.task.row(one)["prompt"] for one in examples]
    ids = [prompt_ids(tokenizer, prompt, tools) for prompt in prompts]
    check_fits(model, ids, 1 if tools else recipe.evaluated_tokens or 0, "prompts of the evaluation")


def summary(settings: Evaluation, counts: dict[int, list[int]], seed: int) -> dict[str, Any]:
    """What `run.json` says: a row a step and k, the gain from the first to the last step, and the counts."""
    steps = sorted(counts)
    first, last = counts[steps[0]], counts[steps[-1]]
    return {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "rows": [
            {"step": step, **estimate(counts[step], settings.samples, k)}
            for step in steps
            for k in settings.k
        ],
        "gain": [gain(first, last, settings.samples, k) for k in settings.k] if len(steps) > 1 else [],
        "right": {str(step): counts[step] for step in steps},
    }


def count_right(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, examples: list[Example]
) -> list[int]:
    """Right samples of each example.

    Samples are drawn from the recipe's seed, the same before and after training; the global generators are as
    they were when this returns.
    """
    settings, task = recipe.evaluation, recipe.task
    if settings is None or not isinstance(task, VerifiableTask):
        raise RecipeError("evaluation: the recipe has no such section, or its task cannot check answers")
    wanted = [example for example in examples for _ in range(settings.samples)]
    sample = (_in_turns if task.tools else _at_once)(model, tokenizer, recipe)
    texts: list[str | list[Message]] = []
    with _apart(model, recipe):
        for start in range(0, len(wanted), settings.batch):
            rows = [task.row(example) for example in wanted[start : start + settings.batch]]
            texts += sample([row["prompt"] for row in rows])
    scores = task.scores(texts, [example.answer for example in wanted])
    groups = range(0, len(scores), settings.samples)
    return [scores[start : start + settings.samples].count(1.0) for start in groups]


@contextmanager
def _apart(model: PreTrainedModel, recipe: Recipe) -> Iterator[None]:
    """Random numbers of its own, no dropout, no gradients, the precision of the run."""
    training, device = model.training, model.device.type
    bf16 = torch.autocast(device, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
    with torch.random.fork_rng(), torch.no_grad(), bf16:
        torch.manual_seed(recipe.seed)
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def _at_once(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Sample:
    """Completions as texts."""

    def sample(prompts: list[Shown]) -> list[str]:
        ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
        tokens = tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="left")
        said = _speak(model, tokenizer, tokens, recipe)
        return tokenizer.batch_decode(said, skip_special_tokens=True)

    return sample


def _in_turns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Sample:
    """Completions as chats, with the task's tools."""
    turns, length = recipe.task.turns or 0, recipe.evaluated_tokens or 0
    chats = Chats(tokenizer, recipe.task.tools, turns, length, context(model))
    last = set(ends(model, tokenizer))

    def speak(sequences: list[list[int]]) -> list[list[int]]:
        tokens = tokenizer.pad({"input_ids": sequences}, return_tensors="pt", padding_side="left")
        return [_ended(ids, last) for ids in _speak(model, tokenizer, tokens, recipe).tolist()]

    return lambda prompts: chats.complete(prompts, speak)


def _ended(ids: list[int], last: set[int]) -> list[int]:
    """Up to the first token that ends a turn, it included."""
    return ids[: next((at for at, one in enumerate(ids, 1) if one in last), len(ids))]


def _speak(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: BatchEncoding, recipe: Recipe
) -> Int[Tensor, "sequence new"]:
    """What the model says after each sequence (padded on the left), padded on the right."""
    config = settings_of(model, tokenizer, recipe)
    tokens = tokens.to(model.device)
    found = model.generate(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], generation_config=config
    )
    return found[:, tokens["input_ids"].shape[1] :]
