"""The keys of a space file, and the spaces that are shipped."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from paramcrop.paper.tables import FILE as PAPER
from paramcrop.settings.explain import show
from paramcrop.sweeps.space import FOLDER, Space, read_space
from site_pages.markdown import meaning, table

INTERNAL = ("layout", "extra_seeds")  # filled by the program, written by nobody


def space_keys_page() -> str:
    """Every key, model by model."""
    text = "# Keys of a space file\n\n[Space files](space-files.md) has an example of each form.\n"
    for name, model in models().items():
        about = (model.__doc__ or "").strip().splitlines()[0]
        rows = [[f"`{f.alias or key}`", _default(f), _meaning(f)] for key, f in _fields(model).items()]
        text += f"\n## {name or 'The file'}\n\n{about}\n\n" + table(["Key", "Default", "Meaning"], rows)
    shipped = [[f"`{path.stem}`", read_space(path).question] for path in sorted(FOLDER.glob("*.yaml")) if path != PAPER]
    return text + "\n## Shipped spaces\n\n" + table(["`--space`", "Question"], shipped)


def models(name: str = "", model: type[BaseModel] = Space) -> dict[str, type[BaseModel]]:
    """Key -> the model of what it holds, the outer one first, each once."""
    found = {name: model}
    for key, field in _fields(model).items():
        for inner in _inner(field):
            if inner not in found.values():
                found |= {k: v for k, v in models(key, inner).items() if v not in found.values()}
    return found


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {key: field for key, field in model.model_fields.items() if key not in INTERNAL}


def _inner(field: FieldInfo) -> list[type[BaseModel]]:
    kinds = (field.annotation, *get_args(field.annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _meaning(field: FieldInfo) -> str:
    keys = [f"[its keys](#{name})" for kind in _inner(field) for name, model in models().items() if model is kind]
    return "; ".join(filter(None, (meaning(field), *keys)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    models = isinstance(value, BaseModel) or (isinstance(value, tuple) and any(isinstance(v, BaseModel) for v in value))
    return "" if models or value in ({}, (), "") else f"`{show(value)}`"
