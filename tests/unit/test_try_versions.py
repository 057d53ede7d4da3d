import subprocess
import sys

import pytest

from scripts import try_versions
from scripts.try_versions import Result, markdown, read_report

TESTS = """
import pytest

def test_passes():
    pass

def test_fails():
    assert 1 == 2

@pytest.fixture
def broken():
    raise ValueError("in a fixture")

def test_errs(broken):
    pass

@pytest.mark.skip
def test_is_skipped():
    pass
"""


def test_the_sums_are_those_of_pytest(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=report.xml", "test_it.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    result = read_report(tmp_path / "report.xml", ("2.13.0", "1.8.0", "1.8.0"))
    assert (result.passed, result.failed, result.skipped) == (1, 2, 1)
    assert [failure.partition(":: ")[0].split(":")[2] for failure in result.failures] == ["test_fails", "test_errs"]
    assert not result.good


def test_the_table_is_markdown_and_says_what_could_not_be_installed():
    results = [
        Result(("2.11.0", "1.6.0", "1.6.1"), passed=10, skipped=2, seconds=90),
        Result(("2.12", "1.7.0", "1.7.0"), problem="not installed"),
    ]
    assert markdown(results).splitlines()[2:] == [
        "| 2.11.0 | 1.6.0 | 1.6.1 | 10 | 0 | 2 | 1.5 min |",
        "| 2.12 | 1.7.0 | 1.7.0 |  | not installed |  | 0.0 min |",
    ]
    assert [result.good for result in results] == [True, False]


def test_all_tests_that_are_chosen_exist():
    for test in try_versions.TESTS:
        path, _, function = test.partition("::")
        assert (try_versions.ROOT / path).exists(), path
        assert not function or f"def {function}(" in (try_versions.ROOT / path).read_text()


def test_a_torch_that_is_not_supported_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["try_versions", "--torch", "2.15"])
    with pytest.raises(SystemExit) as left:
        try_versions.main()
    assert left.value.code == 2
    assert "torch 2.15 is not supported; choose from 2.11, " in capsys.readouterr().err
