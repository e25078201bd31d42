"""The words follow the numbers, whichever way they point, and no number makes them speak of geometry."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.interventions.verdict import CAUSES, CONCLUSION, inseparable, verdict
from scramble.transforms.selection import requests

NAN = float("nan")


def table(**numbers: Any) -> pd.DataFrame:
    """An experiment's `by_treatment`: base x base alike everywhere, base x other by the numbers."""
    given = {
        **{"raw": 0.11, "aligned": 0.43, "home": 0.45, "chance": 0.1, "matched": 0.44, "rounding": 0.43},
        **{"wrong": (0.42, 0.40, 0.44), "cosine": 0.2, "wrong_cosine": (0.0, -0.02, 0.02), "own_cosine": 0.3},
        **{"errors": 50.0, "placebos": 19},
    } | numbers

    def row(contrast: str, treatment: str, frame: str, jaccard: float, cosine: float) -> dict[str, Any]:
        crossed = contrast != "base x base" and frame == "aligned" and given["placebos"]
        placebos = {
            f"placebo_{name}{end}": value
            for name, values in (("jaccard", given["wrong"]), ("update_cosine", given["wrong_cosine"]))
            for end, value in zip(("", "_least", "_most"), values, strict=True)
        }
        values = {"jaccard": jaccard, "chance": given["chance"], "magnitude_matched": given["matched"]}
        values |= {"rounding_only": given["rounding"], "pairs": 2, "update_cosine": cosine}
        values |= {"above_chance_errors": given["errors"], "placebos": given["placebos"] if crossed else 0}
        values |= placebos if crossed else dict.fromkeys(placebos, NAN)
        labels = {"arm": "other", "contrast": contrast, "treatment": treatment, "frame": frame}
        return labels | {"same_seed": False} | values

    rows = [
        row("base x base", t, f, given["home"], given["own_cosine"])
        for t in ("untreated", "vo-rotation")
        for f in ("raw", "aligned")
    ]
    rows += [
        row("base x other", "vo-rotation", "raw", given["raw"], 0.0),
        row("base x other", "vo-rotation", "aligned", given["aligned"], given["cosine"]),
    ]
    rows.append(row("base x other", "vo-rotation", "raw", 0.99, 0.99) | {"same_seed": True})
    return pd.DataFrame(rows)


def words(**numbers: Any) -> str:
    return " ".join(verdict(table(**numbers), "base", ["other"]))


def test_a_return_that_wrong_alignments_bring_back_too_says_nothing() -> None:
    found = words(aligned=0.43)
    assert "overlap by 0.110 as stored, beside 0.450 between two base runs" in found
    assert (
        "it is 0.430, rounding alone gives 0.430 and 19 wrong elements of the group 0.420 (0.400 to 0.440)"
        in found
    )
    assert "this rise says nothing" in found


def test_an_overlap_above_all_wrong_alignments_is_named_by_its_excess() -> None:
    found = words(aligned=0.50)
    assert "0.080 more than wrong elements give" in found
    assert "says nothing" not in found


def test_a_direction_is_seen_only_above_all_wrong_alignments() -> None:
    assert "have a direction in common that follows the function (by chance in one of 20 cases)" in words()
    assert "0.100 of the cosine of two base runs is missing" in words()
    assert "all of it that two base runs have" in words(cosine=0.31)
    within = words(cosine=0.015)
    assert "so this cosine says nothing" in within
    assert "direction in common" not in within


def test_without_wrong_alignments_nothing_is_concluded() -> None:
    found = words(placebos=0)
    assert "nothing can be concluded" in found
    assert "a value and no finding" in found
    assert "wrong elements" not in found


def test_shares_are_of_what_is_above_chance_and_only_where_they_are_shares() -> None:
    assert "0.275, 50% of what is above chance" in words(matched=0.275)
    assert "0.100, 0% of what is above chance" in words(matched=0.1)
    assert "0.700, so this baseline does not describe these updates" in words(matched=0.7)
    assert "0.020, less than chance" in words(matched=0.02)


