"""An experiment in a real Slurm of two hosts, which this file starts: points fail, and scale itself is killed.

A sample of what `python -m scripts.scale_on_slurm` does. Skipped, saying so, where Slurm's packages are not installed.
"""

import pytest

from scripts.scale_on_slurm import CASES, OnSlurm
from tests.support.slurm import SlurmCluster, missing

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.mark.timeout(1200)
def test_an_experiment_over_two_hosts_survives_what_is_done_to_it(tmp_path):
    with SlurmCluster(tmp_path / "slurm") as cluster:
        experiment = OnSlurm(cluster, tmp_path)
        try:
            for case in CASES[:1]:
                case(experiment)
        finally:
            experiment.end()
