"""Function-preserving changes to language-model checkpoints, and exact measures of what training changed.

    import scramble

    done = scramble.apply("model/", "scrambled/", layers="20,25")
    scramble.verify("model/", "scrambled/").verdict     # "equivalent"
    scramble.invert("scrambled/", "back/")
    to_scrambled = scramble.compose("scrambled/")       # one map for tensors and updates

The functions are imported when they are first used, so that `import scramble` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scramble._version import __version__

if TYPE_CHECKING:
    from scramble.operations.apply import apply
    from scramble.operations.compose import compose
    from scramble.operations.fold import fold
    from scramble.operations.invert import invert
    from scramble.operations.verify import verify
    from scramble.transforms.plan import Transform

__all__ = ["Transform", "__version__", "apply", "compose", "fold", "invert", "verify"]
_MODULES = {"Transform": "compose"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scramble' has no attribute '{name}'")
    return getattr(import_module(f"scramble.operations.{_MODULES.get(name, name)}"), name)


def __dir__() -> list[str]:
    return __all__
