"""Standard streams that are closed, or that nobody reads any more, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from dlrm import streams

ROOT = Path(__file__).resolve().parents[2]
GOES_ON = """
import logging, sys
from dlrm import streams
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
streams.outlive_reader()
for _ in range(3):
    print("x" * 100_000)
sys.stdout.flush()
"""


def run(command, **options):
    return subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("unbuffered", ["", "-u"])
@pytest.mark.parametrize("reader", ["| true; exit ${PIPESTATUS[0]}", "> /dev/full"])
def test_a_job_whose_output_nobody_takes_goes_on_and_says_so_once_in_its_log(reader, unbuffered):
    done = run(f"{sys.executable} {unbuffered} -c '{GOES_ON}' {reader}")
    why = "Broken pipe" if "true" in reader else "No space left on device"
    assert done.returncode == 0
    assert done.stderr == f"standard output cannot be written to any more ({why}); nothing else is printed\n"


def test_output_that_is_read_is_as_it_was():
    done = run(f"{sys.executable} -c '{GOES_ON}'")
    assert (done.returncode, done.stdout, done.stderr) == (0, ("x" * 100_000 + "\n") * 3, "")


def test_files_do_not_take_the_place_of_standard_streams_that_were_closed():
    program = "import sys; from dlrm import streams; streams.open_closed(); file = open(sys.argv[0]); "
    program += "print(1); print(2, file=sys.stderr); print(sys.stdin.read()); sys.exit(file.fileno())"
    done = run(f"{sys.executable} -c '{program}' <&- >&- 2>&-".replace("sys.argv[0]", "sys.executable"))
    assert done.returncode == 3


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_a_command_does_without_standard_streams(closed):
    done = run(f"{sys.executable} dlrm_main.py inspect --path x --print-config {closed}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stream_in_the_place_of_standard_output_is_left_alone():
    before = sys.stdout  # pytest's
    streams.outlive_reader()
    assert sys.stdout is before
    print("still there")
