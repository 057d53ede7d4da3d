"""What a host has, of files as Linux writes them."""

import os

import psutil
import pytest

from dlrm.hardware import host

GIB = 1 << 30


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Writes the files of a container's memory; the host is larger."""
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    total = psutil.virtual_memory()._replace(total=64 * GIB, available=32 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: total)

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(f"{text}\n")

    return write


def test_without_a_container_or_its_limit_the_host_counts(container):
    assert (host.memory_bytes(), host.free_memory_bytes()) == (64 * GIB, 32 * GIB)
    container(max="max", current=5 * GIB, stat="anon 5")
    assert (host.memory_bytes(), host.free_memory_bytes()) == (64 * GIB, 32 * GIB)


def test_cached_files_of_a_container_are_free_memory(container):
    """An export of 6 GiB was just copied into a container of 8 GiB."""
    container(max=8 * GIB, current=7 * GIB, stat=f"anon {GIB}\nfile {6 * GIB}\ninactive_file {6 * GIB}\nactive_file 0")
    assert (host.memory_bytes(), host.free_memory_bytes()) == (8 * GIB, 7 * GIB)


def test_a_container_gives_no_more_than_the_host_has_and_no_less_than_nothing(container):
    container(max=100 * GIB, current=0, stat="inactive_file 0")
    assert (host.memory_bytes(), host.free_memory_bytes()) == (64 * GIB, 32 * GIB)
    container(max=GIB, current=2 * GIB)
    assert host.free_memory_bytes() == 0


def test_the_first_processor_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    assert host.processor("flags") == ""
    of_one = "processor\t: {}\nmodel name\t: A: {}\nvmx flags\t: x\nflags\t\t: fpu avx{}\n\n"
    (tmp_path / "cpuinfo").write_text("".join(of_one.format(i, i, i) for i in range(2)))
    assert (host.processor("model name"), host.processor("flags")) == ("A: 0", "fpu avx0")


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="Linux")
def test_this_host_has_memory():
    assert 0 < host.free_memory_bytes() <= host.memory_bytes()
