"""Scramble a checkpoint: draw group elements, act on the tensors that carry their axes, show equivalence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scramble._version import __version__
from scramble.checkpoints import PARTIAL, Checkpoint, locate, open_checkpoint, staging, target_of
from scramble.equivalence.certify import certify
from scramble.equivalence.claims import claim
from scramble.errors import NotEquivalentError, SelectionError, SymmetryError
from scramble.symmetries import Symmetry, symmetry
from scramble.symmetries.products import one_blas_thread, products_on
from scramble.transforms.actions import draw_steps, recall, resolve, uneven_gain
from scramble.transforms.card import CARD, card, renamed
from scramble.transforms.manifest import (
    ELEMENTS,
    MANIFEST,
    Elements,
    Manifest,
    Scramble,
    Source,
    Step,
    TouchedTensor,
    has_manifest,
    read_manifest,
    write_elements,
)
from scramble.transforms.rewrite import left_out, rewrite
from scramble.transforms.selection import DEFAULT_SYMMETRIES, requests
from scramble.transforms.selection import layers as numbers_of

Report = Callable[[str], None]


@one_blas_thread()
def apply(
    model: str | Path,
    out: str | Path | None = None,
    *,
    layers: str | None = None,
    symmetries: Sequence[str] = DEFAULT_SYMMETRIES,
    seed: int = 0,
    check: bool = True,
    device: str | None = None,
    force: bool = False,
    full_hash: bool = False,
    report: Report = lambda message: None,
) -> Manifest:
    """Write a scrambled copy of a checkpoint.

    Every name, shape and dtype stays. The copy is verified before it gets its name; if it is not
    equivalent, or anything else goes wrong, nothing is written. The source is only read.

    Args:
        model: a folder, or a hub id `org/name@revision`.
        out: the folder to write; by default `NAME-scrambled`, beside a folder or in the working folder.
        layers: `20,25`, `4-8`, `-1`, `all`; a symmetry's own `layers=` overrides it.
        symmetries: `NAME[:option=value,layers=...]`, applied in order.
        seed: names the draw; the same (seed, symmetry, layer, head) draws the same element.
        check: verify what was written (algebra and storage).
        device: a torch device for the products of rotations, as `cuda`; numpy without.
        force: replace an existing target.
        full_hash: record a hash of every byte of the source, not only of the touched tensors.

    Raises:
        ScrambleError: see `scramble.errors`; the message is one line.
    """
    source, target = locate(model), target_of(model, out, "scrambled")
    checkpoint = open_checkpoint(source)
    architecture = checkpoint.architecture
    chosen = choose(checkpoint, symmetries, layers)

    earlier: tuple[Scramble, ...] = ()
    elements: Elements = {}
    fold = None
    if has_manifest(source):
        before, elements = read_manifest(source)
        earlier, fold = before.scrambles, before.fold
    steps, stored = draw_steps(architecture, chosen, seed, str(len(earlier)))
    _refuse_repeats([step for done in earlier for step in done.steps] + steps)
    forward = recall(architecture, steps, stored)
    touched = resolve(checkpoint, forward)

    with staging(target, force=force, keep=source) as stage:
        report(f"writing {len(touched)} touched tensors of {len(checkpoint.tensors)}")
        if others := left_out(checkpoint):
            report(f"not carried over: {', '.join(others)}")
        with products_on(device):
            records = rewrite(checkpoint, stage, touched, renamed(source))
        _refuse_undone(earlier, records)
        write_elements(stage.folder / ELEMENTS, {**elements, **stored})
        stage.sync()
        done = Scramble(
            version=__version__,
            source=Source(
                path=str(source),
                hash=checkpoint.hash(
                    touched, full=full_hash, known={name: record.before for name, record in records.items()}
                ),
                hash_kind="full" if full_hash else "touched",
            ),
            steps=tuple(steps),
            tensors=records,
        )
        if check:
            report("verifying")
            written = open_checkpoint(stage.folder, suffix=PARTIAL, described_by=source)
            done.equivalence = certify(checkpoint, written, claim(checkpoint, written, [forward]))
            if done.equivalence.verdict != "equivalent":
                raise NotEquivalentError(
                    f"{target}: not equivalent to {source}, nothing was written: {done.equivalence.failed()}"
                )
        manifest = Manifest(family=architecture.family.name, fold=fold, scrambles=(*earlier, done))
        origin = str(model) if not earlier else earlier[0].source.path
        stage.write(CARD, card(target.name, origin, manifest).encode())
        stage.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
        stage.commit()
    return manifest


def choose(
    checkpoint: Checkpoint, symmetries: Sequence[str], layers: str | None
) -> list[tuple[Symmetry, tuple[int | None, ...]]]:
    """Read and check what is asked for: symmetries with their options, and the layers of each.

    Raises:
        SelectionError: layers that are not there, or none.
        SymmetryError: unknown, or forbidden in one of its layers.
    """
    architecture, chosen = checkpoint.architecture, []
    for name, options, given in requests(symmetries):
        drawn = symmetry(name, options)
        numbers = _layers(drawn, given, layers, architecture.layers)
        for layer in numbers:
            if reason := drawn.forbidden(architecture, layer):
                raise SymmetryError(
                    f"{name} does not exist in {_place(layer)} of this {architecture.family.name}: {reason}"
                )
        if drawn.equal_gains and (uneven := uneven_gain(checkpoint, drawn.equal_gains)):
            raise SymmetryError(uneven)
        chosen.append((drawn, numbers))
    if layers is not None and all(drawn.whole for drawn, _ in chosen):
        raise SelectionError(f"--layers {layers}: {chosen[0][0].name} acts on the whole model")
    return chosen


def _layers(drawn: Symmetry, given: str | None, default: str | None, count: int) -> tuple[int | None, ...]:
    if drawn.whole:
        if given is not None:
            raise SelectionError(f"{drawn.name}:layers={given}: it acts on the whole model")
        return (None,)
    chosen = given or default
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
