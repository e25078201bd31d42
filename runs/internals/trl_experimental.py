"""What TRL calls experimental, and what it is needed for: `cpo`, whose loss of type `simpo` is SimPO.

A module of its own, since importing it warns of that. Methods that are overridden stand in
`scramble.runs.internals.trl`.
"""

from __future__ import annotations

from trl.experimental.cpo import CPOConfig, CPOTrainer

__all__ = ["CPOConfig", "CPOTrainer"]
