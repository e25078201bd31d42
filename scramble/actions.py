"""From a choice of symmetries to what acts on each tensor, forwards and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scramble.axes import Array, Layout
from scramble.errors import ManifestError, SymmetryError
from scramble.families import Architecture
from scramble.manifest import ElementRecord, Elements, Manifest, Step
from scramble.symmetries import Element, Symmetry, is_signs

Actions = Mapping[str, tuple[Layout, list[Element]]]
"""Tensor name to its layout and the elements that act on it, the first one first."""


def draw_steps(
    architecture: Architecture, requests: Sequence[tuple[Symmetry, Sequence[int]]], seed: int, prefix: str
) -> tuple[list[Step], dict[str, Array]]:
    """Draw every requested symmetry for its layers; keys of the elements begin with `prefix`."""
    steps: list[Step] = []
    stored: dict[str, Array] = {}
    for place, (symmetry, layers) in enumerate(requests):
        for layer in layers:
            records = []
            for element in symmetry.draw(architecture, seed, layer):
                key = f"{prefix}.{place}.{symmetry.name}.{layer}.{element.axis}"
                stored[key] = element.data
                records.append(
                    ElementRecord(key=key, kind=element.kind, axis=element.axis, over=element.over)
                )
            steps.append(
                Step(
                    symmetry=symmetry.name,
                    options=symmetry.model_dump(),
                    layer=layer,
                    seed=seed,
                    group=symmetry.group(architecture, layer),
                    elements=tuple(records),
                )
            )
    return steps, stored


def actions(
    architecture: Architecture, names: Iterable[str], steps: Sequence[Step], elements: Elements
) -> Actions:
    """The actions of the steps on the tensors that they touch, of those in `names`.

    Raises:
        ManifestError: the steps were drawn for a model of another shape.
        SymmetryError: an element does not commute with a gain.
    """
    present, touched = set(names), dict[str, tuple[Layout, list[Element]]]()
    for step in steps:
        if step.layer >= architecture.layers:
            raise ManifestError(
                f"the manifest scrambles layer {step.layer}, the model has {architecture.layers}"
            )
        layouts = architecture.layer_layouts(step.layer)
        for record in step.elements:
            element = record.element(elements)
            _fits(element, architecture)
            for name, layout in layouts.items():
                if element.axis in layout.gains and not is_signs(element):
                    raise SymmetryError(
                        f"'{name}' scales each channel of {element.axis}, which only signs leave alone"
                    )
                if element.axis in layout.axes and name in present:
                    touched.setdefault(name, (layout, []))[1].append(element)
    return touched


def _fits(element: Element, architecture: Architecture) -> None:
    axes = (*element.over, element.axis)
    if unknown := [axis for axis in axes if axis not in architecture.sizes]:
        raise ManifestError(f"the manifest acts on the axis '{unknown[0]}', which this model does not have")
    want = tuple(architecture.sizes[axis] for axis in axes)
    if element.data.shape[: len(axes)] != want:
        raise ManifestError(
            f"the manifest's element of {axes} is {element.data.shape}, the model's axes are {want}"
        )


def recorded_actions(
    manifest: Manifest, elements: Elements, architecture: Architecture, names: Iterable[str]
) -> Actions:
    """The actions of a whole manifest.

    Raises:
        ManifestError: another family or shape, or they do not touch the tensors that the manifest lists.
    """
    if manifest.family != architecture.family.name:
        raise ManifestError(f"a manifest of {manifest.family}, the checkpoint is {architecture.family.name}")
    touched = actions(architecture, names, manifest.steps, elements)
    if odd := sorted(touched.keys() ^ manifest.touched.keys()):
        raise ManifestError(f"the manifest's steps and its list of tensors disagree on '{odd[0]}'")
    return touched


def compose(stages: Iterable[Actions]) -> Actions:
    """One action after the other."""
    joined = dict[str, tuple[Layout, list[Element]]]()
    for stage in stages:
        for name, (layout, elements) in stage.items():
            joined.setdefault(name, (layout, []))[1].extend(elements)
    return joined


def inverse_actions(touched: Actions) -> Actions:
    """What undoes `actions`: inverses in reverse order."""
    return {
        name: (layout, [element.inverse() for element in reversed(elements)])
        for name, (layout, elements) in touched.items()
    }
