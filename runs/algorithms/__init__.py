"""Algorithms of training as values of a recipe: one file a family. Only `build` imports TRL."""

from scramble.runs.algorithms.algorithm import Job, Row
from scramble.runs.algorithms.grpo import Dapo, DrGrpo, Grpo
from scramble.runs.algorithms.preference import Dpo, SimPo
from scramble.runs.algorithms.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from scramble.runs.algorithms.rejection import RejectionSft
from scramble.runs.algorithms.rloo import Rloo
from scramble.runs.algorithms.sft import Sft

Algorithm = (
    Grpo
    | DrGrpo
    | Dapo
    | Rloo
    | ReinforcePlusPlus
    | ReinforcePlusPlusBaseline
    | RejectionSft
    | Sft
    | Dpo
    | SimPo
)

__all__ = [
    "Algorithm",
    "Dapo",
    "Dpo",
    "DrGrpo",
    "Grpo",
    "Job",
    "ReinforcePlusPlus",
    "ReinforcePlusPlusBaseline",
    "RejectionSft",
    "Rloo",
    "Row",
    "Sft",
    "SimPo",
]
