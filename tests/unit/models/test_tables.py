import pytest

from dlrm.config.model import CatInteraction, DlrmModel
from dlrm.errors import ConfigError
from dlrm.models.tables import build_pooling, build_tables, embedding_bag_configs
from dlrm.schema import Schema

SCHEMA = Schema.numbered(2, rows=[10, 20, 30])


def with_tables(**tables) -> DlrmModel:
    return DlrmModel(embedding_dim=8, bottom_mlp=(8,), interaction=CatInteraction(), tables=tables)


def test_tables_follow_the_schema_and_the_overrides():
    config = with_tables(cat_1={"embedding_dim": 4}, cat_2={"pooling": "mean"})
    tables = embedding_bag_configs(config, SCHEMA)
    assert [table.name for table in tables] == ["cat_0", "cat_1", "cat_2"]
    assert [table.feature_names for table in tables] == [["cat_0"], ["cat_1"], ["cat_2"]]
    assert [table.num_embeddings for table in tables] == [10, 20, 30]
    assert [table.embedding_dim for table in tables] == [8, 4, 8]
    assert build_pooling(config, SCHEMA).mean_F1.flatten().tolist() == [False, False, True]


def test_tables_take_no_memory_unless_asked():
    assert {weight.device.type for weight in build_tables(with_tables(), SCHEMA).parameters()} == {"meta"}
    assert {w.device.type for w in build_tables(with_tables(), SCHEMA, device="cpu").parameters()} == {"cpu"}


def test_every_unknown_table_is_reported_with_the_nearest_name():
    config = with_tables(cat_11={"embedding_dim": 4}, Cat0={"pooling": "mean"}, cat_2={}, xyz={})
    with pytest.raises(ConfigError) as caught:
        embedding_bag_configs(config, SCHEMA)
    first, second, third = caught.value.problems
    assert first.key == "model.tables.cat_11"
    assert "cat_1?" in first.message
    assert second.key == "model.tables.Cat0"
    assert "cat_0?" in second.message
    assert third.key == "model.tables.xyz"
    assert "cat_0, cat_1, cat_2" in third.message


def test_widths_that_fbgemm_does_not_take_are_reported_with_their_option():
    with pytest.raises(ConfigError) as caught:
        embedding_bag_configs(with_tables(cat_1={"embedding_dim": 6}), SCHEMA)
    assert str(caught.value).startswith("model.tables.cat_1.embedding_dim: is 6")
    assert "8 is the next" in str(caught.value)


def test_data_without_sparse_features_is_reported():
    with pytest.raises(ConfigError, match="no sparse feature"):
        build_tables(with_tables(), Schema.numbered(2, rows=[]))
