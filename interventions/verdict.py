"""What the contrasts say, in plain words. Every number comes from the tables; no side is taken.

No sentence here concludes anything about geometry. The Jaccard overlap cannot carry such a conclusion: raw,
it falls whenever coordinates are relabelled or mixed; aligned after a rotation, it returns for any update,
since the update is rounded on the base's grid again. Cosines of the float32 updates are free of rounding,
and say whether two arms' updates have a direction in common once the scramble is undone, and no more than
that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from scramble.interventions.experiment import OUTSIDE, UNTREATED, Experiment
from scramble.measures.updates.ratios import ENOUGH_ERRORS, is_share
from scramble.symmetries import SYMMETRIES, Symmetry
from scramble.transforms.selection import requests

CONCLUSION = (
    "No conclusion about geometry follows from these contrasts. Own geometry, the optimizer's basis, "
    "magnitudes and rounding of the start remain candidates for whatever is not explained above; to tell "
    "them apart takes other interventions than this one."
)


CAUSES = {
    "rounding": "bf16 rounding at each weight's threshold",
    "magnitude": "sizes of updates that follow a weight's own magnitude",
    "function": "directions tied to the function (gradients, a shared direction)",
    "optimizer": "the optimizer's basis",
    "geometry": "a rule on the start's own geometry",
}
"""What an overlap above chance may come from, beside the labels of coordinates."""
_ALL = frozenset(CAUSES)


def apart(chosen: Symmetry, optimizer: str) -> list[frozenset[str]]:
    """Groups of causes that a treatment tells from one another; those within a group fall or stay together.

    A permutation keeps all of them, so it is a control. A rotation keeps what is tied to the function and
    changes each weight's threshold; the optimizer's basis, own magnitude and own geometry change together.
    Under an optimizer that commutes with rotations it is a control too. A scaling of whole tensors or heads
    changes thresholds alone; one of single channels changes magnitudes and what is principal too, each in its
    own way.
    """
    if not chosen.relabels:
        whole = getattr(chosen, "per", None) in ("tensor", "head")
        groups = [{"rounding"}] if whole else [{"rounding"}, {"magnitude"}, {"geometry"}]
    elif "rotation" in chosen.name and getattr(chosen, "method", None) != "signed-permutation":
        groups = [{"rounding"}, {"function"}] if optimizer == "adamw" else []
    else:
        groups = []
    rest = _ALL.difference(*groups)
    return [*map(frozenset, groups), rest]


def inseparable(treatments: Iterable[Symmetry], optimizer: str) -> list[frozenset[str]]:
    """Causes that no treatment of a design tells apart: the groups of two or more that are left.

    Args:
        treatments: of all arms.
        optimizer: the recipe's.
    """
    left = [_ALL]
    for one in treatments:
        left = [both for group in left for other in apart(one, optimizer) if (both := group & other)]
    return [group for group in left if len(group) > 1]


def limits(experiment: Experiment) -> str | None:
    """What the arms of an experiment cannot separate, in words; None where they separate all causes."""
    treatments = [
        chosen
        for name in experiment.scrambled_arms
        for chosen, _ in requests(experiment.arms[name].scrambles)
    ]
    optimizer = experiment.recipe_for(
        experiment.base_arm, experiment.seeds[0], experiment.base
    ).optimizer.name
    groups = inseparable(treatments, optimizer)
    if not groups:
        return None
    named = "; nor ".join(" from ".join(CAUSES[name] for name in CAUSES if name in group) for group in groups)
    return f"these arms cannot tell {named}"


def cell(table: pd.DataFrame, contrast: str, treatment: str, frame: str) -> Any | None:
    """The row of pairs with different seeds in `by_treatment`; None if there is none."""
    found = table[
        (table["contrast"] == contrast)
        & (table["treatment"] == treatment)
        & (table["frame"] == frame)
        & ~table["same_seed"].astype(bool)
    ]
    return None if found.empty else next(found.head(1).itertuples(index=False))


def verdict(table: pd.DataFrame, base: str, arms: list[str]) -> list[str]:
    """Sentences: on untreated weights, on every treatment of every scrambled arm, and what follows."""
    lines = [*_untreated(table[table["arm"] == (arms or [base])[0]], base)]
    for arm in arms:
        lines += _treated(table[table["arm"] == arm], base, arm)
    return [*lines, CONCLUSION]


def _untreated(table: pd.DataFrame, base: str) -> Iterator[str]:
    found = cell(table, f"{base} x {base}", UNTREATED, "raw")
    if found is None:
        yield "There are no two base runs with different seeds to compare the scrambled runs with."
        return
    if pd.isna(found.jaccard):
        yield f"The {base} runs changed no stored weight: there is no overlap to measure."
        return
    yield (
        f"Two {base} runs overlap by {found.jaccard:.3f} (Jaccard) in untreated weights; {found.chance:.3f} "
        f"would be chance ({_pairs(found)}). The cosine of their updates is {found.update_cosine:.3f}."
    )
    if not _stands_out(found):
        yield "That is not clearly more than chance, so it has no parts to determine."
        return
    if pd.notna(found.rounding_only):
        yield (
            "If bf16 storage rounded updates of each run's own sizes that are blind to the weight, it would "
            f"be {found.rounding_only:.3f}{_part(found, found.rounding_only)}."
        )
    yield (
        "If each run changed weights at its own rate for their magnitude, it would be "
        f"{found.magnitude_matched:.3f}{_part(found, found.magnitude_matched)}."
    )


def _stands_out(found: Any) -> bool:
    return bool(found.above_chance_errors > ENOUGH_ERRORS and found.jaccard > found.chance)


def _part(found: Any, baseline: float) -> str:
    """How much of the overlap above chance a baseline gives, where that is a share."""
    share = (baseline - found.chance) / (found.jaccard - found.chance)
    if is_share(share):
        return f", {share:.0%} of what is above chance"
    return ", so this baseline does not describe these updates" if share > 1 else ", less than chance"


def _treated(table: pd.DataFrame, base: str, arm: str) -> Iterator[str]:
    treatments = [name for name in dict.fromkeys(table["treatment"]) if name not in (UNTREATED, OUTSIDE)]
    for treatment in treatments:
        where = f"Where arm '{arm}' had {treatment}"
        home = cell(table, f"{base} x {base}", treatment, "raw")
        crossed = f"{base} x {arm}" if f"{base} x {arm}" in set(table["contrast"]) else f"{arm} x {base}"
        raw, back = (cell(table, crossed, treatment, frame) for frame in ("raw", "aligned"))
        if home is None or raw is None or back is None:
            yield f"{where}, the runs that would be compared are missing."
            continue
        if not _stands_out(home):
            yield f"{where}, two {base} runs overlap not clearly more than chance: nothing to compare with."
            continue
        if not relabels(treatment):
            yield from _in_place(where, base, arm, home, raw, back)
            continue
        yield (
            f"{where}, {base} and {arm} runs overlap by {raw.jaccard:.3f} as stored, beside "
            f"{home.jaccard:.3f} between two {base} runs; chance is {raw.chance:.3f}{_rounding(raw)} "
            f"({_pairs(raw)}). Coordinates that were permuted or mixed are compared with others there, so "
            "a drop is expected of any update."
        )
        yield (
            f"With the scramble undone before comparing it is {back.jaccard:.3f}{_rounding(back)}"
            f"{_wrong(back, 'jaccard')}. {_jaccard_reading(back)}"
        )
        yield (
            f"The cosine of the updates, which rounding does not affect, is {raw.update_cosine:.3f} "
            f"as stored and {back.update_cosine:.3f} with the scramble undone"
            f"{_wrong(back, 'update_cosine')}; between two {base} runs it is {home.update_cosine:.3f}. "
            f"{_cosine_reading(back, home, base, arm)}"
        )


def relabels(treatment: str) -> bool:
    """Whether a treatment, names of symmetries joined by ` + `, moves or mixes coordinates."""
    return any(SYMMETRIES[name].relabels for name in treatment.split(" + "))


def _in_place(where: str, base: str, arm: str, home: Any, raw: Any, back: Any) -> Iterator[str]:
    """Of scalings: both frames compare the same weights, and have the same bf16 masks."""
    yield (
        f"{where}, {base} and {arm} runs overlap by {raw.jaccard:.3f}, beside {home.jaccard:.3f} between two "
        f"{base} runs; chance is {raw.chance:.3f}{_rounding(raw)} ({_pairs(raw)}). Every weight kept its "
        "place: nothing was relabelled, and what changed is the magnitude, and so the update that bf16 "
        "rounding lets through."
    )
    yield (
        f"The cosine of the updates is {raw.update_cosine:.3f} as stored and {back.update_cosine:.3f} in the "
        f"units of {base}; between two {base} runs it is {home.update_cosine:.3f}."
    )


def _rounding(found: Any) -> str:
    return f", rounding alone gives {found.rounding_only:.3f}" if pd.notna(found.rounding_only) else ""


def _wrong(found: Any, name: str) -> str:
    """What the wrong alignments gave."""
    if not found.placebos:
        return ""
    mean, least, most = (getattr(found, f"placebo_{name}{end}") for end in ("", "_least", "_most"))
    return f" and {found.placebos} wrong elements of the group {mean:.3f} ({least:.3f} to {most:.3f})"


def _jaccard_reading(back: Any) -> str:
    if not back.placebos:
        return "Without wrong alignments beside it, nothing can be concluded from that."
    if not back.jaccard > back.placebo_jaccard_most:  # nor is a NaN, of updates without a change
        return "A wrong element gives as much, so this rise says nothing."
    return (
        f"That is {back.jaccard - back.placebo_jaccard:.3f} more than wrong elements give on average: only "
        "this difference is due to the alignment, and it has the causes of the cosine that follows."
    )


def _cosine_reading(back: Any, home: Any, base: str, arm: str) -> str:
    if not back.placebos:
        return "Without wrong alignments beside it, this cosine is a value and no finding."
    if not back.update_cosine > back.placebo_update_cosine_most:
        return "The true alignment is not distinguished from wrong ones, so this cosine says nothing."
    chance = f"by chance in one of {back.placebos + 1} cases"
    kept = f"So {base} and {arm} runs have a direction in common that follows the function ({chance})"
    if (missing := home.update_cosine - back.update_cosine) > 0:
        return f"{kept}; {missing:.3f} of the cosine of two {base} runs is missing."
    return f"{kept}, all of it that two {base} runs have."


def _pairs(found: Any) -> str:
    return "one pair of runs" if found.pairs == 1 else f"mean of {found.pairs} pairs of runs"
