"""Reading what users type: layers, and symmetries with options."""

from __future__ import annotations

from collections.abc import Sequence

from scramble.errors import SelectionError

DEFAULT_SYMMETRIES = ("vo-rotation", "head-permutation")


def layers(text: str, count: int) -> tuple[int, ...]:
    """`20,25`, `4-8`, `-1` (from the end), `all`; sorted, without repeats.

    Raises:
        SelectionError: not in this notation, or outside the model's `count` layers.
    """
    chosen: set[int] = set()
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


def requests(symmetries: Sequence[str]) -> list[tuple[str, dict[str, str], str | None]]:
    """Every symmetry with its options and its own layers, if it names any."""
    return [
        symmetry_request(single)
        for text in symmetries
        for single in (text.split(",") if ":" not in text else [text])
    ]
