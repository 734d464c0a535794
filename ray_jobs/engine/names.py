"""A private name of Ray: where it is, whether this Ray has it, and what its absence costs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from inspect import isfunction
from typing import Any

_reported: set[str] = set()


@dataclass(frozen=True)
class Name:
    """A private name of Ray: an object of a module, or an attribute that a class in the module sets.

    Attributes:
        module, name, attribute: where it is; ``attribute`` is empty for an object of a module.
        cost: what happens without it.
    """

    module: str
    name: str
    attribute: str
    cost: str

    def find(self) -> Any | None:
        """The module's object with this name, or None if it is absent."""
        try:
            return getattr(import_module(self.module), self.name, None)
        except ImportError:
            return None

    def is_there(self) -> bool:
        """Whether the object exists and, for an attribute, whether the class's code mentions it.

        The code is inspected because there is no instance yet.
        """
        found = self.find()
        if found is None or not self.attribute:
            return found is not None
        codes = [function.__code__ for function in vars(found).values() if isfunction(function)]
        return any(self.attribute in code.co_names + code.co_varnames for code in codes)

    def report(self) -> None:
        """Print once per process that the name is absent."""
        full = ".".join(part for part in (self.module, self.name, self.attribute) if part)
        if full not in _reported:
            _reported.add(full)
            print(f"note: Ray {version('ray')} has no {full}: {self.cost}", file=sys.stderr)


def check(names: tuple[Name, ...]) -> None:
    """Report the absent ones."""
    for name in names:
        if not name.is_there():
            name.report()
