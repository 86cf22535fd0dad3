"""The result of a parser: values for some of the form's fields, not converted yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answers:
    """Values by field key. `every_field`: also fields without one are processed; `surplus`: there were too many."""

    values: Mapping[str, object] = field(default_factory=dict)
    every_field: bool = False
    surplus: bool = False
