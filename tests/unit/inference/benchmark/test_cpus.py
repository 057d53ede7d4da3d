"""CPUs and cores by the system's files; affinity comes and goes."""

import os
import threading

import pytest

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.errors import ConfigError
from dlrm.inference.benchmark.cpus import first_of_each_core, on_cpus, parse_list
from dlrm.inference.benchmark.points import Point, plan


def topology(root, siblings):
    for cpu, text in siblings.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
    return root


@pytest.fixture
def hyper_threads(tmp_path):
    """Four cores: as Intel numbers their threads."""
    return topology(tmp_path, {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)})


@pytest.fixture
def neighbours(tmp_path):
    """Two cores: as AMD's virtual machines number their threads."""
    return topology(tmp_path, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"})


@pytest.mark.parametrize(
    ("text", "cpus"), [("3\n", {3}), ("0-2,8", {0, 1, 2, 8}), ("0,4", {0, 4}), ("1-1,3-4\n", {1, 3, 4})]
)
def test_the_kernels_lists_are_read(text, cpus):
    assert parse_list(text) == cpus


def test_the_first_thread_of_each_core_is_chosen(hyper_threads):
    assert first_of_each_core(frozenset(range(8)), hyper_threads) == {0, 1, 2, 3}


def test_only_cpus_that_may_be_used_count(neighbours):
    assert first_of_each_core(frozenset({1, 2, 3}), neighbours) == {1, 2}


def test_where_nothing_is_known_each_cpu_is_a_core(tmp_path):
    assert first_of_each_core(frozenset({0, 5}), tmp_path) == {0, 5}


def config(**options):
    return BenchInferenceConfig(**{"exports": ("e",), "batch_rows": (8,), "models": (1,), **options})


def test_both_cpu_sets_are_measured_where_cores_have_two_threads(hyper_threads):
    found = plan(config(threads=(4, 8)), allowed=frozenset(range(8)), root=hyper_threads)
    assert found.cpu_sets == {"all": set(range(8)), "cores": {0, 1, 2, 3}}
    # Eight threads do not get a CPU each on four.
    assert {(point.cpu_set, point.threads) for point in found.points} == {("all", 4), ("all", 8), ("cores", 4)}
    assert found.notices == ()


def test_without_hyper_threads_a_line_says_so(tmp_path):
    found = plan(config(), allowed=frozenset({0, 1}), root=tmp_path)
    assert [point.cpu_set for point in found.points] == ["all", "all"]
    assert [point.threads for point in found.points] == [1, 2]
    assert found.notices == ("no hyper-threads: each of 2 CPUs is a core of its own",)


def test_a_few_cpus_are_of_different_cores(hyper_threads, tmp_path):
    assert plan(config(cpus=3), allowed=frozenset(range(8)), root=hyper_threads).cpu_sets["all"] == {0, 1, 2}
    found = plan(config(cpus=5, cpu_sets="cores", threads=4), allowed=frozenset(range(8)), root=hyper_threads)
    assert found.cpu_sets == {"all": {0, 1, 2, 3, 4}, "cores": {0, 1, 2, 3}}
    assert found.points == (Point((0,), 8, 4, cpu_set="cores"),)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": (1, 3)}, "threads: 3 threads cannot have a CPU each: there are 2 CPUs for them"),
        ({"cpus": 3}, "cpus: is 3, and this process may use 2 CPUs"),
        ({"cpus": 1, "threads": 2}, "threads: 2 threads cannot have a CPU each: there are 1 CPU for them"),
    ],
)
def test_more_than_there_are_is_refused(tmp_path, options, said):
    with pytest.raises(ConfigError) as caught:
        plan(config(**options), allowed=frozenset({0, 1}), root=tmp_path)
    assert said in str(caught.value)


def test_several_exports_are_measured_alone_and_together(tmp_path):
    found = plan(config(exports=("a", "b"), models=(1, 3), threads=1), allowed=frozenset({0}), root=tmp_path)
    assert [point.members for point in found.points] == [(0,), (1,), (0, 1, 0)]


def test_all_threads_compute_where_they_are_told_and_later_where_they_did():
    before = os.sched_getaffinity(0)
    one = frozenset({min(before)})
    seen = {}
    told, done = threading.Event(), threading.Event()

    def other():
        told.wait()
        seen["inside"] = os.sched_getaffinity(0)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with on_cpus(one):
        told.set()
        assert done.wait(60)
        assert os.sched_getaffinity(0) == one
    thread.join()
    assert seen["inside"] == one
    assert os.sched_getaffinity(0) == before
