from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import DataError
from paramcrop.evaluation.features import Forward, Normalise
from paramcrop.evaluation.metrics import cosine, knn_votes
from paramcrop.evaluation.probe import Probe, open_splits
from paramcrop.models.r2d3d import R2D3D
from tests.labelled import BROKEN, STORED, TRAIN, make_labelled

SPEC = UniformSpec(clips=1, frames=4, stride=3, size=24)


def make_probe(folder: str, videos: int = 500) -> Probe:
    return Probe(folder, SPEC, Forward(Normalise(0.45, 0.225), torch.device("cpu"), torch.float32), videos, 60)


def test_a_probe_leaves_the_network_and_torchs_draws_as_they_were(tmp_path: Path) -> None:
    probe, network = make_probe(make_labelled(tmp_path)), R2D3D(depth=10, width=4)
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    first, again = probe(network), probe(network)
    assert first == again and first.keys() == {"probe_knn", "probe_linear"}
    assert all(0 <= value <= 1 for value in first.values())
    assert network.training and all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_it_takes_so_many_videos_of_all_classes_and_leaves_out_broken_ones(tmp_path: Path) -> None:
    folder = make_labelled(tmp_path)
    train, test = make_probe(folder).parts
    assert (len(train.clips), len(test.clips)) == (TRAIN, STORED - (BROKEN - 2))
    few, _ = make_probe(folder, 16).parts
    assert len(few.clips) == 16 and len(few.label.unique()) == len(train.label.unique())


def test_knn_is_that_of_the_evaluation(tmp_path: Path) -> None:
    probe, network = make_probe(make_labelled(tmp_path)), R2D3D(depth=10, width=4)
    (train, test), found = probe.parts, probe(network)
    x, y = probe.features(network, train.clips), probe.features(network, test.clips)
    votes = knn_votes(cosine(y, x), train.label, train.classes, 20, 0.07)
    assert found["probe_knn"] == pytest.approx((votes.argmax(1) == test.label).float().mean().item())


def test_a_set_without_a_pair_of_splits_is_refused(tmp_path: Path) -> None:
    from paramcrop.data.synthetic import cached_dataset

    folder = cached_dataset(tmp_path, 8, 32, 8)
    with pytest.raises(DataError, match="splits train and test"):
        open_splits(folder)
