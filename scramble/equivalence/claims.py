"""What a scrambled or folded checkpoint should hold, from its manifest or from what was just done."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import numpy as np

from scramble.architecture.axes import Array
from scramble.checkpoints import Checkpoint
from scramble.equivalence.certify import Claim
from scramble.errors import ManifestError
from scramble.transforms.folding import folded
from scramble.transforms.plan import Action, Actions, Transform
from scramble.transforms.record import find_record
from scramble.transforms.rounding import exact, off, rounded


def recorded_claim(base: Checkpoint, model: Checkpoint) -> Claim | None:
    """What the manifest of `model` claims, if it passes through `base`."""
    record = find_record(model.folder)
    if record is None:
        return None
    manifest = record.manifest
    family = model.architecture.family.name
    if manifest.family != family:
        raise ManifestError(
            f"{model.folder}: its scramble.json is of a {manifest.family} model, not of {family}"
        )
    if lost := [name for name in manifest.touched if not model.holds(name)]:
        raise ManifestError(
            f"{model.folder}: its scramble.json lists '{lost[0]}', which the model does not hold"
        )
    if not all(one.tensors for one in manifest.scrambles):
        raise ManifestError(f"{model.folder}: its scramble.json is damaged, a scramble lists no tensors")
    fold = manifest.fold
    # A head that the fold untied is not in the base, and not in its hash.
    if fold and not manifest.scrambles and fold.source.is_of(base, fold.tensors.keys() & base.tensors.keys()):
        return claim_of_fold(base, model)
    for place, done in enumerate(manifest.scrambles):
        if done.source.is_of(base, done.tensors):
            return claim(model, record.stages(base, place))
    return None


def claim(model: Checkpoint, stages: Sequence[Transform]) -> Claim:
    """What `model` should be if it was made from the base of these scrambles; each was rounded once.

    Args:
        stages: transforms of the base, one or more.
    """
    base = stages[0].checkpoint
    whole = stages[0] if len(stages) == 1 else reduce(Transform.then, stages)
    touched, resolved = whole.actions_with_tied, [stage.actions_with_tied for stage in stages]
    slots = base.architecture.slots()
    undone = whole.inverse().stage
    back = [element for layer, element in undone if layer is None and element.axis == "hidden"]

    def values(name: str, action: Action) -> Array:
        words, sizes = base.words(action.source), slots[name].sizes
        return exact(words, base.storage(name), action.layout, sizes, action.elements)

    def frame(states: Array) -> Array:
        for element in back:
            states = element.act(states, ("batch", "time", "hidden"))
        return states

    return Claim(
        {name: partial(values, name, action) for name, action in touched.items()},
        lambda name: _words_off(base, model, name, resolved),
        frozenset(name for name, action in touched.items() if action.exact),
        frame,
    )


def _words_off(base: Checkpoint, model: Checkpoint, name: str, stages: Sequence[Actions]) -> int:
    """Stored weights that are not what the stages make of the base's, with one rounding a stage."""
    *earlier, last = stages
    if name not in last:
        return int(np.count_nonzero(_staged(base, name, stages) != model.words(name)))
    action, storage = last[name], base.storage(name)
    words = _staged(base, action.source, earlier)
    return off(
        model.words(name),
        storage,
        exact(words, storage, action.layout, base.architecture.slots()[name].sizes, action.elements),
    )


def _staged(base: Checkpoint, name: str, stages: Sequence[Actions]) -> Array:
    """A tensor's words after the stages, rounded after each."""
    if not stages:
        return base.words(name)
    *earlier, last = stages
    if name not in last:
        return _staged(base, name, earlier)
    action, storage = last[name], base.storage(name)
    words = _staged(base, action.source, earlier)
    sizes = base.architecture.slots()[name].sizes
    return rounded(name, words, storage, action.layout, sizes, action.elements)[0]


def claim_of_fold(base: Checkpoint, model: Checkpoint) -> Claim:
    """What a folded copy of `base` should hold."""
    exact = folded(base)

    def words_off(name: str) -> int:
        if name in exact:
            return off(model.words(name), model.storage(name), exact[name]())
        return int(np.count_nonzero(base.words(name) != model.words(name)))

    norms = frozenset(
        name
        for name, slot in base.architecture.slots().items()
        if slot.mtp is None and slot.local in base.architecture.family.folds
    )
    return Claim(exact, words_off, norms)
