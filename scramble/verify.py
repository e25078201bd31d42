"""Equivalence, shown twice: the algebra without rounding, and the stored weights against a noise floor.

With a manifest there is a third, exact check: every stored weight must be the transformed one, rounded to
nearest, and every weight that no symmetry touched must be the base's, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scramble.actions import Actions, actions, compose
from scramble.checkpoints import Checkpoint, open_checkpoint
from scramble.checkpoints.folder import ROTARY_BUFFER
from scramble.errors import MismatchError, UndecidedError
from scramble.manifest import Equivalence, has_manifest, read_manifest
from scramble.transform import exact, off, rounded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# In a float64 model transformers still computes norms (and eager softmax) in float32, unit roundoff 6e-8;
# through tens of layers that grows to a few 1e-7. In a float32 model every product is rounded that way.
ALGEBRA_BOUND = {"float64": 1e-6, "float32": 1e-4}
# A correct transform rounds each touched weight once, by at most half an ULP: the same size as the noise.
STORAGE_FACTOR = 2.0
NOISE_DRAWS = 8
_NO_PART_IN_THE_FUNCTION = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
SEQUENCES, LENGTH = 4, 32


def verify(base: Path, model: Path) -> Equivalence:
    """Compare two checkpoints that should compute the same function.

    With a manifest in `model` that starts from `base`, all checks run; otherwise only storage.

    Raises:
        MismatchError: the folders do not hold the same tensors.
        UndecidedError: the model does not fit in memory, or its logits are not finite.
    """
    first, second = open_checkpoint(base), open_checkpoint(model)
    return certify(first, second, _recorded(first, second))


def _recorded(base: Checkpoint, model: Checkpoint) -> list[Actions] | None:
    """The actions that lead from `base` to `model`, if the manifest of `model` passes through `base`."""
    if not has_manifest(model.folder):
        return None
    manifest, elements = read_manifest(model.folder)
    for place, done in enumerate(manifest.scrambles):
        if not done.tensors.keys() - base.tensors.keys() and done.source.hash == base.hash(
            done.tensors, full=done.source.hash_kind == "full"
        ):
            later = manifest.scrambles[place:]
            return [actions(base.architecture, base.tensors, one.steps, elements) for one in later]
    return None


def certify(base: Checkpoint, model: Checkpoint, stages: Sequence[Actions] | None) -> Equivalence:
    """Run the checks on random tokens. `stages` are the scrambles between the two, each rounded once."""
    _same_tensors(base, model)
    changed = [name for name in base.tensors if not np.array_equal(base.words(name), model.words(name))]
    logits = _Logits(base)
    reference = logits()
    if not np.isfinite(reference).all():
        raise UndecidedError(f"{base.folder}: the base model's logits are not finite")

    algebra = weights_off = None
    touched = compose(stages or ())
    if stages is not None:
        sizes = base.architecture.sizes
        for name, (layout, elements) in touched.items():
            logits.put(name, exact(base.words(name), base.storage(name), layout, sizes, elements))
        algebra = _error(logits(), reference)
        weights_off = sum(_weights_off(base, model, name, stages) for name in {*changed, *touched})
    names = sorted({*changed, *touched})
    for name in names:
        logits.put(name, model.storage(name).decode(model.words(name)))
    storage = _error(logits(), reference)

    # Permuted tensors are not rounded, so they take no noise, unless there are no others.
    moved = {name for name, (_, elements) in touched.items() if all(e.exact for e in elements)}
    noisy = [name for name in names if name not in moved] or names
    for name in set(names) - set(noisy):
        logits.put(name, base.storage(name).decode(base.words(name)))
    rng, floor = np.random.default_rng(0), 0.0
    for _ in range(NOISE_DRAWS):
        for name in noisy:
            values = base.storage(name).decode(base.words(name))
            # Only where the two differ: noise on every weight would hide a sparse change, as of training.
            noise = rng.uniform(-0.5, 0.5, values.shape) * (base.words(name) != model.words(name))
            logits.put(name, values + noise * base.storage(name).ulp(values))
        floor = max(floor, _error(logits(), reference))

    bound = ALGEBRA_BOUND[logits.arithmetic]
    passed = storage <= STORAGE_FACTOR * floor
    if algebra is not None:
        passed = passed and algebra <= bound and not weights_off
    return Equivalence(
        verdict="equivalent" if passed else "not equivalent",
        algebra_error=algebra,
        algebra_bound=bound if algebra is not None else None,
        weights_off=weights_off,
        storage_error=storage,
        noise_floor=floor,
        arithmetic=logits.arithmetic,
        tokens=SEQUENCES * LENGTH,
    )


def _same_tensors(base: Checkpoint, model: Checkpoint) -> None:
    for key in sorted((base.config.keys() | model.config.keys()) - _NO_PART_IN_THE_FUNCTION):
        if base.config.get(key) != model.config.get(key):
            raise MismatchError(f"config.json: '{key}' differs between {base.folder} and {model.folder}")
    if base.tensors.keys() != model.tensors.keys():
        name = sorted(base.tensors.keys() ^ model.tensors.keys())[0]
        raise MismatchError(f"'{name}' is in only one of {base.folder} and {model.folder}")
    for name, entry in base.tensors.items():
        other = model.tensors[name]
        if (entry.shape, entry.dtype) != (other.shape, other.dtype):
            raise MismatchError(
                f"'{name}' is {entry.dtype} {entry.shape} in {base.folder}, "
                f"{other.dtype} {other.shape} in {model.folder}"
            )


def _weights_off(base: Checkpoint, model: Checkpoint, name: str, stages: Sequence[Actions]) -> int:
    """Stored weights that are not what the stages make of the base's, with one rounding a stage."""
    words, storage, sizes = base.words(name), base.storage(name), base.architecture.sizes
    acting = [stage[name] for stage in stages if name in stage]
    if not acting:
        return int(np.count_nonzero(words != model.words(name)))
    for layout, elements in acting[:-1]:
        words, _ = rounded(name, words, storage, layout, sizes, elements)
    layout, elements = acting[-1]
    return off(model.words(name), storage, exact(words, storage, layout, sizes, elements))


