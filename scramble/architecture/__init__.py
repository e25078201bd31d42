"""What a family is: named axes, the table of its tensors, and what sits on the axes."""

from scramble.architecture.family import Architecture, Config, Constraint, Family, Role, Table

__all__ = ["Architecture", "Config", "Constraint", "Family", "Role", "Table"]
