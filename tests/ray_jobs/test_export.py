"""`paramcrop export` as a command; what it writes is tested in tests/export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from paramcrop.errors import ConfigError, DataError
from ray_jobs.export import main, parse_arguments
from tests.wheel import ROOT


def test_the_command_writes_the_files_and_says_how_to_load_them(tiny_run: Path, tmp_path: Path) -> None:
    script, out = str(ROOT / "ray_jobs" / "export.py"), tmp_path / "out"
    command = [sys.executable, script, "--run", str(tiny_run), "--out", str(out)]
    done = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and "epoch 2" in done.stdout and not out.exists(), done.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert f'load it: paramcrop.load("{out}")' in done.stdout and str(out / "config.json") in done.stdout


def test_an_older_onnx_file_is_said_to_be_one(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_text("")
    main(["--run", str(tiny_run), "--out", str(tmp_path), "--epoch", "1"])
    assert "model.onnx is of an earlier export; --onnx writes it anew" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--out", "x", "--license", "Apache 2"),
            "--license must be an identifier such as apache-2.0, but is 'Apache 2'",
        ),
        (("--out", "hf://name"), "--out must be a folder or hf://OWNER/NAME, but is 'hf://name'"),
        (("--out", "s3://b/x"), "--out must be a folder or hf://OWNER/NAME, but is 's3://b/x'"),
        (("--out", "x", "--private"), "--private needs --out hf://OWNER/NAME"),
        ((), "--out; --help lists all options"),
    ],
)
def test_wrong_options_are_one_line(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(["--run", "RUN", *options])
    assert message in str(caught.value)


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--run must be the folder of a run, but neither .*absent nor .* is one"):
        main(["--run", str(tmp_path / "absent"), "--out", str(tmp_path / "out")])
