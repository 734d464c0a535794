"""Classes outside the package: their names, and what a run's id has of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config
from paramcrop.settings.identity import identity, run_id
from paramcrop.settings.presets import describe_options, load_config

NET = "class Net: pass\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a backbone and a policy, from which Python imports."""
    (tmp_path / "one_net.py").write_text(NET)
    (tmp_path / "one_crop.py").write_text("class Crop: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    assert "one_net" not in sys.modules  # reading settings imports nothing of the user's


def of(*overrides: str) -> Config:
    return load_config(None, None, overrides)


def test_the_id_has_the_name_and_the_files_text(folder: Path) -> None:
    first = of("backbone.name=one_net:Net", "policy=one_crop:Crop")
    settings = identity(first, "data")["settings"]
    assert set(settings) == {"backbone.name", "backbone.source", "policy", "policy_source"}
    assert run_id(of("backbone.name=one_net:Other"), "data") != run_id(of("backbone.name=one_net:Net"), "data")
    for file in ("one_net.py", "one_crop.py"):
        (folder / file).write_text(f"{(folder / file).read_text()}# edited\n")
        edited = of("backbone.name=one_net:Net", "policy=one_crop:Crop")
        assert run_id(edited, "data") != run_id(first, "data")
        first = edited


def test_a_moved_file_is_the_same_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_id(of("backbone.name=one_net:Net"), "data")
    (folder / "elsewhere").mkdir()
    (folder / "one_net.py").unlink()
    (folder / "elsewhere" / "one_net.py").write_bytes(NET.replace("\n", "\r\n").encode())
    monkeypatch.syspath_prepend(folder / "elsewhere")
    assert run_id(of("backbone.name=one_net:Net"), "data") == before


def test_keyword_arguments_are_of_the_id_one_by_one_or_together(folder: Path) -> None:
    plain = of("backbone.name=one_net:Net", "policy=one_crop:Crop")
    given = of(
        "backbone.name=one_net:Net", "backbone.kwargs.width=8", "policy=one_crop:Crop", "policy_kwargs.a.b=[1,2]"
    )
    assert (given.backbone.kwargs, given.policy_kwargs) == ({"width": 8}, {"a": {"b": [1, 2]}})
    assert run_id(given, "data") != run_id(plain, "data")
    together = of("backbone.name=one_net:Net", "backbone.kwargs={width: 4}", "backbone.kwargs.width=8")
    assert together.backbone.kwargs == {"width": 8}


def test_a_config_with_own_classes_loads_again_as_it_was_when_its_file_is_gone(folder: Path) -> None:
    config = of("backbone.name=one_net:Net", "backbone.kwargs={a: {}}", "policy=one_crop:Crop", "policy_kwargs.b=null")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "one_net.py").unlink()
    assert load_config(None, file) == Config.model_validate(config.model_dump()) == config
    assert run_id(load_config(None, file), "data") == run_id(config, "data")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.name=absent_net:Net", "^backbone.name=absent_net:Net: the module absent_net must be in the current"),
        ("policy=absent_crop:Crop", "^policy=absent_crop:Crop: the module absent_crop must be in the current folder"),
        ("backbone.name=one_net.deeper:Net", "^backbone.name=one_net.deeper:Net: the module one_net.deeper must be"),
        ("backbone.name=broken_package.net:Net", "but its package raises SyntaxError: "),
        ("policy=sys:Crop", "^policy=sys:Crop: the module sys must be .* as a file, but is"),
        ("backbone.name=one_net.Net", r"^backbone.name must be one of r2d3d \| s3dg \| s3d \| module:Class, but is"),
        ("backbone.kwargs.width=8", "^backbone.kwargs needs backbone.name=module:Class, .* but backbone.name is r2d3d"),
        ("policy_kwargs.a=8", "^policy_kwargs needs policy=module:Class, a class of your own, but policy is paramcrop"),
        ("backbone.kwargs=8", "^backbone.kwargs: must be 'name: value' lines, but is 8"),
    ],
)
def test_mistakes_are_one_line(folder: Path, override: str, message: str) -> None:
    (folder / "broken_package").mkdir()
    (folder / "broken_package" / "__init__.py").write_text("def (")
    try:
        with pytest.raises(ConfigError, match=message) as caught:
            of(override)
    finally:
        sys.modules.pop("one_net", None)  # a module in the place of a package is imported
    assert "\n" not in str(caught.value)


def test_help_says_that_a_class_can_be_named() -> None:
    text = describe_options()
    assert "backbone.name=r2d3d (r2d3d | s3dg | s3d | module:Class)" in text
    assert "policy=paramcrop (paramcrop | random | simple | hard | manual | autoaugment | none | module:Class)" in text