@pytest.mark.parametrize("errors", [4.9, -3.0, NAN])
def test_near_chance_there_are_no_shares_and_no_reading(errors: float) -> None:
    found = words(home=0.101, errors=errors)
    assert "not clearly more than chance" in found
    assert "%" not in found
    assert "as stored" not in found


# What a sentence says when it claims something: of the cosine, of the overlap, and of parts of the overlap.
CLAIMS = ("have a direction in common", "more than wrong elements give", "If each run changed weights")
numbers = st.floats(-1, 1)
spans = st.tuples(*[numbers] * 3).map(sorted).map(lambda found: (found[1], found[0], found[2]))
evidence = st.fixed_dictionaries(
    {name: st.floats(0, 1) for name in ("raw", "aligned", "home", "chance", "matched", "rounding")}
    | {"wrong": spans, "wrong_cosine": spans, "cosine": numbers, "own_cosine": numbers}
    | {"errors": st.floats(-10, 1e3), "placebos": st.integers(0, 20)}
)


def claims(lines: str) -> set[str]:
    return {text for text in CLAIMS if text in lines}


STRONGER = {
    **{name: lambda value, by: value + by / 8 for name in ("aligned", "cosine", "home", "errors")},
    "placebos": lambda value, by: value + by,
    "chance": lambda value, by: value - by / 8,
    **{name: lambda value, by: tuple(one - by / 8 for one in value) for name in ("wrong", "wrong_cosine")},
}


@given(found=evidence, name=st.sampled_from(sorted(STRONGER)), by=st.integers(1, 5))
def test_more_evidence_never_takes_a_claim_back(found: dict[str, Any], name: str, by: int) -> None:
    assert claims(words(**found)) <= claims(words(**found | {name: STRONGER[name](found[name], by)}))


@given(found=evidence)
def test_claims_are_of_what_stands_above_all_wrong_alignments(found: dict[str, Any]) -> None:
    seen = found["errors"] > 5 and found["home"] > found["chance"]
    compared = seen and found["placebos"] > 0
    made = claims(words(**found))
    assert (CLAIMS[0] in made) == (compared and found["cosine"] > found["wrong_cosine"][2])
    assert (CLAIMS[1] in made) == (compared and found["aligned"] > found["wrong"][2])
    assert (CLAIMS[2] in made) == seen


@given(found=evidence, other=st.sampled_from(["untreated", "outside the layers"]))
def test_what_no_symmetry_touched_is_claimed_nothing_of(found: dict[str, Any], other: str) -> None:
    lines = verdict(table(**found).replace({"vo-rotation": other}), "base", ["other"])
    assert not claims(" ".join(lines)) & set(CLAIMS[:2])


@pytest.mark.parametrize(
    "nothing",
    [
        {"aligned": NAN, "cosine": NAN},
        {"wrong": (NAN,) * 3, "wrong_cosine": (NAN,) * 3},
        {"home": NAN, "chance": NAN},
    ],
)
def test_updates_without_a_change_are_claimed_nothing_of(nothing: dict[str, Any]) -> None:
    """Where nothing changed, every ratio is NaN."""
    said = words(**nothing)
    assert not claims(said) & set(CLAIMS[:2])
    assert ("changed no stored weight" in said) == ("home" in nothing)


@given(
    **{name: st.floats(0, 1) for name in ("raw", "aligned", "home", "chance", "matched", "rounding")},
    wrong=st.tuples(*[st.floats(0, 1)] * 3).map(sorted),
    cosines=st.tuples(numbers, numbers),
    errors=st.floats(-1e3, 1e5),
)
def test_no_number_makes_it_conclude_about_geometry_or_print_a_share_that_is_none(
    raw: float,
    aligned: float,
    home: float,
    chance: float,
    matched: float,
    rounding: float,
    wrong: list[float],
    cosines: tuple[float, float],
    errors: float,
) -> None:
    least, middle, most = wrong
    lines = verdict(
        table(
            **{"raw": raw, "aligned": aligned, "home": home, "chance": chance, "matched": matched},
            **{"rounding": rounding, "wrong": (middle, least, most), "cosine": cosines[0]},
            **{"own_cosine": cosines[1], "errors": errors},
        ),
        "base",
        ["other"],
    )
    assert lines[-1] == CONCLUSION
    assert not any("geometry" in line for line in lines[:-1])
    shares = [int(word.rstrip("%,")) for word in " ".join(lines).split() if word.rstrip(",").endswith("%")]
    assert all(-10 <= share <= 110 for share in shares)


