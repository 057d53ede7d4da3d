import re
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BeforeValidator, ValidationError

from dlrm.config import Config, dump_config, load_config, load_options
from dlrm.config.base import Number
from dlrm.config.data import (
    CriteoTsvData,
    DenseTransform,
    HashedCategories,
    PackedData,
    ParquetData,
    RandomData,
    Split,
)
from dlrm.config.data.synthetic import TraceIds
from dlrm.config.model import CatInteraction, DcnInteraction, DlrmModel, ProjectionInteraction
from dlrm.config.optim import LinearSchedule, OptimConfig, Schedule, StepSchedule
from dlrm.config.prepare import InspectConfig, MaterializeConfig, PreprocessConfig, SynthesizeConfig
from dlrm.config.train import TrainConfig
from dlrm.errors import ConfigError
from tests.unit.config.mistakes import from_text
from tests.unit.config.test_describe import every_section

FOLDER = Path(__file__).resolve().parents[3] / "configs"
CONFIGS = sorted(path for path in FOLDER.iterdir() if path.is_file())
PREPROCESSING = sorted((FOLDER / "preprocess").iterdir())


@pytest.mark.parametrize(
    ("section", "option", "given", "more"),
    [
        (PackedData, "path", "~/packed", {}),
        (ParquetData, "path", "~/parquet", {"dense": ["x"], "sparse": ["y"], "rows": 3}),
        (CriteoTsvData, "paths", "~/a,~/b,c", {}),
        (TraceIds, "path", "~/ids.json", {}),
        (PreprocessConfig, "input", "~/day_*,raw/~x", {"output": "out"}),
        (InspectConfig, "path", "~/packed", {}),
        (InspectConfig, "pictures", "~/pictures", {"path": "x"}),
        (MaterializeConfig, "path", "~/packed", {}),
        (SynthesizeConfig, "source", "~/packed", {"profile": "x"}),
        (SynthesizeConfig, "profile", "~/ids.json", {}),
    ],
)
def test_the_home_folder_may_be_abbreviated_in_every_input(monkeypatch, section, option, given, more):
    monkeypatch.setenv("HOME", "/home/me")
    found = getattr(section(**{option: given}, **more), option)
    expanded = given.replace("~/", "/home/me/")
    assert found == (tuple(expanded.split(",")) if isinstance(found, tuple) else expanded)


def test_addresses_are_not_taken_for_names_of_files():
    assert PackedData(path="https://example.org/~me/packed").path == "https://example.org/~me/packed"


def test_blocks_to_shuffle_without_a_shuffle_and_unequal_micro_batches_are_mistakes():
    with pytest.raises(
        ValidationError, match=r"global_batch_size is 50, which is no multiple of accumulation_steps \(4\)"
    ):
        TrainConfig(global_batch_size=50, accumulation_steps=4)
    with pytest.raises(ValidationError, match="shuffle_block_samples is 4096 although shuffle is false"):
        TrainConfig(shuffle=False, shuffle_block_samples=4096)
    assert TrainConfig(shuffle=False).shuffle_block_samples == 0
    assert TrainConfig(shuffle_block_samples=4096).shuffle


def takes_booleans_for_numbers(annotation: Any, metadata: list[Any]) -> bool:
    if get_origin(annotation) is Annotated:
        return takes_booleans_for_numbers(get_args(annotation)[0], [*get_args(annotation)[1:], *metadata])
    if annotation in (int, float):
        return Number not in metadata
    inner = [part for part in get_args(annotation) if part not in (NoneType, Ellipsis)]
    inner = [part for part in inner if part in (int, float) or get_args(part)]
    return any(takes_booleans_for_numbers(part, metadata) for part in inner)


def test_no_number_of_any_section_can_be_given_as_true_or_false():
    loose = [
        f"{section.__name__}.{name}"
        for section in every_section()
        for name, field in section.model_fields.items()
        if takes_booleans_for_numbers(field.annotation, field.metadata)
    ]
    assert loose == []
    assert isinstance(Number, BeforeValidator)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_file_in_configs_loads_and_is_printed_back_equal(path, tmp_path):
    assert path.suffix == ".yaml"
    config = load_config(path)
    assert from_text(tmp_path, dump_config(config)) == config
    assert config.run.name == path.stem


@pytest.mark.parametrize("path", PREPROCESSING, ids=lambda path: path.name)
def test_every_file_for_preprocessing_loads_and_is_printed_back_equal(path, tmp_path):
    config = load_options(PreprocessConfig, path)
    (tmp_path / "printed.yaml").write_text(dump_config(config))
    assert load_options(PreprocessConfig, tmp_path / "printed.yaml") == config


def test_the_defaults_are_valid_and_complete():
    assert Config.model_validate(Config().model_dump()) == Config()


