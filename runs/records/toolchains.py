"""Whether runs that are compared were trained with the same packages on the same hardware."""

from __future__ import annotations

from collections.abc import Mapping

from scramble.runrecord import RunRecord

_NAMED = 3  # runs that are named one by one


def mixed(records: Mapping[str, RunRecord]) -> str | None:
    """What differs between runs: `torch 2.8.0 in A, 2.9.0 in B and C; gpu none in A and B, H100 in C`.

    Args:
        records: by the name that a reader knows a run by. What a record does not say is not compared.

    Returns:
        None where versions of all packages and all parts of the hardware are the same.
    """
    parts = []
    for section in ("versions", "hardware"):
        said = {name: found for name, one in records.items() if (found := getattr(one, section))}
        for part in dict.fromkeys(part for one in said.values() for part in one):
            runs_of: dict[str, list[str]] = {}
            for name, one in said.items():
                value = one.get(part)
                runs_of.setdefault("none" if value is None else str(value), []).append(name)
            if len(runs_of) > 1:
                values = [f"{value} in {_listed(names)}" for value, names in runs_of.items()]
                parts.append(f"{part} {', '.join(values)}")
    return "; ".join(parts) or None


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    if rest > 0:
        return f"{', '.join(names[:_NAMED])} and {rest} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)
