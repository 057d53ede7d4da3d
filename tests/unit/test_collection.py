from fnmatch import fnmatch
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_no_folder_of_tests_is_passed_over(pytestconfig):
    folders = {part for path in TESTS.rglob("test_*.py") for part in path.relative_to(TESTS).parts[:-1]}
    assert "dist" in folders
    passed_over = pytestconfig.getini("norecursedirs")
    assert not [folder for folder in folders for pattern in passed_over if fnmatch(folder, pattern)]