@pytest.mark.parametrize(
    ("section", "arguments", "message"),
    [
        (DlrmModel, {"top_mlp": (8, 2)}, "top_mlp ends with 2"),
        (DlrmModel, {"bottom_mlp": (8,)}, "bottom_mlp ends with 8, embedding_dim is 16"),
        (DlrmModel, {"tables": {"a": {"embedding_dim": 8}}}, "tables.a.embedding_dim differs"),
        (
            DlrmModel,
            {"interaction": ProjectionInteraction(branch1=(17,), branch2=(16,))},
            "interaction.branch1 ends with 17",
        ),
        (DlrmModel, {"dropout": 1.0}, "less than 1"),
        (DlrmModel, {"bottom_mlp": ()}, "is empty"),
        (RandomData, {"rows": (5, 6, 7), "hotness": (1, 2)}, "hotness has 2 entries, rows has 3"),
        (HashedCategories, {"rows": (5, 1)}, "a table of 1 row"),
        (DenseTransform, {"minimum": -3.0}, "minimum \\+ shift is 0"),
        (DenseTransform, {"missing": -4.0}, "missing \\+ shift is -1"),
        (Split, {"validation": 0.5, "test": 0.5}, "leave no rows for training"),
        (Split, {"test": 1.5}, "give a fraction below 1 or a whole number of rows"),
        (CriteoTsvData, {"paths": ()}, "is empty"),
        (CriteoTsvData, {"paths": "a,,b"}, "paths holds an empty name"),
        (CriteoTsvData, {"paths": "a", "categories": {"kind": "ids", "rows": (1, 2)}}, "categories.rows has 2 entries"),
        (Schedule, {"decay_steps": 5}, "go together"),
        (Schedule, {"decay_start_step": 5}, "go together"),
        (LinearSchedule, {"decay_start_step": 5}, "decay_steps\n  Field required"),
        (StepSchedule, {"warmup_steps": 9, "decay_start_step": 8, "every_steps": 1}, "lies inside the warm-up"),
        (OptimConfig, {"frozen": "cat_0", "lr_scale": {"cat_0": 2}}, "frozen names cat_0, whose rate lr_scale changes"),
        (DlrmModel, {"shared_tables": {"items": ["a"]}}, "shared_tables.items names one feature, a:"),
        (Config, {"warm_start": {"optimizer": True}}, "no warm_start.checkpoint is named"),
        (
            Config,
            {"evaluation": {"patience": 2}, "checkpoint": {"best": "auc", "enabled": False}},
            "checkpoint.enabled is false",
        ),
        (OptimConfig, {"lr_rule": "sqrt"}, "lr_base_batch and lr_rule go together"),
        (TrainConfig, {"task_weights": {"a": 2}, "task_weighting": "uncertainty"}, "learns them: drop one"),
        (Schedule, {"warmup_steps": 9, "decay_start_step": 8, "decay_steps": 1}, "lies inside the warm-up"),
    ],
)
def test_options_that_contradict_each_other_are_refused(section, arguments, message):
    with pytest.raises(ValidationError, match=message):
        section(**arguments)


@pytest.mark.parametrize("interaction", [CatInteraction(), DcnInteraction()])
def test_tables_of_their_own_width_are_taken_where_the_interaction_takes_them(interaction):
    DlrmModel(interaction=interaction, tables={"a": {"embedding_dim": 8}})


def test_a_decay_may_start_where_the_warm_up_ends():
    Schedule(warmup_steps=8, decay_start_step=8, decay_steps=1)


@pytest.mark.parametrize("option", ["checkpoint.dir", "resume.checkpoint"])
def test_an_address_of_checkpoints_names_a_bucket_or_folder(option):
    section, _, name = option.partition(".")
    for good in ("a/b", "C:/a", "x:y", "file:///a", "s3://my-bucket.1", "s3://b/a b", "gs://b/a", "memory://a", "none"):
        assert getattr(getattr(load_config(None, [f"{option}={good}"]), section), name) == good
    for bad, problem in (
        ("s3://", "s3:// names no bucket; write s3://bucket/folder"),
        ("s3:/b/a", "has one slash where a URL has two"),
        ("s3://B!/a", "names the bucket 'B!', and no bucket can have that name"),
    ):
        with pytest.raises(ConfigError, match=f"command line: {re.escape(option)}: .*{re.escape(problem)}"):
            load_config(None, [f"{option}={bad}"])


@pytest.mark.parametrize(
    ("words", "checkpoint", "job"),
    [
        (["--resume", "job"], "none", True),
        (["--resume=job", "--resume", "runs/a"], "runs/a", True),
        (["--resume", "auto"], "auto", False),
        (["--resume", "./job"], "./job", False),
    ],
)
def test_resume_job_asks_for_the_schedulers_job_beside_what_it_began_with(words, checkpoint, job):
    resume = load_config(None, words).resume
    assert (resume.checkpoint, resume.job) == (checkpoint, job)


def test_job_is_no_checkpoint():
    with pytest.raises(ConfigError, match=r"resume\.checkpoint: .*write resume\.job: true"):
        load_config(None, ["resume.checkpoint=job"])
