"""How many workers there is room for, on clusters whose machines come and go."""

from __future__ import annotations

import pytest

from paramcrop.errors import ResourceError
from ray_jobs.engine.plans.elastic import Elastic, Room, most_workers, places, plan_elastic, plan_for, room_of
from ray_jobs.engine.plans.plan import Node

SMALL, GPUS = Node(2), Node(16, 4)


def test_one_machine_of_two_is_removed_and_comes_back() -> None:
    for begun in ([SMALL], [SMALL, SMALL]):
        run = plan_elastic([Node(0), *begun], (1, 2))
        assert (run.worker_cpus, run.least) == (0.9, 1)
        assert [most_workers(run, room_of([Node(0), *[SMALL] * n])) for n in range(4)] == [0, 1, 2, 2]
        assert plan_for(run, room_of([SMALL]), 1).data_cpus == 1.1
        plan = plan_for(run, room_of([SMALL, SMALL]), 2)
        assert (plan.workers, plan.data_cpus) == (2, 2.2)
        assert plan.arithmetic == (
            "2 node(s), 4 CPUs, 0 GPUs = 2 worker(s) of 1 or 2 x (0.9 CPU) + 2.2 CPUs for decoding"
        )


def test_there_is_a_worker_for_each_gpu_and_only_numbers_that_divide() -> None:
    run = plan_elastic([GPUS], (2, 4, 8))
    assert (run.worker_cpus, run.worker_gpus, run.each) == (1, 1, 0)
    rooms = ([Node(16, 1)], [Node(16, 3)], [GPUS], [GPUS, Node(16, 3)], [GPUS, GPUS], [GPUS] * 3)
    assert [most_workers(run, room_of(nodes)) for nodes in rooms] == [0, 2, 4, 4, 8, 8]


def test_more_workers_are_taken_only_with_cpus_to_decode_for_them() -> None:
    run = plan_elastic([Node(16)], (1, 2, 4))
    assert run.worker_cpus == 7.2  # two would fit a node, and leave 1.6 CPUs for decoding
    assert [most_workers(run, room_of([Node(16)] * n)) for n in (1, 2, 3, 4)] == [1, 2, 2, 4]
    own = plan_elastic([Node(16)], (1, 2, 4), cpus=7)  # as the user has it
    assert most_workers(own, room_of([Node(16)])) == 2


def test_what_other_commands_claim_is_no_room() -> None:
    run = plan_elastic([GPUS, GPUS], (2, 4, 8), data_cpus=4)
    assert most_workers(run, Room([GPUS, GPUS], 32, 8)) == 8
    assert most_workers(run, Room([GPUS, GPUS], 32, 7)) == 4
    assert most_workers(run, Room([GPUS, GPUS], 7, 8)) == 2
    assert plan_for(run, Room([GPUS, GPUS], 32, 8), 4).data_cpus == 4
    assert plan_for(run, Room([GPUS, GPUS], 7, 8), 2).data_cpus == 4  # of 5


def test_sums_of_shares_count_whole_workers() -> None:
    """0.7 + 0.7 + 0.7 is 2.0999999999999996, in which Ray's own policy finds two of 0.7."""
    run = Elastic((1, 2, 3, 4), 0.7, 0.0, 1, 0.0, None)
    assert (0.7 + 0.7 + 0.7) // 0.7 == 2
    assert places([(0.7 + 0.7 + 0.7, 0.0), (0.6, 0.0)], run) == 3
    assert most_workers(run, room_of([Node(16)]), most=3) == 3


def test_no_room_for_the_fewest_is_an_error_with_the_sums() -> None:
    with pytest.raises(ResourceError, match=r"needs a GPU for each of 2 worker\(s\), but there are 1"):
        plan_elastic([Node(8, 1)], (2, 4), device="cuda")
    with pytest.raises(ResourceError, match="20 CPUs must be left for decoding"):
        plan_elastic([GPUS], (2, 4), data_cpus=20)
    run = plan_elastic([GPUS, Node(16)], (2, 4), data_cpus=20)
    with pytest.raises(ResourceError, match="20 CPUs must be left for decoding, but 1 node"):
        plan_for(run, room_of([GPUS]), 2)
