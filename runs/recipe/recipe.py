"""A recipe: everything that decides a run's weights. YAML, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from scramble.errors import RecipeError
from scramble.runs.algorithms import Algorithm, Grpo
from scramble.runs.recipe.adapters import Adapter
from scramble.runs.recipe.backends import Backend, Transformers
from scramble.runs.recipe.collapse import Collapse
from scramble.runs.recipe.evaluation import Evaluation
from scramble.runs.recipe.kl import Kl
from scramble.runs.recipe.masks import Mask
from scramble.runs.recipe.optimizers import AdamW, Optimizer
from scramble.runs.recipe.presets import with_preset
from scramble.runs.recipe.reporting import Tracker
from scramble.runs.section import Section
from scramble.runs.tasks import Code, PreferencePairs, Task, Tools

Model = TypeVar("Model", bound=BaseModel)
NOT_DECIDING = frozenset({"name", "model", "evaluation", "report_to", "resume_every"})
"""Keys that are in no fingerprint: what they say changes no weight, or (`model`) is hashed by its content."""


class Match(Section):
    """Runs are compared at an equal length of the update, in place of an equal number of steps.

    Attributes:
        update_norm: training stops at the first step whose `||W - W0||_F` over all trained weights (float32
            weights, summed in float64) reaches this; `steps` is the limit.
    """

    update_norm: PositiveFloat


class Recipe(Section):
    """One training run.

    `preset: paper` stands for the algorithm and optimizer of `runs/presets.py`; keys beside it override.

    Attributes:
        name: first part of the run folder's name.
        model: start checkpoint, a folder or hub id.
        backend: what samples completions, for algorithms that do.
        steps: updates of the weights.
        match: stop earlier, when the update is long enough.
        mask: train some of the weights only.
        adapter: train a low-rank product beside the weights.
        kl: measure how far the policy is from the start.
        collapse: when to stop because the policy has broken down; without it, that is a failure.
        seed: reaches dropout, the order of the data, and the rollouts.
        precision: of the arithmetic; weights and optimizer state are float32. `bf16` is autocast, and very
            slow on CPUs without bf16 instructions.
        save_steps: steps whose checkpoints are kept, in bf16; the last step always is.
        fp32_steps: steps whose float32 weights are kept as well (the aligned frame of a rotation needs them).
            A run that `match` stops keeps those of the step where it stops if `steps` is among these.
        evaluation: pass@k on held-out prompts. Neither this nor `report_to` changes the weights.
        report_to: where metrics go beside the run folder; nowhere by default.
        resume_every: steps between two states that an interrupted run can go on from; 0 for none. A state
            takes three times the float32 weights with AdamW, and only the last is kept.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    model: str
    task: Annotated[Task, Field(discriminator="name")]
    algorithm: Annotated[Algorithm, Field(discriminator="name")] = Grpo()
    optimizer: Annotated[Optimizer, Field(discriminator="name")] = AdamW()
    backend: Annotated[Backend, Field(discriminator="name")] = Transformers()
    steps: PositiveInt
    match: Match | None = None
    mask: Annotated[Mask, Field(discriminator="kind")] | None = None
    adapter: Adapter | None = None
    kl: Kl | None = None
    collapse: Collapse | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    save_steps: tuple[PositiveInt, ...] = ()
    fp32_steps: tuple[PositiveInt, ...] = ()
    evaluation: Evaluation | None = None
    report_to: tuple[Tracker, ...] = ()
    resume_every: NonNegativeInt = 10

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content = with_preset(content)
        for section, name in (("algorithm", "grpo"), ("optimizer", "adamw")):
            if isinstance(content.get(section), dict):
                content[section] = {"name": name} | content[section]
        return content

    @model_validator(mode="after")
    def _steps_exist(self) -> Recipe:
        if late := [step for step in (*self.save_steps, *self.fp32_steps) if step > self.steps]:
            raise ValueError(f"step {late[0]} is to be saved, but the run has {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> Recipe:
        task, algorithm = self.task, self.algorithm
        if isinstance(task, PreferencePairs) and algorithm.samples:
            raise ValueError(
                f"task 'preference' has no answers to check; algorithm '{algorithm.name}' needs them"
            )
        if isinstance(task, PreferencePairs) and self.evaluation:
            raise ValueError("evaluation: task 'preference' has no answers to check")
        if isinstance(task, Code | Tools) and not algorithm.samples:
            raise ValueError(
                f"task '{task.name}' has no texts to imitate; algorithm '{algorithm.name}' needs them"
            )
        if isinstance(task, Tools) and algorithm.without_tools:
            raise ValueError(f"task 'tools': {algorithm.without_tools}")
        if self.evaluation and self.evaluated_tokens is None:
            raise ValueError(f"evaluation.max_new_tokens: needed, algorithm '{algorithm.name}' has none")
        return self

    @property
    def evaluated_tokens(self) -> int | None:
        """The most that a completion of the evaluation has."""
        asked = self.evaluation.max_new_tokens if self.evaluation else None
        return asked or getattr(self.algorithm, "max_new_tokens", None)

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        if self.adapter and self.mask:
            raise ValueError("an adapter trains no weight that a mask could name: give one of the two")
        if self.adapter and self.match:
            raise ValueError("match measures the weights that are trained, which an adapter is not")
        limits = self.collapse or Collapse()
        if limits.kl_above is not None and not self.kl:
            raise ValueError("collapse.kl_above needs the section kl, which says how often it is measured")
        if limits.reward_below is not None and not self.algorithm.samples:
            raise ValueError(f"collapse.reward_below: the algorithm '{self.algorithm.name}' has no reward")
        return self

    @model_validator(mode="after")
    def _backend_samples(self) -> Recipe:
        if self.backend.name != "transformers" and not self.algorithm.samples:
            raise ValueError(
                f"backend '{self.backend.name}' samples completions, which algorithm "
                f"'{self.algorithm.name}' does not train on: leave the backend out"
            )
        if self.backend.name == "vllm" and isinstance(self.task, Tools):
            raise ValueError("backend 'vllm' is not made for the task 'tools'")
        return self

    def identity(self, start_hash: str) -> str:
        """Digest of what decides the weights: the recipe, with what is in start and data, not their paths."""
        decided = self.model_dump(mode="json", exclude={*NOT_DECIDING, "task"})
        for section in ("mask", "adapter", "kl", "collapse"):  # a recipe without one is what it always was
            if decided[section] is None:
                del decided[section]
        if self.mask:
            decided["mask"] = self.mask.decided()
        decided |= {"task": self.task.decides(), "start": start_hash}
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader keeps the last of two equal keys; here they are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"the key '{twice[0]}' is there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        RecipeError: missing, or not a mapping.
    """
    try:
        content = yaml.load(path.read_text(), _UniqueKeys)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: not a mapping of keys to values")
    return content


def parse(kind: type[Model], content: dict[str, Any], where: str) -> Model:
    """Validate; the message names the place and the key.

    Raises:
        RecipeError: a wrong value or an unknown key.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        key = ".".join(
            str(part) for place, part in enumerate(first["loc"]) if not _is_tag(first["loc"], place)
        )
        raise RecipeError(
            ": ".join(filter(None, (where, key, reason.removeprefix("Value error, "))))
        ) from None


def _is_tag(key: tuple[int | str, ...], place: int) -> bool:
    """Whether this part of a key only says which algorithm, optimizer or task was meant."""
    sections = ("algorithm", "backend", "mask", "optimizer", "task")
    return place > 0 and key[place - 1] in sections and len(key) > place + 1


def read_recipe(path: Path, **overrides: object) -> Recipe:
    """Read a recipe; `overrides` that are not None replace keys at the top."""
    content = read_yaml(path) | {key: value for key, value in overrides.items() if value is not None}
    if "arms" in content:
        raise RecipeError(f"{path}: this is an experiment: scramble experiment run {path}")
    return parse(Recipe, content, str(path))
