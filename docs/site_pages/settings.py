"""Settings, presets, and what of them the paper does not state."""

from __future__ import annotations

from importlib import resources

from pydantic.fields import FieldInfo

from paramcrop.evaluation.protocols import Protocol
from paramcrop.settings.config import Config
from paramcrop.settings.explain import show
from paramcrop.settings.identity import flatten, where_fields
from paramcrop.settings.presets import all_options, load_config, preset_names
from site_pages.markdown import meaning, table

UNSTATED = "(not in the paper)"
WHERE = " :material-map-marker-outline:"  # a setting that is no part of a run's id


def settings_page() -> str:
    """Every setting, section by section."""
    text = f"""# Settings

Type a setting as `key=value` after `paramcrop pretrain` or `paramcrop sweep`, or write it in a YAML file for
`--config`. The defaults are the paper's; where the paper is silent, the meaning says so.

A setting marked{WHERE} says where or how fast a run is made, never what it computes. It is no part of the run's id and
may change when the run resumes.
"""
    sections: dict[str, list[list[str]]] = {}
    where = where_fields()
    for key, field in all_options():
        row = [f"`{key}`", f"`{show(field.default)}`", meaning(field, WHERE if key in where else "")]
        sections.setdefault(key.rpartition(".")[0], []).append(row)
    for name, rows in sections.items():
        about = Config.model_fields[name].annotation.__doc__ if name else "What is trained, and by which crops."
        text += f"\n## {name or 'Top level'}\n\n{about}\n\n" + table(["Setting", "Default", "Meaning"], rows)
    return text


def presets_page() -> str:
    """What each preset changes."""
    text = """# Presets

A preset is a difference from the defaults of the [settings](settings.md). `--preset NAME` comes first, then
`--config FILE`, then each `key=value`; the later one wins.
"""
    default = flatten(Config().model_dump(mode="json"))
    for name in preset_names():
        source = (resources.files("paramcrop.settings") / "presets" / f"{name}.yaml").read_text()
        about = " ".join(line.lstrip("# ") for line in source.splitlines()[1:] if line.startswith("#"))
        values = flatten(load_config(name).model_dump(mode="json"))
        rows = [[f"`{k}`", f"`{show(v)}`", f"`{show(default[k])}`"] for k, v in values.items() if v != default[k]]
        text += f"\n## {name}\n\n{about}\n\n" + table(["Setting", "Here", "Default"], rows)
    return text


def unstated_page() -> str:
    """What the paper gives no value of, by the notes beside the settings."""
    head = ["Setting", "Default", "Meaning"]
    return f"""# Settings that the paper does not state

The paper gives no value for these. Each has the likeliest one as its default, and each can be swept.
[Differences](differences.md) says why for those that matter.

## Pretraining

{table(head, (_row(key, field) for key, field in all_options() if is_unstated(field)))}
## Evaluation

{table(head, (_row(key, field) for key, field in Protocol.model_fields.items() if is_unstated(field)))}"""


def is_unstated(field: FieldInfo) -> bool:
    return "not in the paper" in (field.description or "")


def _row(key: str, field: FieldInfo) -> list[str]:
    return [f"`{key}`", f"`{show(field.default)}`", (field.description or "").replace(UNSTATED, "").strip()]
