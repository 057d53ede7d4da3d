import subprocess
import sys
from pathlib import Path

import pytest

from dlrm.config import Config, dump_config, load_config
from dlrm.config.data import CriteoTsvData, HashedCategories, IdCategories, VocabularyCategories
from dlrm.config.optim import Adagrad, Adam, Sgd
from dlrm.errors import ConfigError
from tests.unit.column_names import COLUMN_NAMES
from tests.unit.config.mistakes import from_text, mistakes

PROJECT = Path(__file__).resolve().parents[3]
EVERY_VARIANT = [
    [],
    ["--data.kind", "random", "--data.hotness", "3"],
    ["--data.kind", "criteo_tsv", "--data.paths", "a.tsv,b.tsv.gz"],
    *(
        ["--data.kind", "criteo_tsv", "--data.paths", "a", *categories, "--data.dense.missing", missing]
        for categories, missing in [
            (["--data.categories.kind", "vocabulary", "--data.categories.min_count", "3"], "mean"),
            (["--data.categories.kind", "hashing", "--data.categories.rows", "1000"], "-1"),
            (["--data.categories.kind", "ids", "--data.categories.rows", ",".join(["7"] * 26)], "0.5"),
        ]
    ),
    ["--model.interaction.kind", "dot", "--model.interaction.self_interaction", "true"],
    ["--model.interaction.kind", "cat", "--model.tables", "{a: {embedding_dim: 8}, b: {pooling: mean}}"],
    ["--model.interaction.kind", "dcn", "--model.interaction.rank", "8"],
    ["--model.interaction", "{kind: projection, branch1: [32], branch2: [64, 48]}"],
    *(["--optim.dense", f"{{kind: {kind}, lr: 1e-3}}"] for kind in ("sgd", "adagrad", "adam", "adamw")),
    *(["--optim.sparse", f"{{kind: {kind}, lr: 1e-3}}"] for kind in ("sgd", "adagrad", "rowwise_adagrad", "adam")),
    ["--optim.schedule", "{warmup_steps: 5, decay_start_step: 9, decay_steps: 4, min_lr: 1e-12}"],
    ["--sharding.tables", "{a: {types: row_wise, kernels: [fused, dense]}}", "--sharding.device_memory_gib", "1.5"],
    ["--optim.lr_scale", "{top_mlp: 0.1, '1': 3, '1e3': 2}", "--run.name", "1e3", "--run.dir", "a #b: c"],
]


@pytest.mark.parametrize("arguments", EVERY_VARIANT, ids=" ".join)
def test_a_printed_configuration_is_read_back_equal(tmp_path, arguments):
    config = load_config(None, arguments)
    assert from_text(tmp_path, dump_config(config)) == config


def test_no_file_and_no_arguments_give_the_defaults():
    assert load_config() == Config()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_gives_the_defaults(tmp_path, text):
    assert from_text(tmp_path, text) == Config()


def test_flags_beat_the_file_which_beats_the_defaults(tmp_path):
    config = from_text(tmp_path, "train: {epochs: 2, global_batch_size: 64}", ["--train.epochs", "3"])
    assert (config.train.epochs, config.train.global_batch_size) == (3, 64)
    assert config.train.prefetch_batches == Config().train.prefetch_batches


@pytest.mark.parametrize(
    "words", [["--train.epochs", "3"], ["--train.epochs=3"], ["train.epochs=3"], ["--train", "{epochs: 3}"]]
)
def test_every_spelling_of_a_flag_means_the_same(words):
    assert load_config(None, words) == load_config(None, ["--train.epochs=3"])
    assert load_config(None, words).train.epochs == 3


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 2


# Variants


def test_overriding_a_field_of_a_variant_keeps_the_variant_and_its_other_fields(tmp_path):
    text = "optim: {dense: {kind: adam, lr: 0.5, beta1: 0.8}}"
    assert from_text(tmp_path, text, ["--optim.dense.lr", "0.25"]).optim.dense == Adam(lr=0.25, beta1=0.8)
    assert load_config(None, ["--optim.dense.eps", "0.5"]).optim.dense == Adagrad(lr=Config().optim.dense.lr, eps=0.5)


def test_naming_the_kind_that_is_chosen_already_changes_nothing(tmp_path):
    text = "optim: {dense: {kind: adam, lr: 0.5, beta1: 0.8}}"
    assert from_text(tmp_path, text, ["--optim.dense.kind", "adam"]) == from_text(tmp_path, text)


