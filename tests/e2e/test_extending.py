"""The recipes of docs/extending.md as they stand there, each applied to a copy of the project."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "dlrm_main.py train "
# Most of the time of a short training would go into its scores, and into waiting for cores that other tests have.
LESS = "--data.validation_samples 2000 --data.test_samples 2000"
COPIED = ("dlrm", "tests", "dlrm_main.py", "pyproject.toml")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def recipes():
    """Title -> text of each section that has commands by which it is seen to work."""
    page = (ROOT / "docs/extending.md").read_text()
    _, *parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)
    return {title: text for title, text in zip(parts[::2], parts[1::2], strict=True) if "**It works:**" in text}


def follow(recipe, root):
    """Write the files of a recipe, change those that are there, and return its commands."""
    commands = []
    for match in BLOCK.finditer(recipe):
        language, block = match.groups()
        if language == "python":
            (path,) = re.findall(r"`([^`]+)`:\s*\Z", recipe[: match.start()])
            (root / path).write_text(block)
        elif language == "diff":
            change(root, block)
        else:
            commands += block.splitlines()
    return commands


def change(root, block):
    """Apply the hunks of a block; the lines that each keeps or takes away stand in the file exactly once."""
    head, _, hunks = block.partition("\n")
    path = root / head.removeprefix("--- ")
    text = path.read_text()
    for hunk in hunks.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old = "\n" + "".join(line[1:] for line in lines if line[0] != "+")
        new = "\n" + "".join(line[1:] for line in lines if line[0] != "-")
        assert text.count(old) == 1, f"{path.relative_to(root)} has not once: {old}"
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes of their own, on a machine that may be busy
@pytest.mark.parametrize("title", recipes())
def test_a_recipe_works_as_it_stands_in_the_docs(title, tmp_path):
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    commands = follow(recipes()[title], tmp_path)
    assert len(commands) >= 2
    for command in commands:
        words = command.replace(".venv/bin/python", shlex.quote(sys.executable))
        if TRAIN in command:
            words += " --distributed.threads_per_rank 1" + (f" {LESS}" if "--data." not in command else "")
        ran = subprocess.run(
            ["bash", "-c", words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
