"""What the commands refuse, or warn of, in one line and before Ray starts; called in this process."""

from __future__ import annotations

from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch

from paramcrop.cli import dispatch, run_command
from paramcrop.data.synthetic import videos
from paramcrop.errors import ConfigError, ParamCropError
from paramcrop.settings.presets import load_config
from paramcrop.settings.yaml_text import read_yaml
from paramcrop.sweeps.space import MOST_CELLS, Space
from ray_jobs.evaluate.options import parse_arguments as evaluate_arguments
from ray_jobs.options import parse_sets


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, which is also the current folder; Ray is not to start."""
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.init", None)
    return tmp_path


def refused(*line: str) -> str:
    with pytest.raises(ParamCropError) as raised:
        dispatch(line)
    assert raised.value.exit_code == 2 and "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.global_batch=1000000000", "train.global_batch: must be less than or equal to 1048576, but is 10000000"),
        ("optim.lr=1e300", "optim.lr must be at most 3.4e+38, the largest float32, but is 1e+300"),
        ("cropper.lr=1e300", "cropper.lr must be at most 3.4e+38, the largest float32, but is 1e+300"),
        ("seed=99999999999999999999999", "seed: must be less than or equal to 9223372036854775807, but is 9999999"),
        ("backbone.kwargs={a: 1, a: 2}", "backbone.kwargs: every key must be given once, but line 1 repeats the key a"),
    ],
)
def test_numbers_that_no_run_can_use(setting: str, message: str) -> None:
    assert message in refused("pretrain", "--dry-run", setting)


def test_the_scaled_rate_counts_and_the_largest_seed_works() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr scaled by views/256 must be at most"):
        load_config(None, None, ["optim.lr=1e38", "optim.lr_scale=views/256"])
    torch.manual_seed(load_config(None, None, ["seed=9223372036854775807"]).seed)


def test_a_model_of_impossible_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: object) -> None:
        raise RuntimeError("Storage size calculation overflowed with sizes=[2000000000, 2000000000]")

    monkeypatch.setattr("paramcrop.training.model_size.model_size", overflow)
    message = refused("pretrain", "--dry-run", "projector.hidden=100000000000")
    assert message.startswith("a model must fit in memory, but") and "projector.hidden=100000000000" in message


@pytest.mark.parametrize(
    ("setting", "warning"),
    [
        ("data.labels=.5", "data.labels=0.5 has no effect, because method=simclr learns from no labels"),
        ("optim.warmup_epochs=31", "optim.warmup_epochs=31 is longer than the run, 248 of 240 steps"),
    ],
)
def test_settings_that_do_nothing_are_warned_of(
    setting: str, warning: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatch(["pretrain", "--dry-run", setting])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1 and warning in lines[0] and list(home.iterdir()) == []


def test_a_key_stands_once_in_settings_and_spaces(home: Path) -> None:
    (home / "twice.yaml").write_text("train: {epochs: 1}\noptim: {lr: 1}\ntrain: {epochs: 2}\n")
    message = "--config must have every key once, but in twice.yaml line 3 repeats the key train of line 1"
    assert refused("pretrain", "--dry-run", "--config", "twice.yaml") == message
    (home / "space.yaml").write_text("question: Which?\nparams:\n  optim.lr: [1]\n  optim.lr: [2]\n")
    message = refused("sweep", "--dry-run", "--space", "space.yaml")
    assert message.endswith("space.yaml line 4 repeats the key optim.lr of line 3")
    several = "a: {b: 1}\nc: {b: 2}\nd: [{b: 3}, {b: 4}]"
    assert read_yaml(several) == {"a": {"b": 1}, "c": {"b": 2}, "d": [{"b": 3}, {"b": 4}]}
    assert read_yaml("a: &x {b: 1}\nc: {<<: *x, b: 2}")["c"] == {"b": 2} and read_yaml("") is None


@pytest.mark.parametrize("command", ["pretrain", "sweep"])
def test_a_cluster_without_a_dry_run_is_refused(command: str) -> None:
    assert refused(command, "--cluster", "aws").startswith("--cluster aws needs --dry-run")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_limit_is_a_number_above_0_everywhere(seconds: str) -> None:
    prepare = ("prepare", "--dataset", "folder", "--videos", ".", "--out", "out")
    number = {"nan": ".nan", "inf": ".inf"}.get(seconds, seconds)  # as YAML has it
    for line in (("evaluate",), ("sweep",), prepare):
        assert refused(*line, f"--timeout={seconds}") == f"--timeout must be above 0, but is {float(seconds)}"
    assert "data.decode_timeout: must be" in refused("pretrain", f"data.decode_timeout={number}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate --evaluators 0", "--evaluators must be above 0, but is 0"),
        ("evaluate --seeds -1", "--seeds must be whole numbers from 0 to 9223372036854775807, but one is -1"),
        ("evaluate --task knn --task knn", "--task must name each once, but names 'knn' twice"),
        ("evaluate --data a=b --data a=c", "--data must name each dataset once, but names 'a' twice"),
        ("sweep --concurrent 0", "--concurrent must be above 0, but is 0"),
        ("sweep --trials-per-gpu 0", "--trials-per-gpu must be auto or a whole number above 0, but is '0'"),
        ("sweep --trials-per-gpu many", "--trials-per-gpu must be auto or a whole number above 0, but is 'many'"),
        ("sweep --trials-per-gpu 1.5", "--trials-per-gpu must be auto or a whole number above 0, but is '1.5'"),
        ("sweep --trials-per-gpu 2", "--trials-per-gpu 2 needs GPUs, but the trials train on CPUs; --concurrent"),
        ("sweep --seeds -1", "--seeds must be whole numbers from 0 to 9223372036854775807, but one is -1"),
        ("sweep --seeds 1,1", "--seeds must name each once, but names '1' twice"),
        ("sweep --samples 3", "--samples needs a space with search=random or tpe, but es_bounds is a grid"),
        ("sweep cropper.lower=.1", "cropper.lower cannot be set for all trials, because es_bounds sweeps it"),
        ("sweep cropper.upper=.1", "cropper.upper cannot be set for all trials, because es_bounds sweeps it"),
        (
            "sweep --space table1 policy=none",
            "policy cannot be set for all trials, because row 'Random' of table1 sets",
        ),
        ("sweep seed=3", "seed cannot be set for all trials; --seeds 0,1,2 lists their seeds"),
    ],
)
def test_options_that_would_be_ignored(line: str, message: str, tiny_run: Path, labelled: str) -> None:
    command, *options = line.split()
    run = ["--run", str(tiny_run)] if command == "evaluate" else []
    data = ["--data", f"set={labelled}"] if "--seeds" in options and run else []
    assert refused(command, *run, *data, *options, "--dry-run").startswith(message)


def test_repeated_options_add_and_a_run_counts_once(tiny_run: Path) -> None:
    found = evaluate_arguments(["--data", "a=1", "--data", "b=2", "c=3", "--task", "knn", "--task", "heads"], "")
    assert list(parse_sets(found.data)) == ["a", "b", "c"] and found.task == ["knn", "heads"]
    assert refused("evaluate", "--run", str(tiny_run), "--run", f"{tiny_run}/").startswith("--run must name each once")


def test_a_grid_is_counted_before_it_is_expanded() -> None:
    lists = {"optim.lr": [*range(1, 10**4)], "cropper.lr": [*range(1, 10**4)], "augment.flip": [0.1, 0.2]}
    with pytest.raises(
        ValueError, match=rf"at most {MOST_CELLS} cells, but params has 9999 x 9999 x 2 = 199960002; sh"
    ):
        Space.model_validate({"question": "Which?", "params": lists})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"set": {"optim.lr": 1}}, "a swept setting must not be fixed as well, but optim.lr is"),
        ({"set": {"seed": 1}}, "seeds lists the seeds of all trials, so seed must not be set"),
        ({"seeds": [1, 1]}, r"seeds must differ, but are \[1, 1\]"),
    ],
)
def test_a_space_whose_setting_would_be_ignored(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Space.model_validate({"question": "Which?", "params": {"optim.lr": [1, 2]}} | fields)


def test_an_objective_without_such_a_metric(home: Path) -> None:
    text = "question: Which?\nparams: {optim.lr: [1, 2]}\nobjective: {metric: validation video@1}\n"
    (home / "space.yaml").write_text(text)
    message = "objective.metric: validation has the metrics R@1, R@5, R@10, R@20, but not 'video@1'"
    assert refused("sweep", "--dry-run", "--space", "space.yaml") == message


def test_a_table_without_lines_and_an_out_that_is_a_file(home: Path) -> None:
    (home / "table.csv").write_text("file,class\n")
    (home / "videos").mkdir()
    (home / "videos" / "a.mp4").write_bytes(b"")
    line = ("prepare", "--dataset", "folder", "--videos", "videos")
    message = refused(*line, "--annotations", "table.csv", "--out", "out")
    assert message.endswith("table.csv must list videos, but has no line besides the header")
    (home / "file").touch()
    for more in ((), ("--fresh",)):
        message = f"--out must be a folder, but {home}/file is a file; choose another"
        assert refused(*line, "--out", "file", *more) == message


def test_what_prepare_warns_of_and_refuses_in_its_folders(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "videos" / "below").mkdir(parents=True)
    for video in videos(3, 8, 16, 16):
        (home / "videos" / f"{video.id}.mp4").write_bytes(video.video)
    names = sorted(file.name for file in (home / "videos").glob("*.mp4"))
    (home / "table.csv").write_text(f"file,class\n{names[0]},up\n{names[1]},\n{names[2]},\n")
    (home / "out").mkdir()
    (home / "out" / "thesis.txt").touch()
    line = ("prepare", "--dataset", "folder", "--videos", "videos", "--annotations", "table.csv", "--out", "out")
    dispatch([*line, "--dry-run"])
    warnings = [text for text in capsys.readouterr().out.splitlines() if text.startswith("warning")]
    assert warnings == [
        "warning: 2 videos have no class: they can be pretrained on, but not evaluated on",
        f"warning: --out={home}/out also has 1 other file(s) or folder(s), such as thesis.txt; they are left alone",
    ]
    (home / "videos" / "below" / "again").symlink_to(home / "videos", target_is_directory=True)
    (home / "videos" / "elsewhere").symlink_to(home / "out", target_is_directory=True)  # no loop
    expected = f"a link to a folder around it, but {home}/videos/below/again is one; remove it"
    assert refused(*line, "--dry-run").endswith(expected)


def test_a_home_that_is_a_file(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "home").touch()
    monkeypatch.setattr("sys.argv", ["paramcrop", "pretrain"])
    with pytest.raises(SystemExit):
        run_command(dispatch)
    assert (
        capsys.readouterr().err == f"error: cannot write {home}/home/data: Not a directory; choose a writable folder\n"
    )


def test_a_terminal_of_ascii_gets_what_it_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    run_command(lambda argv: print("± 1 …"))
    stream.flush()
    assert stream.buffer.getvalue() == b"? 1 ?\n"
