from __future__ import annotations

import pytest

from paramcrop.errors import ResourceError
from ray_jobs.engine.plans.plan import Node, plan_evaluations, plan_pretraining
from ray_jobs.engine.plans.sweep import plan_sweep


def test_two_cpus_are_0_9_for_the_worker_and_the_rest_for_data() -> None:
    plan = plan_pretraining([Node(2)], 1)
    assert (plan.worker_cpus, plan.data_cpus, plan.use_gpu, plan.threads) == (0.9, 1.1, False, 1)
    assert plan.arithmetic == "1 node(s), 2 CPUs, 0 GPUs = 1 worker(s) x (0.9 CPU) + 1.1 CPUs for decoding"


def test_the_cpus_requested_for_decoding_must_be_left() -> None:
    assert plan_pretraining([Node(16, 4), Node(64)], 4, decoding=76).data_cpus == 76
    with pytest.raises(ResourceError, match="77 CPUs must be left for decoding, but 2 node"):
        plan_pretraining([Node(16, 4), Node(64)], 4, decoding=77)


def test_two_workers_share_two_cpus() -> None:
    plan = plan_pretraining([Node(2)], 2)
    assert (plan.worker_cpus, plan.data_cpus) == (0.45, 1.1)


def test_gpus_are_used_if_there_is_one_per_worker() -> None:
    plan = plan_pretraining([Node(16, 4), Node(16, 4), Node(64)], 8)
    assert (plan.worker_cpus, plan.worker_gpus, plan.data_cpus) == (1, 1, 88)
    assert not plan_pretraining([Node(16, 4)], 8).use_gpu
    assert not plan_pretraining([Node(16, 4)], 2, device="cpu").use_gpu


def test_a_plan_that_does_not_fit_is_an_error_with_the_sums() -> None:
    with pytest.raises(ResourceError, match=r"for each of 2 worker\(s\), but there are 1; .* or lower train.workers"):
        plan_pretraining([Node(8, 1)], 2, device="cuda")
    with pytest.raises(ResourceError, match="only 1 do"):  # 12 CPUs in total, but no node has room for a second one
        plan_pretraining([Node(8), Node(4)], 2, cpus=5)
    with pytest.raises(ResourceError, match="one CPU must be left for decoding"):
        plan_pretraining([Node(1)], 1)


def test_without_a_gpu_it_says_so_and_no_plan_has_negative_cpus() -> None:
    for plan in (plan_pretraining, plan_sweep):
        with pytest.raises(ResourceError, match=r"^train.device=cuda needs a GPU .*, but there is none; leave it out"):
            plan([Node(2)], 1, device="cuda")
    with pytest.raises(ResourceError, match="no CPU for decoding") as caught:
        plan_pretraining([Node(2, 8)], 8, device="cuda", cpus=0.5)
    assert " -" not in str(caught.value)


def test_a_cpu_machine_keeps_half_for_decoding() -> None:
    plan = plan_pretraining([Node(16)], 2)
    assert (plan.worker_cpus, plan.data_cpus, plan.threads) == (3.6, 8.8, 4)


@pytest.mark.parametrize(
    ("nodes", "workers", "decoders"),
    [
        ([Node(2)], 1, 1),  # 1.1 CPUs are left
        ([Node(4)], 1, 2),  # 2.2
        ([Node(6)], 1, 1),  # 3.3: in pairs, the third would be idle
        ([Node(2), Node(2)], 2, 1),  # 2.2, but 1.1 on each node: a task that needs two would wait for ever
        ([Node(16, 1)], 1, 2),  # 15: one idle CPU does not matter
        ([Node(96, 8), Node(96, 8)], 16, 2),
        ([Node(10, 8), Node(9, 8)], 16, 1),  # 2 and 1
        ([Node(8, 8), Node(64)], 8, 2),  # none and 64
    ],
)
def test_tasks_of_two_decoders_fit_every_node(nodes: list[Node], workers: int, decoders: int) -> None:
    assert plan_pretraining(nodes, workers).decoders == decoders


def test_tasks_of_two_decoders_fit_in_each_trial() -> None:
    assert plan_sweep([Node(2)], 1).pretraining.decoders == 1
    assert plan_sweep([Node(16)], 1, trials=4).pretraining.decoders == 2  # 2.2 each, 8.8 in total
    assert plan_sweep([Node(3)] * 4, 1, trials=3).pretraining.decoders == 1  # 2.2 each, but 1.2 on a node with a worker


def test_evaluators_take_one_gpu_each_or_an_even_share_of_one() -> None:
    nodes = [Node(16, 4), Node(16, 4)]
    assert (plan_evaluations(nodes).actors, plan_evaluations(nodes).gpus) == (8, 1)
    twelve = plan_evaluations(nodes, 12)
    assert (twelve.actors, twelve.gpus, twelve.cpus) == (12, 0.5, 1)  # only one share of two thirds would fit on a GPU
    assert plan_evaluations(nodes, 2).gpus == 1
    assert plan_evaluations([Node(2)]).arithmetic == (
        "1 node(s), 2 CPUs, 0 GPUs = 1 evaluator(s) x (0.9 CPU) + 1.1 CPUs for decoding"
    )
    assert plan_evaluations(nodes, device="cpu").gpus == 0


def test_no_process_is_larger_than_a_node() -> None:
    """45 % of all CPUs of small nodes would fit on none of them, and Ray would wait in vain."""
    nodes = [Node(1), Node(2), Node(2)]
    assert plan_pretraining(nodes, 1).worker_cpus == plan_evaluations(nodes).cpus == 1.8
    with pytest.raises(ResourceError, match="--evaluators 2 must fit the nodes, but only 1 do"):
        plan_evaluations([Node(4), *[Node(1)] * 5], 2)


def test_evaluators_must_leave_cpus_for_decoding() -> None:
    with pytest.raises(ResourceError, match=r"one CPU must be left for decoding, but .*; lower --evaluators"):
        plan_evaluations([Node(4, 4)], 4)
    with pytest.raises(ResourceError, match="--device cuda needs a GPU in the cluster"):
        plan_evaluations([Node(4)], device="cuda")
