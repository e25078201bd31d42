"""One class a cause. The command prints the message as one line and exits 2."""

from __future__ import annotations

from pathlib import Path


class ScrambleError(Exception):
    """Something the caller gave cannot be used; the message says what, where, and what to do."""


class CheckpointError(ScrambleError):
    """A checkpoint folder is missing a file, is damaged, or is stored in a way that is refused."""


class UnknownFamilyError(ScrambleError):
    """No table describes this architecture, or the checkpoint does not fit its table."""


class SymmetryError(ScrambleError):
    """A symmetry that does not exist, or that the architecture forbids."""


class SelectionError(ScrambleError):
    """A layer, seed, symmetry or run that was asked for cannot be read or does not exist."""


class ManifestError(ScrambleError):
    """`scramble.json` or the stored group elements are missing, damaged, or do not fit the checkpoint."""


class TargetError(ScrambleError):
    """The output folder exists, is in use, or cannot be written."""


class MismatchError(ScrambleError):
    """Two checkpoints that should hold the same tensors do not."""


class BoundError(ScrambleError):
    """A measured spectrum breaks a theorem: a bug in the measurement, never the caller's."""


class NotEquivalentError(ScrambleError):
    """A scramble did not keep the function; nothing was written."""


class UndecidedError(ScrambleError):
    """Equivalence could not be measured on this machine."""


class RecipeError(ScrambleError):
    """A recipe or an experiment file has a wrong value or an unknown key."""


class RunError(ScrambleError):
    """A training run failed; its folder says why."""


class DamagedRunError(RunError):
    """A run folder cannot be read, or its files do not fit each other. Nothing in it is ever changed.

    Attributes:
        why: which file, and what is wrong with it.
    """

    def __init__(
        self, folder: Path, why: str, remedy: str = "put it back from a copy, or move the folder away"
    ) -> None:
        super().__init__(f"{folder}: damaged: {why}: {remedy}")
        self.why = why


class MissingDependencyError(ScrambleError):
    """An optional package is needed for this command."""


def one_line(error: BaseException, most: int | None = 300) -> str:
    """An error as one line: the message of one of ours, and of any other its kind before the message.

    Args:
        most: characters of what others say; None for all of them.
    """
    if isinstance(error, ScrambleError):
        return " ".join(str(error).split())
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]


def install(extra: str) -> str:
    """How to get the packages of an extra. `scramble` on PyPI is another project's."""
    return (
        f"pip install 'rlvr-scramble[{extra}]', or, until it is published, '.[{extra}]' in its source folder"
    )