def _error(logits: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """`||difference|| / ||logits||` over all tokens and vocabulary; infinite where not finite."""
    error = float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))
    return error if np.isfinite(error) else float("inf")


class _Logits:
    """One model in memory whose weights are exchanged; calling it gives logits on fixed random tokens."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import torch

        self.device, dtype = _placement(checkpoint)
        self.arithmetic = str(dtype).removeprefix("torch.")
        self.model = _model(checkpoint, dtype).to(self.device)
        self.parameters = dict(self.model.named_parameters(remove_duplicate=False))
        vocabulary = checkpoint.architecture.sizes["vocab"]
        tokens = np.random.default_rng(0).integers(0, vocabulary, (SEQUENCES, LENGTH))
        self.tokens = torch.from_numpy(tokens).to(self.device)

    def put(self, name: str, values: np.ndarray[Any, Any]) -> None:
        """Copy values into a parameter; rotary buffers are the model's own business.

        Raises:
            UndecidedError: the model has no such parameter, so the check would be blind to it.
        """
        import torch

        if name in self.parameters:
            self.parameters[name].data.copy_(torch.from_numpy(values))
        elif not name.endswith(ROTARY_BUFFER):
            raise UndecidedError(f"'{name}' is no parameter of the transformers model")

    def __call__(self) -> np.ndarray[Any, Any]:
        import torch

        with torch.inference_mode():
            logits: np.ndarray[Any, Any] = self.model(self.tokens, use_cache=False).logits.cpu().numpy()
        return logits


def _placement(checkpoint: Checkpoint) -> tuple[torch.device, torch.dtype]:
    """A GPU if the model fits there, else the CPU; float64 if it fits, else float32.

    Raises:
        UndecidedError: neither holds the model.
    """
    import psutil
    import torch

    weights = sum(math.prod(entry.shape) for entry in checkpoint.tensors.values())
    room = [(torch.device("cpu"), psutil.virtual_memory().available)]
    if torch.cuda.is_available():
        room.insert(0, (torch.device("cuda"), torch.cuda.mem_get_info()[0]))
    for dtype in (torch.float64, torch.float32):
        need = int(1.3 * weights * dtype.itemsize)
        for device, free in room:
            if need < free:
                return device, dtype
    raise UndecidedError(
        f"{checkpoint.folder}: verification needs {need / 1e9:.1f} GB for {weights / 1e9:.1f} G weights in "
        f"float32, {room[-1][1] / 1e9:.1f} GB are free; use a larger machine, or --no-verify to skip it"
    )


def _model(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """The transformers model of a checkpoint, in another dtype than the stored one."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    from transformers.utils import logging

    weights = {
        name: torch.from_numpy(checkpoint.storage(name).decode(checkpoint.words(name))).to(dtype)
        for name in checkpoint.tensors
    }
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder)
        model, loaded = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # whatever a config can make transformers raise: no verdict is possible
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UndecidedError(
            f"{checkpoint.folder}: transformers cannot build this model: {reason}"
        ) from error
    if loaded["missing_keys"]:
        name = sorted(loaded["missing_keys"])[0]
        raise UndecidedError(f"{checkpoint.folder}: transformers needs '{name}', which is not there")
    return model.eval()
