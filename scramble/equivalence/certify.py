"""Equivalence, shown twice: the algebra without rounding, and the stored weights against a noise floor.

With a manifest there is a third, exact check: every stored weight must be the transformed one, rounded to
nearest, and every weight that no symmetry touched must be the base's, bit for bit.

Without one only functions are compared, on few tokens, chosen to reach what differs (see `coverage`).
What they do not reach leaves the verdict open: `UndecidedError`. So does a tensor whose difference alone
shows no more than noise, as of a key bias that softmax cancels: nothing tells it from one not reached.
Damage inside a tensor that was changed anyway (one neuron of a scrambled matrix) is found only as far as the
logits stand out from the noise of all that differs; rows of embeddings and heads are compared one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints import Checkpoint
from scramble.checkpoints.configuration import difference
from scramble.checkpoints.recognise import quantising
from scramble.equivalence.base import Base
from scramble.equivalence.coverage import Differences, Inputs, default_inputs, inputs_that_reach
from scramble.errors import MismatchError, UndecidedError
from scramble.symmetries.draws import generator
from scramble.transforms.manifest import Equivalence, LayerErrors

if TYPE_CHECKING:
    from jaxtyping import Float64

    from scramble.models.forward import Forward, Variant

# Everything is computed in float64, where errors of 1e-16 grow through the layers but stay far below this
# bound, while one forgotten weight shows at 1e-3. In a float32 model every product is rounded at 6e-8.
ALGEBRA_BOUND = {"float64": 1e-9, "float32": 1e-4}
# A correct transform rounds each touched weight once, by at most half an ULP: the same size as the noise.
STORAGE_FACTOR = 2.0
NOISE_DRAWS = 8


@dataclass(frozen=True)
class Claim:
    """What a checkpoint should hold, before rounding, if it is what it is said to be.

    Attributes:
        exact: name to float64 values, for every tensor that should differ from the base's.
        off: how many stored words of a tensor are not as they should be.
        moved: names whose words were only moved, so that nothing was rounded there.
        frame: maps hidden states back, where the residual stream itself was changed.
    """

    exact: Mapping[str, Callable[[], Array]]
    off: Callable[[str], int]
    moved: frozenset[str] = frozenset()
    frame: Callable[[Array], Array] = lambda states: states


def certify(
    base: Checkpoint, model: Checkpoint, claimed: Claim | None, *, prompts: Path | None = None
) -> Equivalence:
    """Run the checks. Without a claim only storage is compared."""
    from scramble.models.routing import dense

    if parts := base.architecture.quantised(base.tensors):
        raise UndecidedError(
            f"{base.folder}: '{sorted(parts)[0]}' is stored in a quantised format, which no check reads; "
            "--no-verify to go without"
        )
    for one in (base, model):
        if asks := quantising(one.folder, one.config):
            raise UndecidedError(
                f"{one.folder}: {asks} makes loaders quantise these weights, which no check computes; "
                "take it out, or --no-verify to go without"
            )
    _same_tensors(base, model)
    origin = Base(base)
    changed = {name for name in model.tensors if not origin.is_stored_in(model, name)}
    names = sorted(changed | (claimed.exact.keys() & model.tensors.keys() if claimed else set()))
    if claimed is not None:
        return _run(origin, model, names, claimed, default_inputs(base, prompts))[0]
    differences = Differences(origin, model, names)
    inputs = inputs_that_reach(base, differences, prompts)
    found, forward = _run(origin, model, names, None, inputs, differences)
    runs = [forward]
    if differences.unreached(forward.routing):
        everywhere = _run(
            replace(origin, checkpoint=dense(base)), dense(model), names, None, inputs, differences
        )
        runs.append(everywhere[1])
        found = worse(found, everywhere[0])
    if found.verdict == "equivalent" and (name := differences.unseen(inputs, runs)):
        raise UndecidedError(
            f"could not tell: '{name[0]}' differs from {base.folder} to {model.folder}, {name[1]}"
        )
    return found


def worse(one: Equivalence, other: Equivalence) -> Equivalence:
    """The one that shows more; an error that is no number shows that the functions differ."""

    def shown(found: Equivalence) -> tuple[bool, float]:
        return not found.equivalent, found.storage_error / (found.storage_bound or 1)

    return max(one, other, key=shown)


def _run(
    origin: Base,
    model: Checkpoint,
    names: Sequence[str],
    claimed: Claim | None,
    inputs: Inputs,
    differences: Differences | None = None,
) -> tuple[Equivalence, Forward]:
    """One pass of all variants, and what it shows."""
    from scramble.models.arithmetic import RESOLUTION, relative
    from scramble.models.forward import Forward

    base = origin.checkpoint
    kinds, variants = _variants(origin, model, names, claimed)
    alone = differences.alone(lambda name: _noisy(origin, model, name, 0)) if differences else None
    forward = Forward(model, origin.values, variants, inputs.tokens, inputs.positions, alone)
    logits = forward.logits()
    reference = next(logits)
    if not np.isfinite(reference).all():
        raise UndecidedError(f"{base.folder}: the base model's logits are not finite")
    errors = dict[str, list[float]]()
    kl, agreement = 0.0, 1.0
    for kind, other in zip(kinds, logits, strict=True):
        errors.setdefault(kind, []).append(relative(other, reference))
        if kind == "storage":
            kl, agreement = _divergence(reference, other)

    storage, floor = errors["storage"][0], max(errors["noise"])
    most = max(STORAGE_FACTOR * floor, RESOLUTION[forward.arithmetic])
    algebra = weights_off = None
    bound = ALGEBRA_BOUND[forward.arithmetic]
    if claimed is not None:
        algebra, weights_off = errors["algebra"][0], sum(map(claimed.off, names))
    shown = Equivalence.judged(
        algebra_error=algebra,
        algebra_bound=bound if algebra is not None else None,
        weights_off=weights_off,
        storage_error=storage,
        noise_floor=floor,
        floor_ratio=storage / floor if floor else None,
        kl=kl,
        top1_agreement=agreement,
        arithmetic=forward.arithmetic,
        tokens=int(inputs.tokens.size),
        storage_bound=most,
        layers=tuple(
            LayerErrors(
                layer=layer,
                **{
                    kind: max(e for k, e in zip(kinds, row[1:], strict=True) if k == kind)
                    for kind in dict.fromkeys(kinds)
                },
            )
            for layer, row in enumerate(forward.layer_errors)
        ),
    )
    return shown, forward


def _variants(
    origin: Base, model: Checkpoint, names: Sequence[str], claimed: Claim | None
) -> tuple[list[str], list[Variant]]:
    """What runs beside the base: the claim without rounding, the stored weights, and the noise."""
    from scramble.models.forward import Variant

    frame = claimed.frame if claimed else Variant().frame
    kinds, variants = ["storage"], [Variant({name: partial(_stored, model, name) for name in names}, frame)]
    if claimed is not None:
        kinds.append("algebra")
        variants.append(Variant(claimed.exact, frame))
    # Permuted tensors are not rounded, so they take no noise, unless there are no others.
    noisy = [name for name in names if not (claimed and name in claimed.moved)] or names
    for draw in range(NOISE_DRAWS):
        kinds.append("noise")
        variants.append(Variant({name: partial(_noisy, origin, model, name, draw) for name in noisy}))
    return kinds, variants


def _stored(model: Checkpoint, name: str) -> Array:
    return model.storage(name).decode(model.words(name))


def _noisy(origin: Base, model: Checkpoint, name: str, draw: int) -> Array:
    """The base's weights plus half an ULP of uniform noise, only where the two checkpoints differ.

    Noise on every weight would hide a sparse change, as of training.
    """
    values = origin.values(name)
    noise = generator(draw, "noise", None, name).uniform(-0.5, 0.5, values.shape)
    return values + noise * (origin.words(name) != model.words(name)) * model.storage(name).ulp(values)


def _divergence(
    reference: Float64[np.ndarray, "batch time vocab"], found: Float64[np.ndarray, "batch time vocab"]
) -> tuple[float, float]:
    """Mean KL(reference || found) in nats a token, and the share of tokens with the same top prediction."""
    from scipy.special import log_softmax

    first, second = log_softmax(reference, axis=-1), log_softmax(found, axis=-1)
    kl = float((np.exp(first) * (first - second)).sum(axis=-1).mean())
    return max(kl, 0.0), float((reference.argmax(-1) == found.argmax(-1)).mean())


def _same_tensors(base: Checkpoint, model: Checkpoint) -> None:
    """Refuse models that are not of one shape. A tied head that only one of them stores is the embedding.

    Raises:
        MismatchError: names, shapes, dtypes or settings that decide the function differ, or only the model
            ties its head.
        UndecidedError: transformers refuses one of the configs.
    """
    for head, embedding in model.tied.items():
        if head not in model.tensors and not np.array_equal(base.words(head), base.words(embedding)):
            raise MismatchError(f"only {model.folder} ties its head to the embedding, not {base.folder}")
    if key := difference(base, model):
        raise MismatchError(f"config.json: '{key}' differs between {base.folder} and {model.folder}")
    names = base.tensors.keys() | model.tensors.keys()
    if odd := sorted(name for name in names if not (base.holds(name) and model.holds(name))):
        raise MismatchError(f"'{odd[0]}' is in only one of {base.folder} and {model.folder}")
    for name, other in model.tensors.items():
        entry = base.entry(name)
        if (entry.shape, entry.dtype) != (other.shape, other.dtype):
            raise MismatchError(
                f"'{name}' is {entry.dtype} {entry.shape} in {base.folder}, "
                f"{other.dtype} {other.shape} in {model.folder}"
            )
