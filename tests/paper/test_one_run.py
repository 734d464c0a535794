"""Cells of several tables and figures that are one run in the paper have one run id, and no others have."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from paramcrop.crops.paramcrop import ParamCrop
from paramcrop.paper.spaces import paper_space, preset_of
from paramcrop.paper.tables import Paper
from paramcrop.settings.identity import run_id
from paramcrop.settings.presets import load_config
from paramcrop.sweeps.space import find_space, read_space, space_at
from paramcrop.sweeps.trials import config_of, grid, make_trial

K400 = "k400_simclr_s3dg"
# What is run -> the cells that show it, as entry and label.
ONE_RUN: dict[str, dict[str, str]] = {
    "random": {
        "table1": "Random",
        "table2": "Random",
        "table3": "Random Crop",
        "table5": "SimCLR, S3D-G",
        "table7": "0 layers (random)",
        "table13": "Random",
        "table14": "random",
        "figure1": "random crops",
        "figure7": "epochs=1, policy=none",
        "figure9": "random crop",
        "figure10": "random crop",
    },
    "ParamCrop": {
        "table1": "ParamCrop",
        "table2": "Random, ParamCrop",
        "table3": "ParamCrop, gradient reversed",
        "table4": "with early stopping",
        "table5": "SimCLR, S3D-G, ParamCrop",
        "table7": "2 layers",
        "table13": "Random, Temporal, Spatial",
        "table14": "ParamCrop",
        "figure1": "ParamCrop",
        "figure5": "with early stopping",
        "figure6": "lower=0.2",
        "figure7": "epochs=1, policy=paramcrop",
        "figure8": "ParamCrop",
        "figure9": "ParamCrop",
        "figure10": "ParamCrop",
    },
    "no early stopping": {
        "table4": "without early stopping",
        "figure5": "without early stopping",
        "figure6": "lower=0.0",
        "figure9": "without early stopping",
        "figure10": "without early stopping",
    },
    "no reversal": {
        "table3": "ParamCrop, gradient not reversed",
        "figure9": "without gradient reversal",
        "figure10": "without gradient reversal",
    },
    "manual": {"table1": "Manual Simulation", "figure1": "growing apart by a plan", "figure5": "manual simulation"},
    "no R": {"table2": "ParamCrop", "table13": "Temporal, Spatial"},
    "R-2D3D": {"table5": "SimCLR, R-2D3D", "table8": "18 layers"},
    "R-2D3D, ParamCrop": {"table5": "SimCLR, R-2D3D, ParamCrop", "table8": "18 layers, ParamCrop"},
    "100 epochs": {
        "table9": "ParamCrop, S3D-G",
        "table10": "ParamCrop, S3D-G",
        "table11": "ParamCrop, S3D-G",
        "table12": "ParamCrop, S3D-G",
        "figure7": "epochs=5, policy=paramcrop",
    },
    "100 epochs, R-2D3D": dict.fromkeys(("table9", "table10", "table11", "table12"), "ParamCrop, R-2D3D"),
}


def ids(paper: Paper, name: str) -> dict[str, str]:
    """Label of each trial of an entry, at the paper's scale -> run id."""
    space = space_at(paper_space(paper, name), preset_of(paper, name, K400))
    trials = [make_trial(space, values) for values in grid(space)]
    return {trial.label: run_id(config_of(space, trial, 0), "data") for trial in trials}


def test_cells_that_are_one_run_in_the_paper_have_one_run_id(paper: Paper) -> None:
    found = {name: ids(paper, name) for name in paper.entries}
    runs = {what: {found[name].pop(label) for name, label in cells.items()} for what, cells in ONE_RUN.items()}
    assert {what: len(each) for what, each in runs.items()} == dict.fromkeys(ONE_RUN, 1)
    # A variant may fill several rows of its table, but the runs that are left are shown by one entry each.
    alone = [*chain(*runs.values()), *chain(*(set(each.values()) for each in found.values()))]
    assert len(set(alone)) == len(alone) == 39


def test_the_random_row_is_r1_and_r2_alone_with_every_preset(paper: Paper) -> None:
    for name, label in ONE_RUN["random"].items():
        for preset in ("demo", K400):
            space = space_at(paper_space(paper, name), preset)
            trial = next(t for t in (make_trial(space, values) for values in grid(space)) if t.label == label)
            config = config_of(space, trial, 0)
            assert (config.policy, config.data.random_cube) == ("none", True), (name, preset)
            assert space.frame == "video", name  # in the croppers' clip these crops have no distance
    assert ids(paper, "table1")["Random"] == run_id(load_config(K400, None, ["policy=none"]), "data")


def test_the_nested_crop_is_compared_in_a_space_of_its_own(paper: Paper) -> None:
    space = space_at(read_space(find_space("random_crops")), K400)
    configs = {t.label: config_of(space, t, 0) for t in (make_trial(space, values) for values in grid(space))}
    assert {label: config.policy for label, config in configs.items()} == {
        "random": "none",
        "nested random": "random",
        "ParamCrop": "paramcrop",
    }
    table = ids(paper, "table1")
    assert run_id(configs["random"], "data") == table["Random"]
    assert run_id(configs["nested random"], "data") not in table.values()


def test_bounds_of_0_and_1_compute_what_no_early_stopping_does() -> None:
    """Also for entries that are 0 or 1 in float32: there the sigmoid's own gradient is 0."""
    found: list[list[Tensor | None]] = []
    for bounds in (None, (0.0, 1.0)):
        torch.manual_seed(0)
        crop = ParamCrop(bounds=bounds)
        with torch.no_grad():
            for weights in crop.croppers[0].parameters():
                weights.mul_(20)
        noise = crop.draw_noise(256, torch.Generator().manual_seed(1))
        v, (first, second) = crop.values(noise)[0], crop(noise)
        assert (v == 0).any() and (v == 1).any() and ((v > 0) & (v < 1)).any()
        numbers = torch.stack([value for value in (*first, *second) if value is not None])
        numbers.pow(2).sum().backward()
        found.append([numbers.detach(), *(p.grad for p in crop.parameters())])
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(*found, strict=True))
