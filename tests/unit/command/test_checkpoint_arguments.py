"""The words of ``checkpoint ...``."""

import subprocess
import sys

import pytest

from dlrm.command.arguments import COMMANDS, parse
from dlrm.errors import ConfigError


def config(*words):
    return parse(["checkpoint", *words]).config()


def test_words_on_their_own_are_the_values_of_options_in_order():
    assert (config("diff", "a", "b").first, config("diff", "a", "b").second) == ("a", "b")
    assert (config("diff", "--second", "b", "a").first, config("diff", "--first=a", "b").second) == ("a", "b")
    found = config("export", "--optimizer", "p", "--overwrite", "o")
    assert (found.path, found.output, found.optimizer, found.overwrite) == ("p", "o", True, True)
    assert (config("show", "p", "--config").config, config("show", "--config", "p").path) == (True, "p")
    assert config("verify", "a", "b", "c").paths == ("a", "b", "c")


@pytest.mark.parametrize(
    "path", ["a,b", "null", "[x]", "{a: b}", "1e3", "007", "a: b", "a #1", "s3://b/x", 'q"u\\o', "runs/a=b/c", "ä b"]
)
def test_paths_are_taken_as_they_are(path):
    assert config("show", path).path == path
    assert config("verify", path, path).paths == (path, path)
    assert parse(["inspect", path]).config().path == path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "command line: the following arguments are required: COMMAND; see --help"),
        (["shwo"], "command line: argument COMMAND: invalid choice: 'shwo' (choose from 'list', 'show', "),
        (["show"], "path: is required and was not given"),
        (["diff", "a"], "second: is required and was not given"),
        (["diff", "a", "b", "c"], "command line: 'c' is neither --section.key value nor section.key=value"),
        (["show", "a", "--verfy"], "verfy: has no value"),
        (["show", "a", "--verfy=1"], "verfy: unknown option"),
        (["verify"], "paths: is required and was not given"),
        (["import", "a"], "output: is required and was not given"),
        (["import", "a", "--output", "b", "--model.top_mpl", "1"], "did you mean model.top_mlp?"),
    ],
)
def test_a_mistake_is_one_line(words, said):
    with pytest.raises(ConfigError) as caught:
        config(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["checkpoint"], *(name.split() for name in COMMANDS if "checkpoint " in name)])
def test_help_is_there_at_each_level(words, capsys):
    with pytest.raises(SystemExit) as left:
        parse([*words, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: dlrm_main.py {' '.join(words)}")
    assert "--config FILE" not in shown or words[-1] == "import"


def test_help_needs_no_torch():
    script = (
        "import sys\nfrom dlrm.command.arguments import parse\n"
        "try:\n    parse(['checkpoint', 'import', '--help'])\n"
        "except SystemExit:\n    sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0
