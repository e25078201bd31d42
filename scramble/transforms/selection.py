"""Reading what users type: layers, and symmetries with options."""

from __future__ import annotations

from collections.abc import Sequence

from scramble.errors import SelectionError
from scramble.symmetries import Symmetry, symmetry

Layers = str | int | Sequence[int] | None
"""As text (`20,25`, `4-8`, `-1`, `all`) or as numbers."""
Asked = str | Symmetry | tuple[Symmetry, Layers]
"""A symmetry as text or as an object, alone or with its layers."""
Symmetries = str | Symmetry | Sequence[Asked]
DEFAULT_SYMMETRIES = ("vo-rotation", "head-permutation")


def layers(asked: Layers, count: int) -> tuple[int, ...]:
    """`20,25`, `4-8`, `-1` (from the end), `all`, or numbers; sorted, without repeats.

    Raises:
        SelectionError: not in this notation, or outside the model's `count` layers.
    """
    chosen: set[int] = set()
    text = layer_text(asked) or ""
    for part in text.split(","):
        part = part.strip()
        if part == "all":
            chosen |= set(range(count))
            continue
        first, dash, last = part.partition("-") if not part.startswith("-") else (part, "", "")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            raise SelectionError(f"--layers {text}: '{part}' is not a layer, a range a-b, or 'all'") from None
        if low < 0:
            low = high = low + count
        if not 0 <= low <= high < count:
            raise SelectionError(f"--layers {text}: '{part}' is outside this model's layers 0 to {count - 1}")
        chosen |= set(range(low, high + 1))
    return tuple(sorted(chosen))


def ranges(layers: Sequence[int | None]) -> str:
    """Layers as `layers` reads them: `0-3,7`; None, for the whole model, is left out."""
    parts: list[list[int]] = []
    for number in sorted({layer for layer in layers if layer is not None}):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def symmetry_request(text: str) -> tuple[str, dict[str, str], str | None]:
    """`NAME[:option=value,layers=20]` to (name, options, layers).

    Raises:
        SelectionError: an option without a value.
    """
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    last = None
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if equals:
            last = key.strip()
            options[last] = value.strip()
        elif last == "layers":
            options[last] += "," + part
        else:
            raise SelectionError(f"--symmetry {text}: '{part}' is not option=value")
    return name.strip(), options, options.pop("layers", None)


def requests(symmetries: Symmetries) -> list[tuple[Symmetry, Layers]]:
    """Every symmetry, and its own layers if it names any.

    Raises:
        SymmetryError: unknown name or option.
        SelectionError: not in the notation.
    """
    found: list[tuple[Symmetry, Layers]] = []
    for asked in [symmetries] if isinstance(symmetries, str | Symmetry) else symmetries:
        if isinstance(asked, Symmetry):
            found.append((asked, None))
        elif isinstance(asked, tuple):
            found.append(asked)
        else:
            for single in asked.split(",") if ":" not in asked else [asked]:
                name, options, own = symmetry_request(single)
                found.append((symmetry(name, options), own))
    return found


def layer_text(asked: Layers) -> str | None:
    """Layers as text, as the command line takes them.

    Raises:
        SelectionError: neither text nor numbers.
    """
    if asked is None or isinstance(asked, str):
        return asked
    numbers = [asked] if isinstance(asked, int) else list(asked)
    if not numbers or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        raise SelectionError(f"layers {asked!r}: text as '20,25', or numbers")
    return ",".join(map(str, numbers))
