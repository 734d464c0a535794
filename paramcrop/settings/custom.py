"""Backbones and policies outside this package, by name: ``module:Class``, as in ``my_net:Net``. Imports no torch.

Python finds the module as for a script: in the current folder first (the commands see to that), then on its path. The
run's id contains the name and a hash of the module's file, so an edited file makes another run, and a moved file does
not. Modules that this file imports are not hashed.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from paramcrop.errors import ConfigError
from paramcrop.settings.digest import text_hash

FORM = "module:Class"
NAME = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*:[A-Za-z_]\w*")
DIGITS = 12  # of a hash


def is_custom(name: str) -> bool:
    """Whether ``backbone.name`` or ``policy`` names a class outside this package."""
    return ":" in name


def source_of(setting: str, name: str) -> str:
    """A hash of the text of the module's file, 12 hex digits. Imports the parent packages, but not the module.

    Args:
        setting: "backbone.name" or "policy", for the error.

    Raises:
        ConfigError: there is no such module, or it has no file.
    """
    module = name.partition(":")[0]
    importlib.invalidate_caches()
    expected = f"{setting}={name}: the module {module} must be in the current folder or on Python's path"
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{expected}, but {error}") from None
    except Exception as error:  # importing a parent package runs its code
        raise ConfigError(f"{expected}, but its package raises {type(error).__name__}: {error}") from None
    if spec is None:
        raise ConfigError(f"{expected}, but is not")
    if not spec.has_location or spec.origin is None:
        raise ConfigError(f"{expected} as a file, but is a folder without __init__.py or a part of Python")
    return hash_file(Path(spec.origin))


def hash_file(path: Path) -> str:
    """12 hex digits of a file's text; line endings do not count."""
    return text_hash(path.read_text(encoding="latin-1"), DIGITS)  # any byte is a character
