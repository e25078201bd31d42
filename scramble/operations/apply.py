"""Scramble a checkpoint: draw group elements, act on the tensors that carry their axes, show equivalence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scramble._version import __version__
from scramble.checkpoints import Checkpoint, locate, open_checkpoint, staging, target_of
from scramble.equivalence.claims import claim
from scramble.errors import SelectionError, SymmetryError
from scramble.operations.ending import certified, publish
from scramble.present.progress import Lines, reporter
from scramble.symmetries import Symmetry
from scramble.symmetries.products import one_blas_thread, products_on
from scramble.transforms.card import renamed
from scramble.transforms.draw import draw
from scramble.transforms.manifest import ELEMENTS, Manifest, Scramble, Source, Step, TouchedTensor
from scramble.transforms.plan import uneven_gain
from scramble.transforms.record import find_record, write_elements
from scramble.transforms.rewrite import left_out, rewrite
from scramble.transforms.selection import DEFAULT_SYMMETRIES, Layers, Symmetries, requests
from scramble.transforms.selection import layers as numbers_of


@one_blas_thread()
def apply(
    model: str | Path,
    out: str | Path | None = None,
    *,
    layers: Layers = None,
    symmetries: Symmetries = DEFAULT_SYMMETRIES,
    seed: int = 0,
    check: bool = True,
    device: str | None = None,
    force: bool = False,
    full_hash: bool = False,
    progress: Lines = None,
) -> Manifest:
    """Write a scrambled copy of a checkpoint.

    Every name, shape and dtype stays. The copy is verified before it gets its name; if it is not
    equivalent, or anything else goes wrong, nothing is written. The source is only read.

    Args:
        model: a folder, or a hub id `org/name@revision`.
        out: the folder to write; by default `NAME-scrambled`, beside a folder or in the working folder.
        layers: `"20,25"`, `"4-8"`, `"-1"`, `"all"`, or numbers; a symmetry's own `layers=` overrides it.
        symmetries: one or a list, applied in order; each an object (`VoRotation(shared=True)`), a pair of
            an object and its layers, or text, `NAME[:option=value,layers=...]`.
        seed: names the draw; the same (seed, symmetry, layer, head) draws the same element.
        check: verify what was written (algebra and storage).
        device: a torch device for the products of rotations, as `cuda`; numpy without.
        force: replace an existing target.
        full_hash: record a hash of every byte of the source, not only of the touched tensors.
        progress: say on standard error what happens; by default in a terminal and in a notebook.

    Returns:
        The manifest that was written; its last scramble is this one.

    Raises:
        ScrambleError: see `scramble.errors`; the message is one line.
    """
    report = reporter(progress)
    source, target = locate(model), target_of(model, out, "scrambled")
    checkpoint = open_checkpoint(source)
    chosen = choose(checkpoint, symmetries, layers)

    before = find_record(source)
    earlier = before.manifest.scrambles if before else ()
    drawn = draw(checkpoint, chosen, seed, str(len(earlier)))
    _refuse_repeats([*(step for done in earlier for step in done.steps), *drawn.steps])
    touched = drawn.transform.actions

    with staging(target, force=force, keep=source) as stage:
        report(f"writing {len(touched)} touched tensors of {len(checkpoint.tensors)}")
        if others := left_out(checkpoint):
            report(f"not carried over: {', '.join(others)}")
        with products_on(device):
            records = rewrite(checkpoint, stage, touched, renamed(source))
        _refuse_undone(earlier, records)
        write_elements(stage.folder / ELEMENTS, {**(before.elements if before else {}), **drawn.elements})
        stage.sync()
        known = {name: record.before for name, record in records.items()}
        done = Scramble(
            version=__version__,
            source=Source.of(checkpoint, touched, full=full_hash, known=known),
            steps=drawn.steps,
            tensors=records,
        )
        if check:
            done.equivalence = certified(
                stage,
                checkpoint,
                lambda written: claim(written, [drawn.transform]),
                described_by=source,
                report=report,
            )
        fold = before.manifest.fold if before else None
        manifest = Manifest(family=checkpoint.architecture.family.name, fold=fold, scrambles=(*earlier, done))
        publish(stage, manifest, earlier[0].source.path if earlier else str(model))
    return manifest


def choose(
    checkpoint: Checkpoint, symmetries: Symmetries, layers: Layers
) -> list[tuple[Symmetry, tuple[int | None, ...]]]:
    """Read and check what is asked for: symmetries with their options, and the layers of each.

    Raises:
        SelectionError: layers that are not there, or none.
        SymmetryError: unknown, or forbidden in one of its layers.
    """
    architecture, chosen = checkpoint.architecture, []
    for drawn, given in requests(symmetries):
        numbers = _layers(drawn, given, layers, architecture.layers)
        for layer in numbers:
            if reason := drawn.forbidden(architecture, layer):
                raise SymmetryError(
                    f"{drawn.name} does not exist in {_place(layer)} of this "
                    f"{architecture.family.name}: {reason}"
                )
        if drawn.equal_gains and (uneven := uneven_gain(checkpoint, drawn.equal_gains)):
            raise SymmetryError(uneven)
        chosen.append((drawn, numbers))
    if layers is not None and all(drawn.whole for drawn, _ in chosen):
        raise SelectionError(f"--layers {layers}: {chosen[0][0].name} acts on the whole model")
    return chosen


def _layers(drawn: Symmetry, given: Layers, default: Layers, count: int) -> tuple[int | None, ...]:
    if drawn.whole:
        if given is not None:
            raise SelectionError(f"{drawn.name}:layers={given}: it acts on the whole model")
        return (None,)
    chosen = default if given is None else given
    if chosen is None:
        raise SelectionError(f"{drawn.name}: no layers; use --layers or {drawn.name}:layers=...")
    return numbers_of(chosen, count)


def _place(layer: int | None) -> str:
    return "the whole model" if layer is None else f"layer {layer}"


def _refuse_undone(earlier: Sequence[Scramble], records: Mapping[str, TouchedTensor]) -> None:
    """Small groups have few elements: one of them may bring a tensor back to what it was."""
    for done in earlier:
        for name, record in done.tensors.items():
            moved = record.before != record.after  # gains of one and biases of zero stay what they are
            if moved and name in records and records[name].after == record.before:
                raise SymmetryError(f"this draw undoes an earlier scramble of '{name}'; use another --seed")


def _refuse_repeats(steps: Sequence[Step]) -> None:
    """The same element twice may undo itself, or leave its group's distribution."""
    seen = set()
    for step in steps:
        key = (step.symmetry, str(step.options), step.layer, step.seed)
        if key in seen:
            raise SymmetryError(
                f"{step.symmetry} in {_place(step.layer)} was drawn with seed {step.seed} before; "
                "use another --seed"
            )
        seen.add(key)
