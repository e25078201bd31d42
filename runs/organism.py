"""The model organism: a small model, pre-trained here, that RLVR teaches in minutes on one core.

What is found on it holds for it alone. It is there because a question about learning needs runs that learn,
and many of them: of seeds, draws, optimizers, tasks and bases.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import platformdirs
from pydantic import Field, NonNegativeInt, PositiveInt

from scramble.checkpoints import open_checkpoint, staging
from scramble.errors import RecipeError
from scramble.files import write_whole
from scramble.runs.algorithms.sft import Sft
from scramble.runs.engine.run import Progress, run
from scramble.runs.recipe.evaluation import Evaluation
from scramble.runs.recipe.optimizers import AdamW, Optimizer
from scramble.runs.recipe.recipe import Recipe, parse, read_yaml
from scramble.runs.section import Section
from scramble.runs.tasks import Task
from scramble.runs.tasks.few_shot_sums import FewShotSums
from scramble.transforms.rewrite import copy_side_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RECORD = "organism.json"
_SPECIAL = ("<pad>", "<eos>")


class Organism(Section):
    """What decides an organism's weights.

    Attributes:
        family: a `model_type` of transformers.
        layers, hidden, heads, kv_heads, head_dim, neurons: its sizes; about 2.4 million weights by default.
        more: further keys of the family's configuration.
        task: what it is taught; its answers are imitated, character by character.
        optimizer: of the pre-training.
        steps, batch: updates, and texts that one trains on.
        seed: of the first weights and of the order of the texts.
    """

    family: str = "qwen3"
    layers: PositiveInt = 6
    hidden: PositiveInt = 192
    heads: PositiveInt = 6
    kv_heads: PositiveInt = 2
    head_dim: PositiveInt = 32
    neurons: PositiveInt = 512
    more: dict[str, Any] = Field(default_factory=dict)
    task: Annotated[Task, Field(discriminator="name")] = FewShotSums(
        name="few-shot-sums", low=0, high=99, size=20_000
    )
    optimizer: Annotated[Optimizer, Field(discriminator="name")] = AdamW(learning_rate=1e-3)
    steps: PositiveInt = 600
    batch: PositiveInt = 128
    seed: NonNegativeInt = 0

    @property
    def digest(self) -> str:
        decided = self.model_dump(mode="json", exclude={"task"}) | {"task": self.task.decides()}
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:12]


def read_organism(path: Path | None, **overrides: object) -> Organism:
    """Settings from a YAML file, or the usual ones; `overrides` that are not None replace them.

    Raises:
        RecipeError: the file cannot be read, an unknown key, or a wrong value.
    """
    content = read_yaml(path) if path else {}
    content |= {key: value for key, value in overrides.items() if value is not None}
    if isinstance(content.get("optimizer"), dict):
        content["optimizer"] = {"name": "adamw"} | content["optimizer"]
    return parse(Organism, content, str(path or "organism"))


def organism(
    asked: Organism,
    out: Path,
    *,
    cache: Path | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = lambda step, steps, metrics: None,
) -> dict[str, Any]:
    """Pre-train an organism, or take it from the cache, and write it as a checkpoint folder in bf16.

    Args:
        asked: what it is.
        out: the folder to write.
        cache: where its pre-training is kept, so that it is done once; None is the user's cache.
        threads: of the arithmetic; all cores by default. Another number gives other last bits.
        force: replace `out`.
        progress: called with every step.

    Returns:
        What `organism.json` in the folder says: what was asked, how many weights there are, the hash of the
        checkpoint, the loss and the held-out rate of right answers.

    Raises:
        RecipeError: transformers has no such family, or refuses the sizes.
        RunError: the pre-training failed.
        TargetError: `out` exists and not `force`.
    """
    home = (cache or Path(platformdirs.user_cache_dir("scramble")) / "organisms") / asked.digest
    with staging(out, force=force) as stage:
        start = home / "start"
        if not start.exists():
            parts = _begin(asked)
            home.mkdir(parents=True, exist_ok=True)
            with staging(start) as birth:
                for part in parts:
                    part.save_pretrained(birth.folder)
                birth.commit()
        trained = run(_recipe(asked, start), home, threads=threads, progress=progress)
        end = trained.checkpoints[trained.finished.end.step]
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(end / name, stage.folder / name)
        copy_side_files(end, stage, {})
        checkpoint = open_checkpoint(stage.folder)
        record = {
            "organism": asked.model_dump(mode="json"),
            "weights": sum(math.prod(checkpoint.tensors[name].shape) for name in checkpoint.parameters),
            "hash": checkpoint.hash(full=True),
            "loss": trained.metrics[-1].get("loss"),
            "held_out": trained.finished.evaluation.rows[-1].rate if trained.finished.evaluation else None,
            "seconds": trained.finished.seconds,
        }
        write_whole(stage.folder / RECORD, json.dumps(record, indent=2) + "\n")
        stage.commit()
    return record


def _recipe(asked: Organism, start: Path) -> Recipe:
    content = {
        "name": "pretraining",
        "model": str(start),
        "task": asked.task.model_dump(),
        "algorithm": Sft(name="sft", batch=asked.batch).model_dump(),
        "optimizer": asked.optimizer.model_dump(),
        "precision": "fp32",
        "steps": asked.steps,
        "seed": asked.seed,
        "resume_every": 100,
        "evaluation": Evaluation(size=256, samples=1, k=(1,), max_new_tokens=8).model_dump(),
    }
    return parse(Recipe, content, "organism")


def _begin(asked: Organism) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model of random weights, and a tokenizer of the characters that the task's texts are made of."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    examples = asked.task.checked_examples()
    tokenizer = _characters(text for one in examples for text in (one.prompt, one.text))
    sizes = {
        "hidden_size": asked.hidden,
        "intermediate_size": asked.neurons,
        "num_hidden_layers": asked.layers,
        "num_attention_heads": asked.heads,
        "num_key_value_heads": asked.kv_heads,
        "head_dim": asked.head_dim,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    try:
        config = AutoConfig.for_model(asked.family, **(sizes | asked.more))
        with torch.random.fork_rng():
            torch.manual_seed(asked.seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"organism: {asked.family}: {' '.join(str(error).split())[:300]}") from None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def _characters(texts: Iterable[object]) -> PreTrainedTokenizerFast:
    """A tokenizer with a token a character.

    Raises:
        RecipeError: a prompt is no text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known: set[str] = set()
    for text in texts:
        if not isinstance(text, str):
            raise RecipeError("organism: a task of messages cannot be taught character by character")
        known |= set(text)
    vocabulary = {character: at for at, character in enumerate((*_SPECIAL, *sorted(known)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_SPECIAL[0], eos_token=_SPECIAL[1], unk_token=_SPECIAL[0]
    )