def test_changing_the_kind_drops_the_fields_of_the_old_one(tmp_path):
    text = "optim: {dense: {kind: adam, lr: 0.5, beta1: 0.8}}"
    words = ["--optim.dense.kind", "sgd", "--optim.dense.lr", "0.1"]
    for arguments in (words, [*words[2:], *words[:2]]):
        assert from_text(tmp_path, text, arguments).optim.dense == Sgd(lr=0.1)


def test_changing_the_kind_requires_the_fields_of_the_new_one_and_says_who_asked(tmp_path):
    text = "optim: {dense: {kind: adagrad, lr: 0.5}}"
    assert mistakes(tmp_path, text, ["--optim.dense.kind", "adam"]) == [
        "command line: optim.dense.lr: is required and was not given"
    ]
    assert mistakes(tmp_path, "data:\n  kind: criteo_tsv\n") == ["a.yaml:2: data.paths: is required and was not given"]


def test_fields_without_a_kind_are_those_of_the_variants_default_kind(tmp_path):
    text = "data: {kind: criteo_tsv, paths: [a], categories: {min_count: 3}}"
    assert from_text(tmp_path, text).data == CriteoTsvData(paths=("a",), categories=VocabularyCategories(min_count=3))
    words = ["--data.categories.kind", "ids", "--data.categories.rows", "5"]
    assert from_text(tmp_path, text, words).data.categories == IdCategories(rows=(5,))


def test_a_kind_inside_a_kind_is_changed_alone(tmp_path):
    text = "data: {kind: criteo_tsv, paths: [a], num_sparse: 2, categories: {kind: ids, rows: [5, 6]}}"
    words = ["--data.categories.kind=hashing", "--data.categories.rows=9"]
    data = from_text(tmp_path, text, words).data
    assert data == CriteoTsvData(paths=("a",), num_sparse=2, categories=HashedCategories(rows=(9,)))


def test_a_field_of_another_kind_is_said_to_be_one(tmp_path):
    assert mistakes(tmp_path, None, ["--optim.dense.beta1", "0.5"]) == [
        "command line: optim.dense.beta1: is an option of kind adam and kind adamw, not of kind adagrad"
    ]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_decay_over_another_kind_s_needs_its_own_steps(tmp_path, kind):
    text = "optim: {schedule: {warmup_steps: 1, decay_start_step: 5, decay_steps: 9}}"
    assert mistakes(tmp_path, text, ["--optim.schedule.kind", kind]) == [
        "command line: optim.schedule.decay_start_step: is required and was not given",
        "command line: optim.schedule.decay_steps: is required and was not given",
    ]


def test_a_section_of_another_kind_is_said_to_be_one(tmp_path):
    (said,) = mistakes(tmp_path, None, ["--model.kind", "fm", "--model.heads.kind", "mmoe"])
    assert said.startswith("command line: model.heads: is an option of kind dlrm and ")
    assert said.endswith(", not of kind fm")


def test_a_name_that_is_a_switch_of_one_kind_takes_the_value_of_another_kind():
    parquet = ["--data={kind: parquet, path: a, dense: [], sparse: [bag], rows: 9}", "--data.id_weights"]
    assert load_config(None, [*parquet, "{bag: w}", "--evaluation.scores"]).data.id_weights == {"bag": "w"}
    for rest in ([], ["true"], ["--train.epochs", "1"], ["train.epochs=1"]):
        assert load_config(None, ["--data.kind", "random", "--data.id_weights", *rest]).data.id_weights is True


def test_a_switch_with_a_bad_value_says_what_it_takes(tmp_path):
    assert mistakes(tmp_path, None, ["--evaluation.scores", "maybe"]) == [
        "command line: evaluation.scores: is 'maybe', must be true or false"
    ]


def test_a_variant_given_as_a_word_is_a_mistake_even_where_its_fields_follow(tmp_path):
    assert mistakes(tmp_path, "optim:\n  dense: adam\n") == [
        "a.yaml:2: optim.dense: is 'adam', but is a section: set options in it, such as optim.dense.kind"
    ]
    assert mistakes(tmp_path, "optim:\n  dense: adam\n", ["--optim.dense.lr", "0.1"]) == [
        "command line: optim.dense.lr: lies inside optim.dense, which is 'adam' (a.yaml:2)"
    ]
    assert mistakes(tmp_path, None, ["--optim.dense", "adam", "--optim.dense.lr", "0.1"]) == [
        "command line: optim.dense.lr: lies inside optim.dense, which is 'adam' (command line)"
    ]


# Mistakes


