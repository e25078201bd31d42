"""Function-preserving changes to language-model checkpoints, and exact measures of what training changed.

    import scramble

    scramble.apply("model/", "scrambled/", layers=[20, 25])
    scramble.verify("model/", "scrambled/").equivalent  # True
    scramble.overlap(["model:runA", "model:runB"], by="module")  # a data frame

What is used is imported when it is first used, so that `import scramble` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scramble._version import __version__

if TYPE_CHECKING:
    from scramble.analysis.arguments import open_run
    from scramble.analysis.curvature import curvature, gates
    from scramble.analysis.geometry import principal, spectra
    from scramble.analysis.maps import consensus, rates
    from scramble.analysis.updates import diff, overlap
    from scramble.errors import ScrambleError
    from scramble.measures.pairs.ends import CheckpointPair
    from scramble.operations.apply import apply
    from scramble.operations.compose import compose
    from scramble.operations.fold import fold
    from scramble.operations.inspect import inspect
    from scramble.operations.invert import invert
    from scramble.operations.verify import verify
    from scramble.runfolder import RunFolder
    from scramble.symmetries import (
        ExpertPermutation,
        HeadPermutation,
        NeuronPermutation,
        NeuronScaling,
        QkRotation,
        QkScaling,
        ResidualPermutation,
        ResidualRotation,
        Symmetry,
        VoRotation,
        VoScaling,
    )
    from scramble.transforms.manifest import Equivalence, Manifest
    from scramble.transforms.plan import Transform

_WHERE = {
    "analysis.arguments": ("open_run",),
    "analysis.curvature": ("curvature", "gates"),
    "analysis.geometry": ("principal", "spectra"),
    "analysis.maps": ("consensus", "rates"),
    "analysis.updates": ("diff", "overlap"),
    "errors": ("ScrambleError",),
    "measures.pairs.ends": ("CheckpointPair",),
    "operations.apply": ("apply",),
    "operations.compose": ("compose",),
    "operations.fold": ("fold",),
    "operations.inspect": ("inspect",),
    "operations.invert": ("invert",),
    "operations.verify": ("verify",),
    "runfolder": ("RunFolder",),
    "symmetries": (
        *("ExpertPermutation", "HeadPermutation", "NeuronPermutation", "NeuronScaling"),
        *("QkRotation", "QkScaling"),
        *("ResidualPermutation", "ResidualRotation", "Symmetry", "VoRotation", "VoScaling"),
    ),
    "transforms.manifest": ("Equivalence", "Manifest"),
    "transforms.plan": ("Transform",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "CheckpointPair",
    "Equivalence",
    "ExpertPermutation",
    "HeadPermutation",
    "Manifest",
    "NeuronPermutation",
    "NeuronScaling",
    "QkRotation",
    "QkScaling",
    "ResidualPermutation",
    "ResidualRotation",
    "RunFolder",
    "ScrambleError",
    "Symmetry",
    "Transform",
    "VoRotation",
    "VoScaling",
    "__version__",
    "apply",
    "compose",
    "consensus",
    "curvature",
    "diff",
    "fold",
    "gates",
    "inspect",
    "invert",
    "open_run",
    "overlap",
    "principal",
    "rates",
    "spectra",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'scramble' has no attribute '{name}'")
    return getattr(import_module(f"scramble.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
