"""Symmetries: one file each."""

from collections.abc import Mapping

from pydantic import ValidationError

from scramble.errors import SymmetryError
from scramble.symmetries.elements import (
    KINDS,
    Element,
    ElementKind,
    Permutation,
    Rotation,
    Scaling,
    SignedPermutation,
    act,
)
from scramble.symmetries.expert_permutation import ExpertPermutation
from scramble.symmetries.head_permutation import HeadPermutation
from scramble.symmetries.neuron_permutation import NeuronPermutation
from scramble.symmetries.qk_rotation import QkRotation
from scramble.symmetries.residual import ResidualPermutation, ResidualRotation
from scramble.symmetries.scaling import NeuronScaling, QkScaling, VoScaling
from scramble.symmetries.symmetry import Symmetry
from scramble.symmetries.vo_rotation import VoRotation

__all__ = [
    "KINDS",
    "SYMMETRIES",
    "Element",
    "ElementKind",
    "ExpertPermutation",
    "HeadPermutation",
    "NeuronPermutation",
    "NeuronScaling",
    "Permutation",
    "QkRotation",
    "QkScaling",
    "ResidualPermutation",
    "ResidualRotation",
    "Rotation",
    "Scaling",
    "SignedPermutation",
    "Symmetry",
    "VoRotation",
    "VoScaling",
    "act",
    "symmetry",
]

SYMMETRIES: dict[str, type[Symmetry]] = {
    kind.name: kind
    for kind in (
        VoRotation,
        HeadPermutation,
        QkRotation,
        NeuronPermutation,
        ExpertPermutation,
        ResidualPermutation,
        ResidualRotation,
        VoScaling,
        QkScaling,
        NeuronScaling,
    )
}


def symmetry(name: str, options: Mapping[str, object]) -> Symmetry:
    """A symmetry by name, with its options checked.

    Raises:
        SymmetryError: unknown name or option.
    """
    if name not in SYMMETRIES:
        raise SymmetryError(f"no symmetry named '{name}'; there are: {', '.join(SYMMETRIES)}")
    try:
        return SYMMETRIES[name].model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(SYMMETRIES[name].model_fields) or "none"
        where = ".".join(map(str, first["loc"]))
        raise SymmetryError(f"{name}: option '{where}': {first['msg']} (options: {known})") from None
