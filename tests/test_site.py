"""The pages of docs/ against the code: those made from it, and those that name what is in it."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import paramcrop
from paramcrop.cli import COMMANDS
from paramcrop.evaluation.protocols import PROTOCOLS, Protocol, parameters
from paramcrop.paper.tables import read_paper
from paramcrop.settings.presets import all_options, preset_names
from paramcrop.storage.runs import read_metrics
from site_pages import pages
from site_pages.api import api_page
from site_pages.paper import cost_rows
from site_pages.protocols import KINDS
from site_pages.settings import is_unstated, unstated_page
from site_pages.spaces import INTERNAL, models
from tests.blocks import blocks
from tests.wheel import ROOT

# The generated pages hold all that the code has.


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return pages()


def test_every_setting_preset_protocol_key_and_command_is_on_its_page(generated: dict[str, str]) -> None:
    settings, protocols = generated["reference/settings.md"], generated["reference/protocols.md"]
    assert [key for key, _ in all_options() if f"| `{key}` |" not in settings] == []
    assert [name for name in preset_names() if f"\n## {name}\n" not in generated["reference/presets.md"]] == []
    assert [name for name in PROTOCOLS if f"`{name}`" not in protocols] == []
    assert {protocol.kind for protocol in PROTOCOLS.values()} == set(KINDS)
    used = {name for protocol in PROTOCOLS.values() for name in parameters(protocol)}
    assert used == set(Protocol.model_fields) - {"name", "version", "kind"}
    assert [number for number in used if f"| `{number}` |" not in protocols] == []
    keys = generated["reference/space-keys.md"]
    asked = {field.alias or key for model in models().values() for key, field in model.model_fields.items()}
    assert [key for key in sorted(asked - {*INTERNAL}) if f"| `{key}` |" not in keys] == []
    assert [name for name in COMMANDS if f"usage: paramcrop {name}" not in generated["reference/commands.md"]] == []
    assert [name for name in paramcrop.__all__ if f"`{name}`" not in api_page()] == []


def test_the_cost_of_every_table_is_what_the_arithmetic_gives() -> None:
    paper = read_paper()
    assert paper is not None
    rows = {row[0]: row[1:] for row in cost_rows(paper)}
    assert list(rows) == [*(f"`{name}`" for name in paper.entries), "all, shared runs once", "all, one seed"]
    assert rows["`table1`"] == ["18", "16", "55", "1056", "0.4"]
    views = 18 * 20 * 240_000 * 2  # all with S3D-G, at 2,928 a second
    assert float(rows["`table1`"][1]) == pytest.approx(views / 2928 / 3600, abs=0.5)
    assert rows["all, shared runs once"] == ["117", "140", "461", "8905", "3.1"]
    assert rows["all, one seed"] == ["39", "47", "154", "2968", "1.0"]


def test_every_setting_that_the_paper_leaves_open_is_listed() -> None:
    listed = re.findall(r"^\| `([a-z_.]+)` \|", unstated_page(), re.M)
    fields = [*all_options(), *Protocol.model_fields.items()]
    assert listed == [name for name, field in fields if is_unstated(field)]
    evaluation = {"frames", "stride", "size", "box", "test_clips", "epochs", "warmup", "dropout", "train_box", "jitter"}
    assert {"cropper.lr", *evaluation} <= set(listed) and len(listed) == 41


# The pages that are written by hand name what is there.


def test_each_equation_is_where_the_page_says() -> None:
    text = (ROOT / "docs" / "paper" / "equations.md").read_text()
    rows = re.findall(r"^\| (Eq\. \d|[^|]+)[^|]*\|[^|]+\| (.*) \|$", text, re.M)
    for equation, code in rows:
        for home, name in re.findall(r"#(paramcrop\.[\w.]+)\.(\w+)\)", code):
            found = getattr(import_module(home), name)
            assert not equation.startswith("Eq.") or equation in found.__doc__, name
    assert [n for n in range(1, 9) if f"Eq. {n}" not in text] == []


def test_every_room_and_module_of_the_engine_is_in_the_house() -> None:
    text = (ROOT / "docs" / "design" / "house.md").read_text()
    rooms = [path.parent.name for path in (ROOT / "paramcrop").glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room}/`" not in text] == []
    engine = [path.stem for path in (ROOT / "ray_jobs" / "engine").glob("*.py") if path.stem != "__init__"]
    assert [module for module in engine if f"`{module}`" not in text] == []


def test_every_file_and_metric_of_a_run_is_named(tiny_run: Path) -> None:
    text = (ROOT / "docs" / "reference" / "run-files.md").read_text()
    names = [path.name + "/" * path.is_dir() for path in tiny_run.iterdir()]
    assert [name for name in names if f"`{name}" not in text] == []
    metrics = {name for line in read_metrics(tiny_run) for name in line}
    parameters = {f"{name}_{view}" for name in ("s_p", "s_t", "theta", "dx", "dy", "dt") for view in (1, 2)}
    assert [name for name in sorted(metrics - parameters) if f"`{name}`" not in text] == []


# The errors are quoted as the code has them.


def constant_parts() -> list[str]:
    """Of every string in the code, the longest part that is the same in every message made from it."""
    found = []
    for path in (*(ROOT / "paramcrop").rglob("*.py"), *(ROOT / "ray_jobs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts = [part.value for part in node.values if isinstance(part, ast.Constant)]
                found.append(max((str(text) for text in texts), key=len, default=""))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [text for text in found if len(text) >= 15 and " " in text.strip()]


def test_the_quoted_errors_are_the_codes() -> None:
    parts = constant_parts()
    quoted = [block.code.strip() for block in blocks(ROOT / "docs" / "questions.md")]
    assert len(quoted) >= 20
    assert [text for text in quoted if not any(part in text for part in parts)] == []
