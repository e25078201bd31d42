"""Runs of different packages or hardware are named; runs that were made alike are not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scramble.runrecord import RunRecord
from scramble.runs.records.toolchains import mixed

NAMES = st.sampled_from(["torch", "numpy", "trl"])
VERSIONS = st.dictionaries(NAMES, st.sampled_from(["1.0", "1.0rc1", "2.0"]), min_size=1)
HARDWARE = st.fixed_dictionaries({"gpu": st.sampled_from([None, "H100"]), "threads": st.integers(1, 2)})


def record(versions: dict[str, str], hardware: dict[str, str | int | None] | None = None) -> RunRecord:
    return RunRecord(status="running", versions=versions, hardware=hardware or {})


@given(st.lists(st.tuples(VERSIONS, HARDWARE), min_size=1, max_size=6))
def test_what_differs_is_named_and_nothing_else(
    made: list[tuple[dict[str, str], dict[str, int | None]]],
) -> None:
    said = mixed({f"run {at}": record(*one) for at, one in enumerate(made)})
    differing = {
        part
        for section in (0, 1)
        for part in {part for one in made for part in one[section]}
        if len({one[section].get(part) for one in made}) > 1
    }
    named = {clause.split()[0] for clause in said.split("; ")} if said else set()
    assert named == differing


def test_the_sentence_says_which_run_had_what() -> None:
    two = {"A": record({"torch": "2.8.0", "trl": "1"}), "B": record({"torch": "2.9.0", "trl": "1"})}
    assert mixed(two) == "torch 2.8.0 in A, 2.9.0 in B"
    gpu = {"A": record({}, {"gpu": None}), "B": record({}, {"gpu": None}), "C": record({}, {"gpu": "H100"})}
    assert mixed(gpu) == "gpu none in A and B, H100 in C"
    many = {str(at): record({"torch": "1"}) for at in range(6)} | {"last": record({"torch": "2"})}
    assert mixed(many) == "torch 1 in 0, 1, 2 and 3 more, 2 in last"


def test_a_record_that_does_not_say_is_not_compared() -> None:
    assert mixed({"old": record({}), "A": record({"torch": "2"})}) is None
    assert mixed({}) is None
