"""Refusals of the commands that measure."""

from __future__ import annotations

from scramble.errors import CheckpointError, ManifestError, MismatchError, SelectionError, TargetError
from tests.refusals.harness import Refusal, Usage, always
from tests.refusals.world import FIRST, SECOND

ONE = "diff", "spectra", "principal", "curvature"
TEXT = {"curvature": " --prompts text.txt", "gates": " --prompts text.txt"}
NOWHERE = (CheckpointError, ("nowhere",))
OTHER = (CheckpointError, ("notes", "config.json"))
NAMES = (*ONE, "overlap", "consensus", "rates", "gates")


def line(name: str, more: str = "") -> str:
    """A call that would measure, but for what is added."""
    runs = FIRST if name in ONE else f"{FIRST} {SECOND}"
    return f"{name} {runs} --quiet{TEXT.get(name, '')} {more}".strip()


COMMON = {
    "a level that is none": ("--by head", SelectionError, "--by head"),
    "a layer too many": ("--layers 7", SelectionError, "outside this model's layers 0 to 1"),
    "a module that is not there": ("--modules q", SelectionError, "'q' here"),
    "a figure of another kind": ("--plot f.pdf", TargetError, ".svg or .png"),
    "a figure nowhere": ("--plot no/f.svg", TargetError, "does not exist"),
    "a table of another kind": ("--table x.txt", TargetError, "x.txt"),
    "a table nowhere": ("--table no/x.csv", TargetError, "no"),
}
OPTIONS = {
    "overlap": {
        "frame": ("--frame sideways", SelectionError, "--frame sideways"),
        "nothing to align": ("--frame aligned", ManifestError, "scramble.json"),
        "placebos": ("--placebos -1", Usage, "'--placebos'"),
    },
    "consensus": {
        "frame": ("--frame both", SelectionError, "raw or aligned"),
        "nothing to align": ("--frame aligned", ManifestError, "no START carries a scramble.json"),
        "masks nowhere": ("--write no/m.safetensors", TargetError, "does not exist"),
    },
    "rates": {
        "values of another kind": ("--values values.json", TargetError, "written as .csv"),
        "values nowhere": ("--values no/values.csv", TargetError, "a folder that exists"),
    },
    "spectra": {"rank": ("--rank 0", Usage, "'--rank'"), "values": ("--values no/v.csv", TargetError, "no")},
    "principal": {
        "alpha": ("--alpha 1.5", SelectionError, "alpha 1.5"),
        "alpha that is no number": ("--alpha nan", SelectionError, "alpha nan"),
        "sweep": ("--sweep 0.1,half", SelectionError, "--sweep 0.1,half"),
        "mask": ("--mask best", SelectionError, "--mask best"),
        "masks of a sweep": ("--sweep 0.1,0.2 --write m.safetensors", SelectionError, "one --alpha"),
    },
    "curvature": {
        "alpha": ("--alpha 1.5", SelectionError, "alpha 1.5"),
        "block": ("--block-layers 7", SelectionError, "--block-layers 7: '7' is outside"),
        "block not chosen": ("--layers 1 --block-layers 0", SelectionError, "no matrix of layer 0 is chosen"),
        "labels": ("--labels drawn", Usage, "'--labels'"),
    },
    "gates": {"dtype": ("--dtype float16", Usage, "'--dtype'")},
}
PROMPTS = {
    "no prompts": ("", SelectionError, "--prompts FILE is needed"),
    "prompts that are not there": ("--prompts no.txt", SelectionError, "no.txt: cannot be read"),
    "device": ("--prompts text.txt --device nowhere", SelectionError, "--device nowhere: not here"),
}
PAIRS = {
    "no pair": ("diff nothing", SelectionError, "START:END"),
    "a run without its hash": ("diff runs-out/grpo", SelectionError, "is it runs-out/grpo-seed1?"),
    "no start": ("diff :model", SelectionError, "START:END"),
    "no end": ("diff model:", SelectionError, "START:END"),
    "three ends": ("diff model:end:end2", SelectionError, "START:END"),
    "another depth": ("diff model:short", MismatchError, "is in only one of"),
    "another width": ("diff model:other", MismatchError, "has shape"),
    "one run of two": (f"overlap {FIRST}", SelectionError, "two runs or more"),
    "a run twice": (f"overlap {FIRST} {FIRST}", SelectionError, "list every run once"),
    "another model": (f"overlap {FIRST} other:other", MismatchError, "has shape"),
    "one run for a map": (f"consensus {FIRST}", SelectionError, "two runs or more"),
    "a run twice in a map": (f"consensus {FIRST} {FIRST}", SelectionError, "every run once"),
    "no run": ("rates", SelectionError, "takes a run folder"),
    "two starts": (f"rates {FIRST} end:end2", SelectionError, "with one START"),
    "an end twice": (f"rates {FIRST} {FIRST}", SelectionError, "every run once"),
    "one checkpoint to correlate": (f"rates {FIRST} --correlate", SelectionError, "two checkpoints or more"),
    "a run twice through gates": (
        f"gates {FIRST} {FIRST} --prompts text.txt",
        SelectionError,
        "list every run once",
    ),
    "a rotation of a bf16 end": (f"overlap {FIRST} start:moved", ManifestError, "needs a float32 end"),
    "a base that is none": (
        f"overlap {FIRST} start:moved --base end",
        ManifestError,
        "not the checkpoint that was scrambled",
    ),
}


REFUSALS = [
    *(
        refusal
        for name in NAMES
        for refusal in always(
            f"{name} model:{{}}{' ' + SECOND if name not in ONE else ''}{TEXT.get(name, '')}", NOWHERE, OTHER
        )
    ),
    *(
        Refusal(what, line(name, more), error, (says,))
        for name in NAMES
        for what, (more, error, says) in (COMMON | OPTIONS.get(name, {})).items()
    ),
    *(
        Refusal(what, f"{name} {FIRST} --quiet {more}".strip(), error, (says,))
        for name in TEXT
        for what, (more, error, says) in PROMPTS.items()
    ),
    *(Refusal(what, asked, error, (says,)) for what, (asked, error, says) in PAIRS.items()),
]
