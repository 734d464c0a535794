"""The paper's tables: all printed values, and the runs that fill the rows."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from paramcrop.paper.published import published
from paramcrop.paper.spaces import paper_space, preset_of, with_stand_in
from paramcrop.paper.tables import Paper
from paramcrop.report.paper_table import size_cells
from paramcrop.settings.identity import run_id
from paramcrop.settings.presets import load_config
from paramcrop.sweeps.space import Space, space_at
from paramcrop.sweeps.trials import config_of, grid, make_trial

K400 = "k400_simclr_s3dg"

# Table -> number of rows, cited ones included, and the printed values of the paper's own rows.
PRINTED: dict[str, tuple[int, list[tuple[float, ...]]]] = {
    "table1": (6, [(56.0, 85.3), (54.6, 85.3), (55.2, 85.5), (59.9, 86.9), (58.6, 86.6), (55.7, 86.2)]),
    "table2": (
        4,
        [(56.0, 33.5, 85.3, 57.9), (58.0, 37.2, 86.9, 58.5), (55.8, 29.5, 86.2, 48.6), (59.9, 37.3, 86.9, 59.3)],
    ),
    "table3": (3, [(56.0, 85.3), (56.0, 84.3), (59.9, 86.9)]),
    "table4": (2, [(59.9, 32.6, 87.0, 55.8), (59.9, 37.3, 86.9, 59.3)]),
    "table5": (
        8,
        [
            *((56.0, 85.3), (59.9, 86.9), (50.4, 77.2), (53.0, 79.4)),
            *((52.4, 84.1), (54.3, 85.1), (45.4, 72.8), (48.2, 73.8)),
        ],
    ),
    "table6": (2, [(13.9, 29.9), (14.4, 31.6)]),
    "table7": (4, [(56.0, 85.3), (57.7, 86.6), (59.9, 86.9), (58.4, 86.8)]),
    "table8": (
        8,
        [
            *((43.7, 71.9), (50.4, 77.2), (53.9, 80.6), (52.5, 84.0)),
            *((46.5, 74.0), (52.0, 79.5), (56.8, 83.6), (55.2, 85.3)),
        ],
    ),
    "table9": (18, [(53.7, 82.8), (62.3, 88.9), (63.4, 91.3)]),
    "table10": (4, [(39.7, 66.8), (39.4, 68.5)]),
    "table11": (8, [(21.9, 46.9, 59.0, 71.5), (21.9, 46.7, 60.3, 72.6)]),
    "table12": (10, [(43.0, 59.9, 69.2, 78.3), (46.3, 62.3, 71.3, 79.1)]),
    "table13": (
        5,
        [
            (56.0, 33.5, 85.3, 57.9),
            (53.5, 27.3, 84.9, 45.0),
            (59.9, 32.7, 86.5, 41.3),
            (58.0, 37.2, 86.9, 58.5),
            (59.9, 37.3, 86.9, 59.3),
        ],
    ),
    "table14": (3, [(51.5, 52.8, 82.4, 83.3), (44.9, 46.0, 76.9, 78.5), (33.3, 34.6, 57.6, 60.1)]),
}

CITED = {  # the first cited row of each table
    "table9": (23.8, 59.6),
    "table10": (30.5, 54.1),
    "table11": (7.6, 22.9, 34.4, 48.8),
    "table12": (19.7, 28.5, 33.5, 40.0),
}

FIGURES = {"figure1", "figure5", "figure6", "figure7", "figure8", "figure9", "figure10"}

MOCO_V2 = {"augment.brightness": 0.4, "augment.contrast": 0.4, "augment.saturation": 0.4, "augment.hue": 0.1}
# Table and label of a trial -> its settings that differ from the paper's preset.
MADE: dict[tuple[str, str], dict[str, Any]] = {
    ("table2", "Random, ParamCrop, rotation"): {"cropper.rotation": 30.0},
    ("table2", "ParamCrop"): {"data.random_cube": False},
    ("table3", "ParamCrop, gradient not reversed"): {"cropper.reversal": False},
    ("table4", "without early stopping"): {"cropper.lower": 0.0, "cropper.upper": 1.0},
    ("table5", "MoCo, R-2D3D"): {"method": "moco", "backbone.name": "r2d3d", "policy": "none", **MOCO_V2},
    ("table8", "50 layers, ParamCrop"): {"backbone.name": "r2d3d", "backbone.depth": 50},
    ("table9", "ParamCrop, S3D-G"): {"train.epochs": 100, "optim.warmup_epochs": 2.0},
    ("table13", "Temporal"): {"data.random_cube": False, "cropper.axes": "temporal"},
    ("table14", "random"): {"policy": "none", "data.random_cube": True},
}


def configs(space: Space, content_id: str = "data") -> dict[str, str]:
    """Label of each trial -> id of its first run."""
    trials = [make_trial(space, values) for values in grid(space)]
    return {trial.label: run_id(config_of(space, trial, space.seeds[0]), content_id) for trial in trials}


def test_every_table_and_figure_exists(paper: Paper) -> None:
    assert set(paper.entries) == set(PRINTED) | FIGURES


@pytest.mark.parametrize("name", PRINTED)
def test_a_table_has_the_papers_rows_and_values(paper: Paper, name: str) -> None:
    layout = paper_space(paper, name).layout
    assert layout is not None
    rows, numbers = PRINTED[name]
    assert len(layout.lines) == rows and all(len(line.cells) == len(layout.columns) for line in layout.lines)
    own = [line for line in layout.lines if any(cell.variant for cell in line.cells)]
    assert [tuple(cell.paper for cell in line.cells) for line in own] == numbers
    cited = [line for line in layout.lines if line not in own]
    assert len(cited) == rows - len(numbers) and all(cell.paper for line in cited for cell in line.cells)
    if cited:
        assert tuple(cell.paper for cell in cited[0].cells) == CITED[name]
        assert all(("name missing in source" in line.label) is (name == "table9") for line in cited)


@pytest.mark.parametrize("name", [*PRINTED, *sorted(FIGURES)])
def test_an_entry_resolves_at_the_scale_of_the_demo_and_of_the_paper(paper: Paper, name: str) -> None:
    space = paper_space(paper, name)
    at_demo, at_scale = with_stand_in(space_at(space), "synthetic"), space_at(space, preset_of(paper, name, K400))
    assert set(configs(at_demo)) == set(configs(at_scale))
    assert len(set(configs(at_scale).values())) == len(grid(at_scale))
    assert at_demo.layout and at_scale.layout
    assert all(task.rpartition("/")[0] in ("", "synthetic") for task in at_demo.tasks)
    labels = set(configs(at_demo))
    for line in at_demo.layout.lines:
        for cell in line.cells:
            assert cell.variant is None or cell.variant in labels
    variants = {variant.label: variant for variant in at_demo.variants}
    for cell in (cell for line in at_demo.layout.lines for cell in line.cells if cell.variant):
        assert cell.task in (variants[str(cell.variant)].tasks or at_demo.evaluate.tasks)


@pytest.mark.parametrize(("name", "label"), MADE)
def test_a_row_is_the_run_of_its_name(paper: Paper, name: str, label: str) -> None:
    space = space_at(paper_space(paper, name), K400)
    expected = load_config(K400, None, [f"{k}={yaml.safe_dump(v).split()[0]}" for k, v in MADE[name, label].items()])
    assert configs(space)[label] == run_id(expected, "data")


def test_tables_share_their_runs(paper: Paper) -> None:
    spaces = [space_at(paper_space(paper, name), preset_of(paper, name, K400)) for name in paper.entries]
    ids = [identity for space in spaces for identity in configs(space).values()]
    assert len(ids) > 70 and len(set(ids)) < 0.6 * len(ids)
    by_name = {space.layout.name: configs(space) for space in spaces if space.layout}
    full = by_name["table13"]["Random, Temporal, Spatial"]
    assert by_name["table1"]["ParamCrop"] == full == by_name["table7"]["2 layers"]
    assert set(by_name["table9"].values()) >= set(by_name["table11"].values())
    assert by_name["figure9"] == by_name["figure10"]


def test_printed_values_are_found_by_settings() -> None:
    depth_18 = load_config("k400_simclr_r2d3d18", None, ["seed=3", "data.split=train1"])
    assert published(depth_18, "hmdb51", "paper-finetune", "video@1") == (0.53, 0.52)  # Tables 5 and 8
    assert published(load_config(K400), "ucf101", "paper-linear", "video@1") == (0.593,)
    assert published(load_config(K400, None, ["cropper.lr=1"]), "ucf101", "paper-linear", "video@1") == ()
    assert published(load_config("demo"), "ucf101", "paper-linear", "video@1") == ()


def test_table_7_has_our_parameters_and_arithmetic_and_the_papers(paper: Paper) -> None:
    space = paper_space(paper, "table7")
    assert space.layout is not None
    cells = size_cells(space, space.layout)
    assert {label: [cell.ours for cell in line] for label, line in cells.items()} == {
        "0 layers (random)": ["10.28M", "71.9G"],
        "1 layer": ["+396", "+0.0024G"],
        "2 layers": ["+0.0050M", "+0.0024G"],
        "3 layers": ["+0.0133M", "+0.0024G"],
    }
    assert [cell.paper for cell in cells["3 layers"]] == ["+0.014M", "+0.002G"]


def test_inconsistencies_of_the_paper_are_noted(paper: Paper) -> None:
    notes = {name: " ".join(entry.notes) for name, entry in paper.entries.items()}
    assert "52.0 / 79.5 in Table 8" in notes["table5"] and "53.0 / 79.4 in Table 5" in notes["table8"]
    assert "+3.0, but 74.0 - 71.9 is 2.1" in notes["table8"] and "0.014M" in notes["table7"]
    assert "same SpeedNet row in Tables 11 and 12" in notes["table11"] and notes["table11"] == notes["table12"]
    rows = [row for name in ("table11", "table12") for row in paper.entries[name].rows if "SpeedNet" in row.label]
    assert len(rows) == 2 and rows[0].paper == rows[1].paper


def test_mean_teachers_table_is_pretrained_on_its_test_dataset(paper: Paper) -> None:
    space = paper_space(paper, "table6")
    assert space.pretrained_on == "hmdb51" and preset_of(paper, "table6", K400) == "hmdb51_mean_teacher_s3dg"
    assert preset_of(paper, "table6", None) is None and preset_of(paper, "table1", K400) == K400
    assert {tuple(v.tasks) for v in space.variants} == {("hmdb51/teacher", "hmdb51/student")}
    labels = {v.label: v.set["data.labels"] for v in space.variants}
    assert labels == {"random, 10 %": 0.1, "random, 50 %": 0.5, "ParamCrop, 10 %": 0.1, "ParamCrop, 50 %": 0.5}
