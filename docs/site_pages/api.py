"""The Python API, as mkdocstrings' directives."""

from __future__ import annotations

import paramcrop

MATHS = ("crops.geometry", "crops.paramcrop", "crops.resample", "crops.policies", "models.losses")  # shown whole


def api_page() -> str:
    homes = {name: f"paramcrop.{module}" for name, module in _modules().items()}
    listed = ", ".join(f"[`{name}`][{home}.{name}]" for name, home in homes.items())
    text = f"""# Python API

`from paramcrop import NAME` works for {listed}.

`import paramcrop` imports no torch: a name loads its module when it is first used.
"""
    for module in MATHS:
        text += _directive(f"paramcrop.{module}", 2)
    text += "\n## Other public names\n"
    for name, home in homes.items():
        if home not in {f"paramcrop.{module}" for module in MATHS}:
            text += _directive(f"{home}.{name}", 3)
    return text


def _modules() -> dict[str, str]:
    """Public name -> its module below paramcrop."""
    return {name: getattr(paramcrop, name).__module__.removeprefix("paramcrop.") for name in paramcrop.__all__}


def _directive(path: str, level: int) -> str:
    return f"\n::: {path}\n    options:\n      heading_level: {level}\n"
