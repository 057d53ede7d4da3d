import pytest

from dlrm.config.base import Section
from dlrm.config.describe import flatten, help_text, options, sections_in
from dlrm.config.prepare import InspectConfig, MaterializeConfig, PreprocessConfig, SynthesizeConfig
from dlrm.config.root import Config

ROOTS = (Config, PreprocessConfig, InspectConfig, MaterializeConfig, SynthesizeConfig)


def every_section(*sections):
    for section in sections or ROOTS:
        yield section
        for field in section.model_fields.values():
            for inner in sections_in(field.annotation):
                yield from every_section(inner)


def test_every_section_is_described():
    assert len(set(every_section())) > 25
    assert [section for section in every_section() if not section.__dict__.get("__doc__")] == []


def test_every_field_is_described_or_is_a_section_which_is():
    bare = [
        f"{section.__name__}.{name}"
        for section in every_section()
        for name, field in section.model_fields.items()
        if not field.description and not sections_in(field.annotation) and name != "kind"
    ]
    assert bare == []


@pytest.mark.parametrize("root", ROOTS)
def test_help_shows_every_field_of_every_section(root):
    shown = {(option.path.rpartition(".")[2], option.about) for option in options(root)}
    for section in every_section(root):
        about = " ".join(section.__doc__.split())
        for name, field in section.model_fields.items():
            if name != "kind" and not sections_in(field.annotation):
                assert (name, about) in shown


@pytest.mark.parametrize("root", ROOTS)
def test_help_names_type_default_and_meaning_of_every_option(root):
    text = " ".join(help_text(root, everything=True).split())
    for option in options(root):
        assert option.meaning
        default = f"(default: {option.default})" if option.default else "(required)"
        assert f"--{option.path} {option.type_name} {option.meaning} {default}" in text


def test_help_leaves_out_what_few_need_and_says_how_to_see_it():
    shown, everything = help_text(Config), help_text(Config, everything=True)
    advanced = {option.path for option in options(Config) if option.advanced}
    assert {"checkpoint.poll_s", "distributed.timeout_s", "train.prefetch_batches"} <= advanced
    assert "train.global_batch_size" not in advanced
    assert [path for path in advanced if f"--{path} " in shown] == []
    assert [path for path in advanced if f"--{path} " not in everything] == []
    assert shown.splitlines()[-1] == f"{len(advanced)} more options that few need: --help-all shows them"
    assert "--help-all" not in everything


def test_help_reads_like_this():
    blocks = help_text(Config).split("\n\n")
    assert blocks[0].splitlines()[:4] == [
        "run",
        "    Name, folder and seed of a run.",
        "  --run.name TEXT",
        "        Name of the run; its files go to <dir>/<name>. (default: run)",
    ]
    assert (
        "  --data.kind planted|random|criteo_tsv|packed|parquet\n        Which kind of data. (default: planted)"
        in blocks[2]
    )
    (hashing,) = [block for block in blocks if block.startswith("data.categories (kind hashing)")]
    assert hashing.endswith(
        "  --data.categories.rows INT,...\n"
        "        Table size of each sparse column; a single number is meant for all. (required)"
    )
    (dense,) = [block for block in blocks if block.startswith("data.dense")]
    assert "  --data.dense.missing FLOAT|mean\n" in dense


def test_help_fits_a_terminal():
    assert max(len(line) for line in help_text(Config, 100).splitlines() if not line.startswith("  --")) <= 100


def test_options_of_a_variant_belong_to_its_kind():
    kinds = {option.variant for option in options(Config) if option.path == "optim.dense.beta1"}
    assert kinds == {"kind adam", "kind adamw"}
    assert {option.variant for option in options(Config) if option.path.startswith("train.")} == {""}


def test_sections_of_an_option():
    assert sections_in(int | None) == []
    assert all(issubclass(section, Section) for section in sections_in(Config.model_fields["data"].annotation))


def test_nested_values_are_flattened_to_dotted_paths():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2], "e": {}}
    assert flatten({}) == {}


def test_help_tells_once_what_most_kinds_have_alike_and_each_kind_what_few_have():
    lines = help_text(Config, everything=True).splitlines()
    assert lines.count("  --model.pooling sum|mean") == 1
    assert (
        lines.count("  --optim.dense.weight_decay FLOAT") == 4
    )  # sgd, adagrad, adam; adamw, which has another default
