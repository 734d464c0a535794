"""The device that a run trains on, before its id is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from paramcrop.errors import ConfigError, DataError
from paramcrop.evaluation.weights import read_config
from paramcrop.settings.identity import older_id, run_id
from paramcrop.settings.presets import load_config
from paramcrop.storage.runs import find_run, older_run, write_provenance
from ray_jobs import device
from ray_jobs.device import evaluators_device, find_device
from ray_jobs.engine import connect, ray_private
from ray_jobs.engine.plans.plan import Node, device_of
from ray_jobs.evaluate.command import age_note


def test_gpus_are_used_if_there_is_one_for_each_worker() -> None:
    nodes = [Node(8, 1), Node(8, 1)]
    assert [device_of(nodes, workers) for workers in (1, 2, 3)] == ["cuda", "cuda", "cpu"]
    assert device_of(nodes, 1, "cpu") == "cpu" and device_of([Node(8)], 1, "cuda") == "cuda"


def test_a_running_cluster_is_asked_and_without_one_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    config, connected = load_config("demo"), list[bool]()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(device, "DRIVERS", ("null",))
    monkeypatch.setattr(connect, "connect", lambda *arguments, **named: connected.append(True))
    monkeypatch.setattr(connect, "cluster_nodes", lambda: [Node(4)])
    monkeypatch.setattr(ray_private, "joins_cluster", lambda: False)
    assert find_device(config) == "cuda" and not connected
    monkeypatch.setattr(device, "DRIVERS", ("no-such-device",))
    assert find_device(config) == "cpu" and not connected
    monkeypatch.setattr(ray_private, "joins_cluster", lambda: True)
    assert find_device(config) == "cpu" and connected
    assert find_device(config.on("cuda")) == "cuda" and len(connected) == 1


def test_cpus_do_not_train_in_bfloat16() -> None:
    """A run with two threads had a loss of nan at its second step."""
    config = load_config("demo", None, ["train.precision=bfloat16"])
    assert find_device(config.on("cuda")) == "cuda"
    with pytest.raises(ConfigError, match=r"train\.precision=bfloat16 needs GPUs"):
        find_device(config.on("cpu"))


def test_the_nodes_of_a_launch_file_count_in_a_dry_run(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text(yaml.safe_dump([{"cpus": 16, "gpus": 1}]))
    assert find_device(load_config("demo"), str(nodes)) == "cuda"


def test_a_cluster_is_joined_where_ray_init_would(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, joined in (("local", False), ("127.0.0.1:6379", True), ("nonsense", True)):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert ray_private.joins_cluster() == joined


def test_a_run_of_version_1_is_found_and_said_to_be_one(tmp_path: Path) -> None:
    config = load_config("demo", None, [f"run.storage={tmp_path}"]).on("cpu")
    assert older_run(config, "data") is None
    old = tmp_path / f"demo-{older_id(config, 'data')}"
    old.mkdir()
    write_provenance(old, config, "data")
    assert age_note(old) == ""
    facts = (old / "provenance.json").read_text().replace('"method_version": 2', '"method_version": 1')
    (old / "provenance.json").write_text(facts)
    assert older_run(config, "data") == old and find_run(config, "data").folder.name == f"demo-{run_id(config, 'data')}"
    assert "was trained with version 1 of the method, and this is version 2" in age_note(old)


def test_a_run_of_version_1_is_read_as_what_it_did(tmp_path: Path) -> None:
    """Its settings lack those that came later; today's defaults would give it a batch norm that it never had."""
    write_provenance(tmp_path, load_config("demo").on("cpu"), "data")
    file = tmp_path / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    del settings["projector"]["final_batch_norm"], settings["cropper"]["clip_norm"]
    file.write_text(yaml.safe_dump(settings))
    config = read_config(tmp_path)
    assert (config.projector.final_batch_norm, config.cropper.clip_norm) == (False, None)
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(DataError, match=r"provenance\.json must say what a run is of, but is damaged"):
        age_note(tmp_path)


def test_evaluators_compute_where_the_cluster_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_private, "joins_cluster", lambda: True)
    monkeypatch.setattr(connect, "connect", lambda *arguments, **named: None)
    for nodes, expected in (([Node(4)], "cpu"), ([Node(4), Node(4, 1)], "cuda")):
        monkeypatch.setattr(connect, "cluster_nodes", lambda nodes=nodes: nodes)
        assert evaluators_device("auto") == expected and evaluators_device("cpu") == "cpu"
