"""The record of a run: what `run.json` in its folder holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

Row = dict[str, Any]
FORMAT = 1
"""Of `run.json`, as it is written; a record that names none is of format 1."""


class _Part(BaseModel):
    """Types are checked and never converted; what later versions add is kept."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class Start(_Part):
    """The checkpoint that a run began with: its path, and the hash of all its bytes."""

    path: str
    hash: str | None = None


class Examples(_Part):
    """How many examples of the task a run read, and their hash."""

    examples: NonNegativeInt
    hash: str


class Trainable(_Part):
    """How many weights were trained, of how many; tied ones once."""

    weights: NonNegativeInt
    of: NonNegativeInt


class AdapterStart(_Part):
    """How far weights with an adapter merged were from the start's before training.

    Attributes:
        largest_relative_error: `||merged - start||_F / ||start||_F` of a tensor.
        changed_in_bf16: how many weights.
    """

    largest_relative_error: float
    changed_in_bf16: NonNegativeInt


class PassRate(_Part):
    """pass@k, or its gain, with a 95 % interval; `rate` is called `pass` in the file.

    Attributes:
        step: after which it was measured; None of a gain.
    """

    k: int
    rate: Annotated[float, Field(alias="pass")]
    low: float | None = None
    high: float | None = None
    step: NonNegativeInt | None = None


class Evaluation(_Part):
    """Right samples of held-out prompts: a row a step and k, the gain, and the counts by step."""

    settings: dict[str, Any] = {}
    seed: int | None = None
    rows: list[PassRate] = []
    gain: list[PassRate] = []
    right: dict[str, list[int]] = {}


class Collapse(_Part):
    """Where training collapsed, and by which sign."""

    step: NonNegativeInt
    why: str


class End(_Part):
    """The last step of a finished run.

    Attributes:
        hash: of its checkpoint; None if weights were not finite, so that there is none.
        update_norm: `||dW||_F` there, in runs with a `match` of norms, and whether it was `reached`.
        vllm_nats_apart: distance of vLLM's log-probabilities from the model's in nats, `mean` and `max`.
    """

    step: NonNegativeInt
    hash: str | None
    update_norm: float | None = None
    reached: bool | None = None
    vllm_nats_apart: dict[str, float] | None = None


class RunRecord(_Part):
    """What `run.json` holds: of a finished run `start`, `seconds` and `end`; else what is known so far.

    Attributes:
        recipe_hash: SHA-256 of `recipe.yaml`.
        seeds: every seed, by where it reaches.
        task, backend, sampling: facts beside the recipe, as task, back end and sampler state them.
        versions: of Python and packages, by name.
        hardware: machine, system, CPU, GPU and threads.
        began: date and time, ISO 8601, UTC.
        resumed: the steps that the run went on from after interruptions.
        reason: why it failed.
        seconds: of training, without what interruptions lost.
    """

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    status: Literal["running", "failed", "finished"]
    recipe_hash: str | None = None
    seed: int | None = None
    seeds: dict[str, Any] = {}
    start: Start | None = None
    data: Examples | None = None
    held_out: Examples | None = None
    task: dict[str, Any] = {}
    backend: dict[str, Any] = {}
    versions: dict[str, str] = {}
    hardware: dict[str, str | int | None] = {}
    began: str | None = None
    trainable: Trainable | None = None
    sampling: dict[str, Any] = {}
    adapter_start: AdapterStart | None = None
    evaluation: Evaluation | None = None
    resumed: list[NonNegativeInt] = []
    reason: str | None = None
    seconds: NonNegativeFloat | None = None
    end: End | None = None
    collapsed: Collapse | None = None

    def content(self) -> dict[str, Any]:
        """As JSON has it: only what was said."""
        return self.model_dump(exclude_unset=True, by_alias=True)


class _BegunStart(Start):
    hash: str


class FinishedRecord(RunRecord):
    """The record of a finished run."""

    status: Literal["finished"]
    start: _BegunStart
    seconds: NonNegativeFloat
    end: End


def record_of(content: dict[str, Any]) -> RunRecord:
    """The record in what `run.json` holds.

    Raises:
        ValueError: a key is missing or wrong (a `pydantic.ValidationError`).
    """
    kind = FinishedRecord if content.get("status") == "finished" else RunRecord
    return kind.model_validate(content)
