"""Two hosts in network namespaces, between which the network is cut, or of which one dies (scripts/lost_host.py)."""

import os
import shutil
import subprocess

import pytest

from scripts.lost_host import CASES, run_case

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("namespaces")]


@pytest.fixture(scope="module")
def namespaces():
    """Network namespaces can be made here."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and iproute2")
    name = f"dlrm{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", name], check=True)


def test_a_network_that_is_cut_for_20_s_is_survived_without_a_restart(tmp_path):
    outcome = run_case(0, CASES["cut for 20 s, 2 hosts"], tmp_path / "case")
    assert outcome.problems == []
    assert outcome.exit_codes == [143, 143]


def test_when_the_first_host_dies_the_second_ends_and_says_what_to_do(tmp_path):
    outcome = run_case(1, CASES["first killed, 2 hosts"], tmp_path / "case")
    assert outcome.problems == []
    assert outcome.exit_codes == [-9, 1]
    lines = [line for _, line in outcome.said[1] if line.startswith("lost the first host (10.77.0.1:29400")]
    assert len(lines) == 1
    assert lines[0].endswith("the job ends; start it again with --resume auto, as a scheduler that requeues it does")
