"""The state of an interrupted run: everything that the rest of it depends on, without a pickle.

`state/step-N/` in the run folder: `tensors.safetensors` (weights that are trained, optimizer, generators),
`state.json` (scalars, and where each tensor belongs) and transformers' `trainer_state.json`. It is written
to `step-N.partial`, flushed and renamed; then the one before it goes. Only a finished run has none.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Trainer, TrainerCallback

from scramble.files import flush, whole_folder
from scramble.internals.transformers import resume_by
from scramble.runs.engine.tree import Tensors, pack, unpack
from scramble.runs.internals.accelerate import sampler
from scramble.runs.internals.trl import COUNTERS
from scramble.runs.records.folder import WritableRun
from scramble.runs.trainers.callbacks import Callback

_COUNTERS = (*COUNTERS, "_tokens")  # TRL's, and SimPoTrainer's


class Keeps(Protocol):
    """A callback with something to remember."""

    def kept(self) -> dict[str, Any]:
        """Scalars and tensors, for `restore`."""

    def restore(self, kept: dict[str, Any]) -> None: ...


class Resume(Callback):
    """Saves a run's state every `every` steps, and makes a trainer go on from it.

    In `on_log`, a step's row of metrics is written and nothing of the next step is drawn. Where one
    batch of samples makes several updates, the state waits for the last of them.

    Args:
        model: its weights that are trained are kept, and those named in `also`.
        every: steps between two states; 0 for none.
        updates: steps for each time that is sampled.
        callbacks: what else has something to remember, by name.
    """

    after = (TrainerCallback,)  # a state holds what all others remember of the step

    def __init__(
        self,
        folder: WritableRun,
        model: PreTrainedModel,
        every: int,
        updates: int,
        callbacks: dict[str, Keeps],
        also: frozenset[str] = frozenset(),
    ) -> None:
        self.folder, self.every, self.updates, self.callbacks = folder, every, updates, callbacks
        self.weights = {
            name: value for name, value in model.named_parameters() if value.requires_grad or name in also
        }
        self.last = 0
        self.saved: Any = None
        self.trainer: Trainer

    def train(self, trainer: Trainer) -> None:
        """Train, from the run's last state if there is one."""
        self.trainer = trainer
        step = self.folder.state_step
        if step is None:
            trainer.train()
            return
        self.last, path = step, self.folder.state(step)
        self.saved = unpack(
            json.loads((path / "state.json").read_text()), load_file(path / "tensors.safetensors")
        )
        readers = {
            "weights": self._load_weights,
            "optimizer": self._load_optimizer,
            "generators": self._load_generators,
        }
        resume_by(trainer, readers)
        trainer.train(resume_from_checkpoint=str(path))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        step = state.global_step
        over = control.should_training_stop or step == args.max_steps
        due = self.every > 0 and step - self.last >= self.every and step % self.updates == 0
        if "loss" in (logs or {}) and due and not over:
            self._save(step, dataclasses.asdict(state) | {"log_history": []})
            self.last = step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the orders of the epochs that are over: TRL's sampler draws one after the other."""
        if self.saved is not None:
            order = sampler(kwargs["train_dataloader"])
            for _ in range(int(state.epoch)):
                for _ in order:
                    pass

    def _save(self, step: int, trainer_state: dict[str, Any]) -> None:
        tensors: Tensors = {}
        content = pack(
            {
                "weights": dict(self.weights),
                "optimizer": self.trainer.optimizer.state_dict(),
                "schedule": self.trainer.lr_scheduler.state_dict(),
                "generators": _generators(),
                "counters": {name: vars(self.trainer)[name] for name in self._counters()},
                "callbacks": {name: one.kept() for name, one in self.callbacks.items()},
            },
            tensors,
        )
        flush(self.folder.path / "metrics.jsonl")  # a state is of no use without the rows before it
        target = self.folder.state(step)
        with whole_folder(target) as partial:
            save_file(tensors, partial / "tensors.safetensors")
            (partial / "state.json").write_text(json.dumps(content))
            (partial / "trainer_state.json").write_text(json.dumps(trainer_state))
        for other in target.parent.iterdir():
            if other != target:
                shutil.rmtree(other)

    def _counters(self) -> list[str]:
        return [name for name in _COUNTERS if name in vars(self.trainer)]

    def _load_weights(self, path: str, model: object = None) -> None:
        with torch.no_grad():
            for name, value in self.saved["weights"].items():
                self.weights[name].copy_(value)
        vars(self.trainer).update(self.saved["counters"])
        for name, one in self.callbacks.items():
            one.restore(self.saved["callbacks"][name])

    def _load_optimizer(self, path: str) -> None:
        self.trainer.optimizer.load_state_dict(self.saved["optimizer"])
        self.trainer.lr_scheduler.load_state_dict(self.saved["schedule"])

    def _load_generators(self, path: str) -> None:
        kept = self.saved["generators"]
        random.setstate(kept["python"])
        kind, words, *rest = kept["numpy"]
        np.random.set_state((kind, np.array(words, dtype=np.uint32), *rest))
        torch.set_rng_state(kept["torch"])
        if kept["cuda"]:
            torch.cuda.set_rng_state_all(kept["cuda"])


def _generators() -> dict[str, Any]:
    """Of Python, numpy and torch. Those of the data are derived from seed and epoch."""
    numpy: Any = np.random.get_state()
    kind, words, *rest = numpy
    return {
        "python": random.getstate(),
        "numpy": (kind, words.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
