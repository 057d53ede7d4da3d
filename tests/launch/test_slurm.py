"""Trainings in a real Slurm of two hosts, which this file starts; scripts/slurm_cases.py does more to them.

Skipped, saying so, where Slurm's packages are not installed.
"""

import re

import pytest

from scripts.slurm_cases import two_local_ranks
from tests.support.slurm import SlurmCluster, missing
from tests.support.slurm_job import Submitter, assert_equal_to_the_bit, training_options

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def submitter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with SlurmCluster(folder / "slurm") as cluster:
        yield Submitter(cluster, folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The final state of two ranks on one host, without Slurm."""
    return two_local_ranks(tmp_path_factory.mktemp("local"), training_options())


@pytest.mark.timeout(600)
def test_a_requeued_job_goes_on_and_ends_as_two_ranks_of_one_host_do(submitter, reference):
    job = submitter.submit("requeued", training_options())
    saved = job.await_saved(100)
    submitter.cluster.run("scontrol", "requeue", job.job)
    assert_equal_to_the_bit(job.tensors(), reference)
    assert job.starts() == 2
    resumed = re.search(r"resumed from \S+ \(step (\d+),", job.output(most=100_000))
    assert resumed is not None
    assert int(resumed[1]) >= saved
    assert "\x1b" not in job.output(most=100_000)  # srun gives ranks a terminal, which nobody looks at


@pytest.mark.timeout(300)
def test_a_mistake_of_the_user_that_one_rank_finds_ends_the_job_once_and_every_host_says_it(submitter):
    program = ["--script", "tests/launch/rank_program.py", "--env", "STAND_IN_MODE=user"]
    job = submitter.submit("mistake", training_options(), more=program)
    assert job.await_end() == "FAILED"
    line = "rank 1: day_0.tsv, row 3, column I1: 'x' is not an integer"
    assert [job.printed(host).count(line) for host in (0, 1)] == [1, 1]
    assert "Restarts=0" in submitter.cluster.run("scontrol", "--oneliner", "show", "job", job.job)