def test_every_mistake_is_reported_at_once_with_path_origin_and_nearest_name(tmp_path):
    text = (
        "train:\n  epoch: 3\n  global_batch_size: 0\noptim: {dense: {lr: .nan}}\nmodel: {interaction: {kind: dott}}\n"
    )
    said = mistakes(tmp_path, text, ["--run.nam", "x", "--data.rows", "[5, 0]", "evaluation.test=perhaps", "oops"])
    assert sorted(said) == [
        "a.yaml:2: train.epoch: unknown option; did you mean train.epochs?",
        "a.yaml:3: train.global_batch_size: is 0, must be greater than 0",
        "a.yaml:4: optim.dense.lr: is nan, must be a finite number",
        "a.yaml:5: model.interaction.kind: is 'dott', must be one of dot, cat, dcn, projection; did you mean dot?",
        "command line: 'oops' is neither --section.key value nor section.key=value",
        "command line: data.rows[1]: is 0, must be greater than 0",
        "command line: evaluation.test: is 'perhaps', must be true or false",
        "command line: run.nam: unknown option; did you mean run.name?",
    ]


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("train.global_batchsize", "train.global_batch_size"),
        ("batch_size", "train.global_batch_size"),
        ("epochs", "train.epochs"),
        ("trian.epochs", "train"),
        ("optim.dens.lr", "optim.dense"),
        ("optim.dense.lrr", "optim.dense.lr"),
        ("sharding.tables.cat_0.type", "sharding.tables.<name>.types"),
        ("optim.sparse.lr_scale", "optim.sparse.lr"),
        ("model.interaction.kindd", "model.interaction.kind"),
    ],
)
def test_an_unknown_option_names_the_nearest_one(tmp_path, word, nearest):
    (said,) = mistakes(tmp_path, None, [f"--{word}", "3"])
    assert said.startswith("command line: ")
    assert said.endswith(f": unknown option; did you mean {nearest}?")


def test_a_name_with_a_dot_within_a_section_is_told_apart_from_an_unknown_one(tmp_path):
    (said,) = mistakes(tmp_path, None, ["--optim", "{dense.lr: 0.1}"])
    told = "has a dot within a section: nest it, or give its full name outside of all sections"
    assert said == f"command line: optim.dense.lr: {told}"


@pytest.mark.parametrize("key", ["optim.dense.lr", "optim.clip_norm", "evaluation.target_auc", "data.dense.minimum"])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "nan", "1e999"])
def test_a_number_that_is_not_finite_is_refused(tmp_path, key, value):
    (said,) = mistakes(tmp_path, None, ["--data.kind=criteo_tsv", "--data.paths=a", f"--{key}={value}"])
    assert said.startswith(f"command line: {key}: is ")
    assert "must be" in said


@pytest.mark.parametrize("value", ["1.5", "x", "0", "-3", "true", "null", "[1]", "9" * 30, "9" * 5000])
def test_what_is_no_positive_integer_is_refused_in_one_short_line(tmp_path, value):
    (said,) = mistakes(tmp_path, None, ["--train.global_batch_size", value])
    assert said.startswith("command line: train.global_batch_size: is ")
    assert len(said) < 200


def test_whole_numbers_may_be_written_in_any_usual_way():
    for value in ("1000", "1_000", "1e3", "1000.0", "+1000", "01000"):
        assert load_config(None, ["--train.epochs", value]).train.epochs == 1000


def test_names_keep_the_text_that_was_written():
    for name in ("1.10", "007", "1_000", "1e3", "no", "2024-01-01"):
        assert load_config(None, ["--run.name", name]).run.name == name
    assert load_config(None, ["--run.dir", "a #b"]).run.dir == "a #b"


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "-x", "", "a b", "a\n", "é", "../../etc"])
def test_the_name_of_a_run_cannot_leave_its_folder(tmp_path, name):
    (said,) = mistakes(tmp_path, None, [f"--run.name={name}"])
    assert said.startswith("command line: run.name: is ")


def test_lists_may_be_written_with_brackets_commas_or_alone():
    for words, sizes in (("[512, 16]", (512, 16)), ("512,16", (512, 16)), ("512, 16", (512, 16)), ("16", (16,))):
        assert load_config(None, ["--model.bottom_mlp", words]).model.bottom_mlp == sizes


@pytest.mark.parametrize(
    "key",
    ["model.bottom_mlp", "model.top_mlp", "data.rows", "sharding.types", "sharding.kernels", "sharding.tables.a.types"],
)
def test_an_empty_list_is_refused(tmp_path, key):
    assert mistakes(tmp_path, None, [f"--{key}", "[]"]) == [f"command line: {key}: is empty; give at least one value"]


