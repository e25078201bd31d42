"""Versions of installed packages, compared by their releases: `1.0rc1` and `1.0+cu129` count as 1.0."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version


def within(found: str, oldest: str, newest: str | None = None) -> bool:
    """Whether a version is not before `oldest`, and not after any version of `newest`.

    Args:
        found: as the package states it; what is no version lies within nothing.
        newest: `0.32` includes 0.32.1; None for no limit.
    """
    try:
        release = Version(found).release
    except InvalidVersion:
        return False
    if _padded(release) < _padded(Version(oldest).release):
        return False
    if newest is None:
        return True
    last = Version(newest).release
    return _padded(release)[: len(last)] <= last


def _padded(release: tuple[int, ...]) -> tuple[int, ...]:
    """With zeros for the parts that are not named: 1 is 1.0."""
    return release + (0,) * (4 - len(release))
