"""Freed memory stays with the process once it is told to keep it."""

import subprocess
import sys

ARRAY_MIB = 256
PROGRAM = f"""
import sys, numpy, resource
from dlrm.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones({ARRAY_MIB} << 20, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


def faults(mode):
    """Of two arrays, one made after the other was freed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_an_array_finds_the_pages_of_one_that_was_freed():
    first, second = faults("keep")
    assert first > 100 * second
    first, second = faults("as it is")
    assert second > first / 2
