"""Writes metrics and checkpoints as training goes."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from scramble.errors import RunError
from scramble.files import whole_folder
from scramble.runs.engine.divergence import KlToStart
from scramble.runs.engine.evaluate import Evaluator
from scramble.runs.engine.update_norm import UpdateNorm
from scramble.runs.recipe.collapse import Watch, not_finite
from scramble.runs.recipe.optimizers import trainable
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.records.folder import WritableRun
from scramble.runs.trainers.callbacks import Callback
from scramble.transforms.card import BASE_CARD, CARD
from scramble.transforms.rewrite import side_files

Progress = Callable[[int, int, dict[str, Any]], None]
Weights = Callable[[], dict[str, torch.Tensor]]
_DTYPES = {"dtype", "torch_dtype"}


class Recorder(Callback):
    """One row a step in `metrics.jsonl`, and the checkpoints that the recipe names.

    A row holds what the trainer measures under TRL's names (`loss`, `grad_norm`, `entropy`, `kl`,
    `mean_token_accuracy`, ...; `num_tokens` counts prompts and completions that were trained on), and `step`,
    `seconds` since the start, `tokens_per_second` since the last row that has it, and in steps that sample
    `reward`, the mean `score` of the samples, and digests of `prompts` and `rollouts`.

    Args:
        weights: what a checkpoint holds, by name.
        measures: give what else goes into a step's row.
        watch: says when training has collapsed; without it, what is not finite is an error.

    Attributes:
        collapsed: `step` and `why`, if training did.
    """

    # The norm may say that this step is the last; this one does where weights are not finite, and the
    # divergence is not measured for that; `tokens_per_second` leaves out the evaluation of the start.
    after = (UpdateNorm, KlToStart, Evaluator)

    def __init__(
        self,
        recipe: Recipe,
        folder: WritableRun,
        model: PreTrainedModel,
        start: Path,
        weights: Weights,
        measures: list[Callable[[], dict[str, Any]]],
        watch: Watch | None,
        progress: Progress,
    ) -> None:
        self.recipe, self.folder, self.model, self.start = recipe, folder, model, start
        self.weights, self.measures, self.watch, self.progress = weights, measures, watch, progress
        self.collapsed: dict[str, Any] | None = None
        self.finite = True
        self.began = self.stamp = time.monotonic()
        self.tokens = 0.0
        self.last_step = 0

    def kept(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "tokens": self.tokens, "last_step": self.last_step}

    def restore(self, kept: dict[str, Any]) -> None:
        self.began -= kept["seconds"]
        self.tokens, self.last_step = kept["tokens"], kept["last_step"]

    @property
    def seconds(self) -> float:
        """Spent on this run, without what an interruption lost."""
        return time.monotonic() - self.began

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stamp = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = self.last_step = state.global_step
        last = control.should_training_stop or step == self.recipe.steps
        self.finite = finite(self.model) if self.watch or last else True
        if not self.finite:
            control.should_training_stop = True  # on_log says why
        elif last or step in {*self.recipe.save_steps, *self.recipe.fp32_steps}:
            self._save(step, last)

    def _save(self, step: int, last: bool) -> None:
        """Write what is not there yet."""
        fp32 = step in self.recipe.fp32_steps or (last and self.recipe.steps in self.recipe.fp32_steps)
        kinds = {self.folder.checkpoint(step): torch.bfloat16}
        kinds |= {self.folder.checkpoint(step, fp32=True): torch.float32} if fp32 else {}
        weights = self.weights()
        for target, dtype in kinds.items():
            if not target.exists():
                save(self.model, weights, target, dtype, self.start)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {key: float(value) for key, value in (logs or {}).items() if _is_number(value)}
        if "loss" not in numbers:  # the summary at the end
            return
        now = time.monotonic()
        row: dict[str, Any] = {"step": state.global_step, "seconds": round(self.seconds, 2)}
        if "num_tokens" in numbers:
            tokens = numbers["num_tokens"]
            row["tokens_per_second"] = round((tokens - self.tokens) / (now - self.stamp), 1)
            self.tokens, self.stamp = tokens, now
        row |= numbers
        for measure in self.measures:
            row |= measure()
        why = not_finite(row) or (None if self.finite else "weights are not finite")
        if self.watch is None and why:
            raise RunError(f"{why} at step {state.global_step}: lower the learning rate")
        if self.watch and (why := why or self.watch.see(row)):
            self.collapsed = {"step": self.last_step, "why": why}
            control.should_training_stop = True
        row = {key: value if not _is_wild(value) else None for key, value in row.items()}
        with (self.folder.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.progress(state.global_step, self.recipe.steps, row)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Train in here: a collapse ends it, and the last weights are written if they are finite."""
        try:
            yield
        except RuntimeError as error:
            if self.watch is None or "probability tensor contains" not in str(error):
                raise
            self.collapsed = {"step": self.last_step, "why": "probabilities to sample from are not finite"}
        if self.collapsed and finite(self.model):
            self._save(self.last_step, last=True)


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _is_wild(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def finite(model: PreTrainedModel) -> bool:
    """Whether all trained weights are finite."""
    return all(bool(weight.isfinite().all()) for weight in trainable(model))


def save(
    model: PreTrainedModel,
    weights: dict[str, torch.Tensor],
    target: Path,
    dtype: torch.dtype,
    start: Path,
) -> None:
    """Write weights in a dtype, rounded to nearest; the folder appears when it is whole.

    What stands beside the weights is the start's, byte for byte, but for its cards and manifest; so is its
    config, but for the dtype. What training sets in model and tokenizer does not leave it.
    """
    shared: dict[int, torch.Tensor] = {}  # tied weights stay one tensor, so they are written once
    rounded = {
        name: shared.setdefault(value.data_ptr(), value.detach().to("cpu", dtype))
        for name, value in weights.items()
    }
    config = _with_dtype(json.loads((start / "config.json").read_text()), str(dtype).removeprefix("torch."))
    with whole_folder(target) as partial:
        model.save_pretrained(partial, state_dict=rounded)
        (partial / "generation_config.json").unlink(missing_ok=True)
        for path in side_files(start):
            name = path.relative_to(start)
            if path.name not in (CARD, BASE_CARD) and not path.name.endswith(".index.json"):
                (partial / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, partial / name)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config that says so, also in the parts of one that has several."""
    found = {
        key: _with_dtype(value, dtype) if isinstance(value, dict) and _DTYPES & value.keys() else value
        for key, value in config.items()
    }
    return found | dict.fromkeys({"dtype", *(_DTYPES & config.keys())}, dtype)