def test_one_wrong_entry_of_a_list_is_one_mistake(tmp_path):
    assert mistakes(tmp_path, None, ["--model.top_mlp", "512,x,1"]) == [
        "command line: model.top_mlp[1]: is 'x', must be a valid integer, unable to parse string as an integer"
    ]
    assert mistakes(tmp_path, None, ["--sharding.types", "row_wse"])[0].endswith("did you mean row_wise?")


def test_an_option_of_two_types_gives_one_message(tmp_path):
    (said,) = mistakes(tmp_path, None, ["--data.kind=criteo_tsv", "--data.paths=a", "--data.dense.missing=x"])
    assert said.startswith("command line: data.dense.missing: is 'x', must be a valid number")
    assert said.endswith("or must be one of mean")


@pytest.mark.parametrize("value", ["3", "null", "adam", "[1]", "true"])
@pytest.mark.parametrize("section", ["train", "optim.dense", "optim.schedule", "data"])
def test_a_section_given_a_value_is_a_mistake(tmp_path, section, value):
    (said,) = mistakes(tmp_path, None, [f"--{section}", value])
    assert said.startswith(f"command line: {section}: is ")
    assert f"but is a section: set options in it, such as {section}." in said


def test_a_section_that_does_not_hold_together_points_to_who_changed_it_last(tmp_path):
    text = "run: {seed: 1}\nmodel: {bottom_mlp: [32, 8], embedding_dim: 8}\n"
    assert from_text(tmp_path, text).model.embedding_dim == 8
    assert mistakes(tmp_path, text.replace("[32, 8]", "[32, 4]"))[0].startswith(
        "a.yaml:2: model: bottom_mlp ends with 4"
    )
    said = mistakes(tmp_path, text, ["--model.embedding_dim", "4"])
    assert said == [
        "command line: model: bottom_mlp ends with 8, embedding_dim is 4: they must be equal for interaction dot"
    ]


def test_a_file_that_cannot_be_read_does_not_make_the_flags_look_wrong(tmp_path):
    said = mistakes(tmp_path, "data: {kind: criteo_tsv", ["--data.paths", "x", "oops"])
    assert [line.split(":")[0] for line in said] == ["a.yaml", "command line"]


def test_reading_a_configuration_does_not_import_torch():
    program = "import sys, dlrm.config, dlrm.command.arguments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=PROJECT).returncode == 0


def test_lists_that_may_be_empty_take_a_single_word_or_words_with_commas():
    words = ("--data.kind=packed", "--data.path=x", "--data.split.train", "day_0..day_4,day_5[:0.5]")
    split = load_config(None, words).data.split
    assert split.train == ("day_0..day_4", "day_5[:0.5]")
    assert split.test == ()
    assert load_config(None, [*words, "--data.split.validation", ""]).data.split.validation == ()


def test_any_names_of_columns_are_printed_and_read_back(tmp_path):
    tables = {name: {"pooling": "mean"} for name in COLUMN_NAMES}
    data = {"kind": "parquet", "path": "x", "dense": [], "sparse": COLUMN_NAMES, "rows": [9]}
    config = Config.model_validate({"data": data, "model": {"kind": "dlrm", "tables": tables}})
    printed = dump_config(config)
    assert all(line.isprintable() for line in printed.split("\n"))
    (tmp_path / "printed.yaml").write_text(printed)
    assert load_config(tmp_path / "printed.yaml") == config


def test_a_table_called_kind_is_no_variant(tmp_path):
    text = "model: {tables: {kind: {pooling: mean}, a: {pooling: mean}}}\noptim: {lr_scale: {kind: 0.5, a: 2}}"
    words = ["--model.tables.kind.pooling", "sum", "--optim.lr_scale.kind", "0.25"]
    config = from_text(tmp_path, text, words)
    assert {name: table.pooling for name, table in config.model.tables.items()} == {"kind": "sum", "a": "mean"}
    assert config.optim.lr_scale == {"kind": 0.25, "a": 2.0}


def test_names_with_dots_and_commas_are_given_as_yaml():
    words = [
        "--model.tables",
        "{user.id: {pooling: mean}}",
        "--data.kind",
        "parquet",
        "--data.path",
        "x",
        "--data.dense=",
    ]
    config = load_config(None, [*words, "--data.sparse", '["a,b", user.id]', "--data.rows", "9"])
    assert config.model.tables["user.id"].pooling == "mean"
    assert config.data.sparse == ("a,b", "user.id")


@pytest.mark.parametrize("name", ["\udce4", "x" * 5000])
def test_what_no_column_can_be_called_is_a_mistake(name):
    words = ["data.kind=parquet", "data.path=x", "data.dense=a", "data.rows=9", f"data.sparse={name}"]
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
