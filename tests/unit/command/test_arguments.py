import pytest

from dlrm.command.arguments import Request, parse
from dlrm.errors import ConfigError
from dlrm.scaling.experiments.matrix import read_experiment
from dlrm.studies.arms import read_study


def test_options_of_the_configuration_keep_their_order_around_the_command_s_own():
    words = ["a.b=1", "--config", "f.yaml", "--c.d", "-3", "--print-config", "--e.f=-.5", "g.h=-1e-3", "--i.j", "x"]
    options = ("a.b=1", "--c.d", "-3", "--e.f=-.5", "g.h=-1e-3", "--i.j", "x")
    assert parse(["train", *words]) == Request("train", "f.yaml", options, print_config=True)


def test_values_with_spaces_stay_whole():
    words = ["train", "--run.dir=a b", "--config", "f", "--x.y", "1 2", "c.d=e f", "--g.h", ""]
    assert parse(words).words == ("--run.dir=a b", "--x.y", "1 2", "c.d=e f", "--g.h", "")


def test_the_command_s_options_are_never_abbreviated():
    assert parse(["train", "--conf", "x", "--print"]).words == ("--conf", "x", "--print")
    with pytest.raises(ConfigError, match="conf: unknown option"):
        parse(["train", "--conf", "x"]).config()


def test_of_two_files_the_later_counts():
    assert parse(["train", "--config", "a", "--config=b"]).config_path == "b"


def test_a_request_becomes_a_configuration(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {epochs: 2}")
    config = parse(["train", "--config", str(tmp_path / "a.yaml"), "--train.max_steps", "7"]).config()
    assert (config.train.epochs, config.train.max_steps) == (2, 7)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (
            ["trian"],
            "invalid choice: 'trian' (choose from 'train', 'evaluate', ",
        ),
        (["train", "--config"], "argument --config: expected one argument"),
        (["doctor", "--verbose"], "doctor takes no options, got --verbose"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_points_to_help(words, said):
    with pytest.raises(ConfigError) as caught:
        parse(words)
    assert str(caught.value).startswith("command line: ")
    assert said in str(caught.value)
    assert str(caught.value).endswith("; see --help")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "--config", "f", "-h"]])
def test_help_of_train_lists_the_options_of_the_configuration(words, capsys):
    with pytest.raises(SystemExit) as left:
        parse(words)
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--config FILE", "--print-config", "--train.global_batch_size INT", "--optim.dense.beta1 FLOAT"):
        assert option in shown


@pytest.mark.parametrize("words", [["train"], ["checkpoint", "import"], ["preprocess"]])
def test_help_all_lists_the_options_that_few_need_too(words, capsys):
    shown = []
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as left:
            parse([*words, option])
        assert left.value.code == 0
        shown.append(capsys.readouterr().out)
    assert ["--distributed.timeout_s FLOAT" in text for text in shown] == [False, True]
    assert len(shown[0]) < len(shown[1])


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    assert "train as a YAML file and further options say" in shown
    assert "doctor" in shown


@pytest.mark.parametrize(
    "words",
    [
        ["p", "--verify"],
        ["--verify", "p"],
        ["--verify=true", "p"],
        ["--verify", "true", "p"],
        ["--path", "p", "--verify"],
    ],
)
def test_the_path_to_inspect_may_stand_anywhere(words):
    config = parse(["inspect", *words]).config()
    assert (config.path, config.verify) == ("p", True)


def test_predict_takes_an_export_and_any_number_of_inputs():
    request = parse(["predict", "e", "a.parquet", "b.parquet", "--output", "s.csv", "--labels", "true", "--carry=id"])
    config = request.config()
    assert (config.export, config.input, config.output) == ("e", ("a.parquet", "b.parquet"), "s.csv")
    assert (config.labels, config.carry, config.bad_rows) == ("true", ("id",), "error")


def test_a_benchmark_is_told_nothing_that_it_would_pass_over_but_takes_the_file_of_a_training(tmp_path):
    for words in (["--warm_start.checkpoint", "runs/old"], ["preflight.enabled=false"], ["--preflight.enabled"]):
        with pytest.raises(ConfigError, match="leave it out"):
            parse(["benchmark", *words]).config()
    (tmp_path / "a.yaml").write_text("{warm_start: {checkpoint: runs/old}, train: {epochs: 2}}")
    assert parse(["benchmark", "--config", str(tmp_path / "a.yaml")]).config().train.epochs == 2


def test_help_of_a_benchmark_does_not_show_what_it_would_pass_over(capsys):
    for command, shown in (("benchmark", False), ("train", True)):
        with pytest.raises(SystemExit):
            parse([command, "--help"])
        assert ("--warm_start.checkpoint" in capsys.readouterr().out) is shown


def test_diagnose_says_what_it_lacks_before_it_reads(tmp_path):
    for words, said in (
        ([], "path: is required and was not given: name a run, or give --config FILE"),
        ([str(tmp_path)], f"path: {tmp_path} is no run's folder: there is no config.yaml in it"),
        (["--preflight.enabled", str(tmp_path / "a")], f"path: {tmp_path}/a is no run's folder"),
        (["--data.kind", "planted", "--data_too", "false"], "data_too is false and no run is named"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(["diagnose", *words]).config()
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)
    assert parse(["diagnose", "--data.kind", "planted"]).config().data_too


@pytest.mark.parametrize("command", ["study", "scale"])
def test_a_file_that_is_no_option_s_is_not_called_one(command, tmp_path):
    read = {"study": read_study, "scale": read_experiment}[command]
    with pytest.raises(ConfigError, match=r"No such file or directory; name the YAML file of an? (study|experiment)"):
        read(str(tmp_path / "nope.yaml"))
