"""`scramble experiment plan|run|contrast|report` and `scramble demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scramble.cli.options import FormatOption, QuietOption
from scramble.errors import RunError
from scramble.present.progress import counter, reporter
from scramble.present.table import Format, caution, emit, records
from scramble.runs.records.summary import shown, stood_still

if TYPE_CHECKING:
    from scramble.interventions.contrast import Contrasts
    from scramble.interventions.experiment import Experiment, PlannedRun

experiment = typer.Typer(help="Arms x seeds: plan, run, contrast, report.", no_args_is_help=True)

ExperimentArgument = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="An experiment (YAML).")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder of runs and results.")]
LanesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Workers that train side by side; default: one for each GPU or core."),
]
DEFAULT_OUT = Path("runs-out")


def commands(app: typer.Typer) -> None:
    app.add_typer(experiment, name="experiment")
    app.command()(demo)


@experiment.command()
def plan(
    path: ExperimentArgument,
    out: OutOption = DEFAULT_OUT,
    contrasts: Annotated[
        bool,
        typer.Option(
            "--contrasts",
            help="The overlap that each contrast is expected to have before training, in place of the runs: "
            "from the starts, the learning rate and the number of updates, if updates are noise.",
        ),
    ] = False,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """The runs, what they cost, and which are finished; what the arms cannot tell. Writes nothing."""
    from scramble.interventions.experiment import expected, read_experiment
    from scramble.interventions.verdict import limits

    read = read_experiment(path)
    if contrasts:
        emit(expected(read), {"experiment": read.name, "base": read.base}, format)
        return
    runs = _planned(read, out)
    weights, seconds = _weights(read.base), _seconds(runs)
    rows = [_row(run, weights, seconds) for run in runs]
    meta = {"experiment": read.name, "base": read.base} | caution({"caution": limits(read)}, format, quiet)
    emit(rows, meta, format)


def _row(run: PlannedRun, weights: int, typical: float | None) -> dict[str, Any]:
    """What a run costs: checkpoints take two bytes a weight in bf16, four in float32."""
    algorithm, fp32 = run.recipe.algorithm, set(run.recipe.fp32_steps)
    kept = {*run.recipe.save_steps, *fp32, run.recipe.steps}
    seconds = run.done.finished.seconds if run.status == "finished" else typical
    return {
        "arm": run.arm,
        "seed": run.seed,
        "status": run.status,
        "steps": run.recipe.steps,
        "rollouts": algorithm.rollouts(run.recipe.steps),
        "seconds": seconds,
        "disk_gb": weights * (2 * len(kept) + 4 * len(fp32)) / 1e9,
        "run": str(run.folder.path) if run.folder else f"named when the start of '{run.arm}' is scrambled",
    }


def _seconds(runs: Sequence[PlannedRun]) -> float | None:
    """What a finished run took, as an estimate for the others."""
    known = [run.done.finished.seconds for run in runs if run.status == "finished"]
    return sorted(known)[len(known) // 2] if known else None


def _weights(base: str) -> int:
    import math

    from scramble.checkpoints import locate, open_checkpoint

    checkpoint = open_checkpoint(locate(base))
    return sum(math.prod(checkpoint.tensors[name].shape) for name in checkpoint.parameters)


@experiment.command()
def run(
    path: ExperimentArgument,
    out: OutOption = DEFAULT_OUT,
    lanes: LanesOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Train the runs that are missing. Finished runs are never run again."""
    from scramble.interventions.experiment import read_experiment

    read = read_experiment(path)
    runs = _train(read, out, lanes, quiet)
    weights = _weights(read.base)
    still = [one.name for one in runs if stood_still(one.done.metrics)]
    said = f"no weight changed in {', '.join(still)}: every gradient was zero" if still else None
    meta = {"experiment": read.name} | caution({"caution": said}, format, quiet)
    emit([_row(one, weights, None) for one in runs], meta, format)


