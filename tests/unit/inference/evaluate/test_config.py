import pytest

from dlrm.command.arguments import parse
from dlrm.config import Config
from dlrm.config.describe import to_plain
from dlrm.config.evaluate import EvaluateRequest
from dlrm.config.load import load_config
from dlrm.errors import ConfigError

WORDS = "data.kind=packed data.path=/saved model.embedding_dim=8 model.bottom_mlp=8 resume=auto checkpoint.keep=5"
SAVED = to_plain(load_config(None, WORDS.split()))


def request(*words):
    return parse(["evaluate", *words]).config()


def completed(*words, saved=SAVED):
    return request("/run", *words).completed(saved, "configuration of step_00000007")


def test_what_is_not_given_is_as_the_checkpoint_has_it():
    config = completed("--split", "validation", "--slices", "cat_1,int_0", "--evaluation.global_batch_size", "64")
    assert (config.path, config.split, config.slices) == ("/run", "validation", ("cat_1", "int_0"))
    assert (config.data.kind, config.data.path, config.model.embedding_dim) == ("packed", "/saved", 8)
    assert config.evaluation.global_batch_size == 64
    assert (config.resume, config.checkpoint) == (Config().resume, Config().checkpoint)


def test_an_option_of_a_variant_is_that_of_the_checkpoint_s_kind_and_another_kind_begins_anew():
    assert completed("--data.path", "/other").data.path == "/other"
    other = completed("--data.kind", "planted", "--data.rows", "5,6")
    assert (other.data.kind, other.data.rows) == ("planted", (5, 6))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.pth", "x"], "command line: data.pth: unknown option; did you mean data.path?"),
        (
            ["--split", "tset"],
            "command line: split: is 'tset', must be one of test, validation, train; did you mean test?",
        ),
        (["--slice_values", "0"], "command line: slice_values: is 0, must be greater than 0"),
        (["--output", "x.txt"], "command line: output: is x.txt, must end with .json or .csv"),
    ],
)
def test_mistakes_of_the_command_line_are_told_with_the_nearest_name(words, message):
    with pytest.raises(ConfigError) as error:
        completed(*words)
    assert str(error.value) == message


def test_a_mistake_that_the_checkpoint_s_configuration_holds_is_told_as_its_own():
    saved = {**SAVED, "train": {**SAVED["train"], "epochs": -3}}
    with pytest.raises(ConfigError) as error:
        completed(saved=saved)
    assert str(error.value).startswith("configuration of step_00000007: train.epochs: is -3")


@pytest.mark.parametrize(
    "option", ["model.embedding_dim=4", "optim.dense.lr=1", "checkpoint.keep=3", "resume.job=true"]
)
def test_what_would_be_another_model_or_is_of_no_use_is_refused_before_there_is_a_checkpoint(option):
    with pytest.raises(ConfigError, match=f"command line: {option.partition('=')[0]}: is .*: leave it out") as error:
        request("/run", option)
    assert len(error.value.problems) == 1


def test_the_checkpoint_has_to_be_named():
    with pytest.raises(ConfigError, match="path: is required and was not given: name a checkpoint"):
        request("--split", "test")


def test_the_path_may_stand_anywhere_among_the_options():
    words = ("--split", "train", "/some/run", "--average", "false")
    assert request(*words).path == "/some/run"
    assert isinstance(request(*words), EvaluateRequest)
    assert request(*words).completed(SAVED, "saved").average is False


def test_help_leaves_out_what_is_refused(capsys):
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parse(["evaluate", word])
        shown = capsys.readouterr().out
        assert "--slices TEXT,..." in shown
        assert "--data.kind" in shown
        assert all(f"--{section}." not in shown for section in ("model", "optim", "checkpoint", "resume"))
