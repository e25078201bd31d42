"""Algorithms of training as values of a recipe: one file a family. Only `build` imports TRL."""

from runs.algorithms.algorithm import Job, Row
from runs.algorithms.grpo import Dapo, DrGrpo, Grpo
from runs.algorithms.preference import Dpo, SimPo
from runs.algorithms.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from runs.algorithms.rejection import RejectionSft
from runs.algorithms.rloo import Rloo
from runs.algorithms.sft import Sft

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