@experiment.command()
def contrast(
    path: ExperimentArgument,
    out: OutOption = DEFAULT_OUT,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Compare the updates of the finished runs: by layer and treatment, raw and aligned."""
    from scramble.interventions.experiment import read_experiment

    read = read_experiment(path)
    found = _contrast(read, _planned(read, out), out, quiet)
    meta = {"experiment": read.name, "tables": str(_results(read, out))}
    meta |= caution({"toolchains": found.toolchains}, format, quiet)
    emit(records(found.by_treatment), meta, format)


@experiment.command()
def report(
    path: ExperimentArgument,
    out: OutOption = DEFAULT_OUT,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Write the report: one self-contained page, its figures, and the tables as CSV."""
    from scramble.interventions.experiment import read_experiment

    read = read_experiment(path)
    runs = _planned(read, out)
    _report(read, runs, _contrast(read, runs, out, quiet), out, format, quiet)


def demo(
    smoke: Annotated[
        bool, typer.Option(help="Two steps and three runs: checks that the parts work together.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="A local model in place of SmolLM2-135M.")] = None,
    out: OutOption = DEFAULT_OUT,
    lanes: LanesOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """The whole experiment on a real 135M model: two layers scrambled, four runs, a report: 11 minutes."""
    from scramble.interventions.demo import demo_experiment

    read = demo_experiment(model, smoke=smoke, report=reporter(not quiet))
    runs = _train(read, out, lanes, quiet)
    _report(read, runs, _contrast(read, runs, out, quiet), out, format, quiet)


def _planned(read: Experiment, out: Path) -> list[PlannedRun]:
    from scramble.interventions.experiment import plan as planned

    return planned(read, out)


def _results(read: Experiment, out: Path) -> Path:
    return out / read.name


def _train(read: Experiment, out: Path, count: int | None, quiet: bool) -> list[PlannedRun]:
    from scramble.interventions.experiment import prepare
    from scramble.interventions.lanes import execute, lanes

    runs = prepare(read, out, reporter(not quiet))
    missing = [one for one in runs if one.status != "finished"]
    reporter(not quiet)(f"{len(runs) - len(missing)} of {len(runs)} runs are finished")
    if missing:
        with _bars(missing, quiet) as progress:
            failed = execute(missing, out, lanes(len(missing), count), progress)
        if failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise RunError(f"{len(failed)} of {len(missing)} runs failed: {reasons}")
    return runs


def _contrast(read: Experiment, runs: Sequence[PlannedRun], out: Path, quiet: bool) -> Contrasts:
    from scramble.interventions.contrast import contrast_once

    with counter("comparing tensors", not quiet) as progress:
        return contrast_once(read, runs, _results(read, out), progress)


def _report(
    read: Experiment, runs: Sequence[PlannedRun], contrasts: Contrasts, out: Path, format: Format, quiet: bool
) -> None:
    from scramble.interventions.report import write_report

    page, lines = write_report(read, runs, contrasts, _results(read, out))
    rows = [{"verdict": line} for line in lines]
    notes = {"notes": " ".join(read.notes)} if read.notes else {}
    notes |= caution({"toolchains": contrasts.toolchains}, format, quiet)
    emit(rows, {"report": str(page), "tables": str(page.parent / "*.csv")} | notes, format)


@contextmanager
def _bars(
    runs: Sequence[PlannedRun], quiet: bool
) -> Iterator[Callable[[PlannedRun, int, dict[str, Any]], None]]:
    """A bar a run, with its reward and the time left, on standard error; lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[reward]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(reporter(not quiet))
        return
    with Progress(*columns, console=console, disable=quiet) as bars:
        tasks = {
            one.name: bars.add_task(one.name, total=one.recipe.steps, reward="waiting", start=False)
            for one in runs
        }

        def progress(one: PlannedRun, step: int, metrics: dict[str, Any]) -> None:
            bars.start_task(tasks[one.name])
            reward = shown(metrics) if metrics else "starting"
            bars.update(tasks[one.name], completed=step, reward=reward)

        yield progress


def _lines(say: Callable[[str], None]) -> Callable[[PlannedRun, int, dict[str, Any]], None]:
    """A line for every fifth step of a run, and for its last."""
    told: dict[str, int] = {}

    def progress(one: PlannedRun, step: int, metrics: dict[str, Any]) -> None:
        steps = one.recipe.steps
        if metrics and step != told.get(one.name) and (step % 5 == 0 or step == steps):
            told[one.name] = step
            left = metrics["seconds"] / step * (steps - step)
            say(f"{one.name}: step {step} of {steps}, {shown(metrics)}, {left:.0f} s left")

    return progress
