"""What stands beside a scrambled checkpoint: its manifest and its group elements, read and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from scramble.architecture import Architecture
from scramble.architecture.axes import Sizes
from scramble.checkpoints import Checkpoint
from scramble.errors import ManifestError
from scramble.symmetries import Element
from scramble.transforms.manifest import ELEMENTS, MANIFEST, Elements, Manifest, Step, missing
from scramble.transforms.plan import Transform


@dataclass(frozen=True)
class Record:
    """A manifest and its elements, each of them in its group.

    Attributes:
        folder: where they were read.
        elements: key to data; empty where nothing was scrambled but a fold was made.
    """

    folder: Path
    manifest: Manifest
    elements: Elements

    @property
    def is_scrambled(self) -> bool:
        """Whether there is a scramble; a folded base has a manifest without one."""
        return bool(self.manifest.scrambles)

    def transform(self, checkpoint: Checkpoint) -> Transform:
        """All scrambles as one, for a checkpoint that they fit.

        Raises:
            ManifestError: another family or shape, or they do not touch the tensors that the manifest lists.
        """
        family = checkpoint.architecture.family.name
        if self.manifest.family != family:
            raise ManifestError(f"a manifest of {self.manifest.family}, the checkpoint is {family}")
        stages = self.stages(checkpoint)
        touched = set[str]().union(*(stage.actions for stage in stages))
        # A tied head may be stored or not, before training and after: its image follows from the steps.
        head = checkpoint.architecture.head_and_embedding
        if odd := sorted((touched ^ self.manifest.touched.keys()) - {*head}):
            raise ManifestError(f"the manifest's steps and its list of tensors disagree on '{odd[0]}'")
        if len(stages) == 1:
            return stages[0]
        return Transform(checkpoint, [pair for stage in stages for pair in stage.stage])

    def stages(self, checkpoint: Checkpoint, first: int = 0) -> list[Transform]:
        """One transform a scramble, from the `first` on: what was stored is rounded after each."""
        return [
            Transform(checkpoint, self._elements(checkpoint.architecture, done.steps))
            for done in self.manifest.scrambles[first:]
        ]

    def _elements(
        self, architecture: Architecture, steps: Sequence[Step]
    ) -> list[tuple[int | None, Element]]:
        found: list[tuple[int | None, Element]] = []
        for step in steps:
            if step.layer is not None and step.layer >= architecture.layers:
                raise ManifestError(
                    f"the manifest scrambles layer {step.layer}, the model has {architecture.layers}"
                )
            for record in step.elements:
                element = record.element(self.elements)
                _fits(element, architecture.sizes_of(step.layer))
                found.append((step.layer, element))
        return found


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a `scramble.json`."""
    return (folder / MANIFEST).exists()


def find_record(folder: Path) -> Record | None:
    """The record of a folder, None where it has no `scramble.json`.

    Raises:
        ManifestError: damaged, or an element that is not in its group.
    """
    return read_record(folder) if has_manifest(folder) else None


def read_record(folder: Path) -> Record:
    """The record of a scrambled or folded checkpoint.

    Raises:
        ManifestError: missing, damaged, or an element that is not in its group.
    """
    manifest = Manifest.read(folder)
    try:
        elements = load_file(folder / ELEMENTS) if manifest.scrambles else {}
    except FileNotFoundError:
        raise missing(folder / ELEMENTS) from None
    except OSError as error:
        raise ManifestError(f"{error.filename or folder / ELEMENTS}: {error.strerror}") from None
    except SafetensorError as error:
        raise ManifestError(f"{folder / ELEMENTS}: {error}") from None
    for step in manifest.steps:
        for record in step.elements:
            if record.key not in elements:
                raise ManifestError(f"{folder / ELEMENTS}: no element '{record.key}'")
            if fault := record.element(elements).fault():
                raise ManifestError(f"{folder / ELEMENTS}: '{record.key}' is {fault}")
    return Record(folder, manifest, elements)


def write_elements(path: Path, elements: Elements) -> None:
    """Write the elements file; its folder is made."""
    path.parent.mkdir(exist_ok=True)
    save_file(dict(elements), path, metadata={"format": "pt"})


def check_scrambled(manifest: Manifest, start: Checkpoint) -> None:
    """Refuse a checkpoint that is not what its manifest says, as one that was trained since.

    Raises:
        ManifestError: a touched tensor has another hash than the recorded one.
    """
    for name, record in manifest.touched.items():
        if start.tensor_hash(name) != record.after:
            raise ManifestError(
                f"{start.folder}: '{name}' is not as its manifest says; was it changed since?"
            )


def check_source(manifest: Manifest, base: Checkpoint) -> None:
    """Refuse a base that is not the checkpoint that was scrambled first.

    Raises:
        ManifestError: the hash of `base` is not the recorded one.
    """
    first = manifest.scrambles[0]
    if first.tensors.keys() - base.tensors.keys():
        raise ManifestError(f"{base.folder}: not the checkpoint that was scrambled, it lacks tensors")
    if not first.source.is_of(base, first.tensors):
        raise ManifestError(f"{base.folder}: not the checkpoint that was scrambled ({first.source.path})")


def _fits(element: Element, sizes: Sizes) -> None:
    axes = (*element.over, element.axis)
    if unknown := [axis for axis in axes if axis not in sizes]:
        raise ManifestError(f"the manifest acts on the axis '{unknown[0]}', which this model does not have")
    want = tuple(sizes[axis] for axis in axes)
    if element.data.shape[: len(axes)] != want:
        raise ManifestError(
            f"the manifest's element of {axes} is {element.data.shape}, the model's axes are {want}"
        )