def test_an_arm_is_judged_by_what_was_done_to_it() -> None:
    rows = table()
    quiet = table(aligned=0.5).assign(arm="quiet").replace({"vo-rotation": "head-permutation"})
    quiet["contrast"] = quiet["contrast"].str.replace("other", "quiet")
    lines = verdict(pd.concat([rows, quiet]), "base", ["other", "quiet"])
    assert sum("had vo-rotation" in line for line in lines) == 1
    (line,) = (line for line in lines if "arm 'quiet'" in line)
    assert "head-permutation" in line


def test_missing_pairs_are_said_to_be_missing() -> None:
    rest = table()
    alone = rest[rest["contrast"] != "base x base"]
    found = " ".join(verdict(alone, "base", ["other"]))
    assert "no two base runs" in found
    assert "are missing" in found


def test_what_relabels_nothing_is_not_said_to_be_mixed_or_wrongly_aligned() -> None:
    lines = verdict(table().replace({"vo-rotation": "vo-scaling + neuron-scaling"}), "base", ["other"])
    said = " ".join(line for line in lines if "vo-scaling" in line or "units of base" in line)
    assert "nothing was relabelled" in said
    assert "rounding alone gives 0.430" in said
    assert "is 0.000 as stored and 0.200 in the units of base; between two base runs it is 0.300" in said
    assert not {word for word in ("permuted or mixed", "wrong element", "undone") if word in " ".join(lines)}
    mixed = verdict(table().replace({"vo-rotation": "vo-scaling + head-permutation"}), "base", ["other"])
    assert "permuted or mixed" in " ".join(mixed)


TREATMENTS = st.sampled_from(
    [
        *("vo-rotation", "vo-rotation:method=path,strength=0.3", "vo-rotation:method=signed-permutation"),
        *("qk-rotation", "head-permutation", "neuron-permutation:signs=true", "residual-rotation"),
        *("vo-scaling", "vo-scaling:per=head", "qk-scaling:per=tensor", "neuron-scaling:k=2"),
    ]
)


def left(chosen: list[str], optimizer: str = "adamw") -> set[frozenset[str]]:
    return set(inseparable([one for text in chosen for one, _ in requests([text])], optimizer))


@given(st.lists(TREATMENTS, max_size=4), TREATMENTS, st.sampled_from(["adamw", "sgd", "muon"]))
def test_a_further_arm_never_makes_less_apart(chosen: list[str], more: str, optimizer: str) -> None:
    before, after = left(chosen, optimizer), left([*chosen, more], optimizer)
    assert all(any(group <= other for other in before) for group in after)
    assert left([more, *chosen], optimizer) == after


@pytest.mark.parametrize(
    ("chosen", "optimizer", "together"),
    [
        ([], "adamw", [set(CAUSES)]),
        (["head-permutation", "vo-rotation:method=signed-permutation"], "adamw", [set(CAUSES)]),
        (["vo-rotation", "head-permutation"], "adamw", [{"optimizer", "magnitude", "geometry"}]),
        (["vo-rotation"], "sgd", [set(CAUSES)]),
        (["vo-scaling:per=tensor"], "adamw", [{"magnitude", "function", "optimizer", "geometry"}]),
        (["vo-scaling"], "adamw", [{"function", "optimizer"}]),
        (["vo-scaling", "vo-rotation"], "adamw", []),
    ],
)
def test_what_the_interventions_tell_apart(
    chosen: list[str], optimizer: str, together: list[set[str]]
) -> None:
    assert left(chosen, optimizer) == {frozenset(group) for group in together}
