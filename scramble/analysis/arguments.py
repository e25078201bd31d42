"""What the functions and the commands take: runs, levels, layers, modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from scramble.errors import SelectionError
from scramble.measures.pairs import ends
from scramble.measures.pairs.ends import FRAMES, CheckpointPair, Frame
from scramble.measures.pairs.pooling import LEVELS
from scramble.measures.pairs.selection import Selection
from scramble.runfolder import RunFolder, is_run
from scramble.transforms.selection import Layers, layer_text

Place = str | Path
RunLike = Place | tuple[Place, Place] | CheckpointPair
"""`"START:END"`, a pair (START, END), a run folder (its START and its last checkpoint), or an open pair."""
Runs = RunLike | Sequence[RunLike]
Names = str | Sequence[str] | None


def one_run(run: Runs, measure: str) -> CheckpointPair:
    """The one run that is given.

    Raises:
        SelectionError: several, or none.
    """
    given = listed(run)
    if len(given) != 1:
        raise SelectionError(f"{measure} takes one run, {len(given)} are given")
    return open_run(given[0])


def several(
    runs: Runs, *, aligned: bool = False, base: Place | None = None, placebos: int = 0
) -> list[CheckpointPair]:
    """All runs, opened."""
    return [open_run(one, aligned=aligned, base=base, placebos=placebos) for one in listed(runs)]


def listed(runs: Runs) -> list[RunLike]:
    """One run or several as a list. A tuple is one run, START and END; a list holds several."""
    single = isinstance(runs, str | Path | CheckpointPair | tuple)
    return cast("list[RunLike]", [runs] if single else list(cast("Sequence[RunLike]", runs)))


def open_run(
    run: RunLike, *, aligned: bool = False, base: Place | None = None, placebos: int = 0
) -> CheckpointPair:
    """Open the checkpoint pair of a run; every measure takes it in place of the run.

    Args:
        run: a checkpoint pair `"START:END"` or (START, END), folders or hub ids; or a run folder:
            its start and last checkpoint.
        aligned: make ready to undo the scramble of a scrambled START.
        base: the checkpoint that was scrambled; None for where the manifest says.
        placebos: how many wrong alignments to make ready beside the true one.

    Returns:
        The pair, of which tensors are read when a measure asks for them.

    Raises:
        SelectionError: neither START:END nor a pair nor a run folder.
        CheckpointError: a checkpoint cannot be read.
        MismatchError: START and END are not of one model.
        ManifestError: the aligned frame was asked for and cannot be had; the message says why.
        DamagedRunError: a run folder cannot be read.
    """
    if isinstance(run, CheckpointPair):
        return run
    origin = None if base is None else Path(base)
    if isinstance(run, tuple):
        start, end = run
        return ends.open_run((start, end), aligned=aligned, base=origin, placebos=placebos)
    if is_run(Path(run)):
        start_of, last = ends_of(Path(run))
        return ends.ends(start_of, last, aligned=aligned, base=origin, placebos=placebos)
    return ends.open_run(str(run), aligned=aligned, base=origin, placebos=placebos)


def ends_of(folder: Path) -> tuple[Path, Path]:
    """START and the last checkpoint of a run folder, in float32 if it was kept so."""
    start, steps = ends.steps_of(folder)
    return start, RunFolder(folder).fp32(max(steps)) or steps[max(steps)]


def levels(by: Names, default: Sequence[str]) -> list[str]:
    """What the rows are.

    Raises:
        SelectionError: not a level.
    """
    chosen = _names(by) or list(default)
    if unknown := [level for level in chosen if level not in LEVELS]:
        raise SelectionError(f"--by {','.join(chosen)}: '{unknown[0]}' is not one of {', '.join(LEVELS)}")
    return chosen


def selection(layers: Layers, modules: Names, embeddings: bool) -> Selection:
    """Which tensors are measured.

    Args:
        layers: `"20,25"`, `"4-8"`, `"-1"`, `"all"`, a number, or a list of numbers; None for all.
        modules: `"q_proj,o_proj"` or a list; None for all.
    """
    return Selection(layer_text(layers), _names(modules), embeddings)


def frame_of(name: str) -> Frame:
    """A frame by name.

    Raises:
        SelectionError: neither raw nor aligned.
    """
    found = next((frame for frame in FRAMES if frame == name), None)
    if found is None:
        raise SelectionError(f"--frame {name}: raw or aligned")
    return found


def frames_of(name: str | Literal["both"]) -> list[Frame]:
    """One frame, or `both`."""
    chosen = [frame for frame in FRAMES if name in (frame, "both")]
    if not chosen:
        raise SelectionError(f"--frame {name}: raw, aligned or both")
    return chosen


def _names(text: Names) -> list[str]:
    if text is None:
        return []
    return text.split(",") if isinstance(text, str) else list(text)
