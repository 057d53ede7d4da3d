import pytest

from dlrm.config.model import CatInteraction, DlrmModel
from dlrm.errors import ConfigError
from dlrm.lookups.plan import lookups_of
from dlrm.models.tables import build_embedding
from dlrm.schema import Schema

SCHEMA = Schema.numbered(2, rows=[10, 20, 30])


def with_tables(**tables) -> DlrmModel:
    return DlrmModel(embedding_dim=8, bottom_mlp=(8,), interaction=CatInteraction(), tables=tables)


def test_tables_follow_the_schema_and_the_overrides():
    config = with_tables(cat_1={"embedding_dim": 6}, cat_2={"pooling": "mean"})
    embedding = build_embedding(config, SCHEMA)
    tables = embedding.tables.embedding_bag_configs()
    assert [table.name for table in tables] == ["cat_0", "cat_1", "cat_2"]
    assert [table.feature_names for table in tables] == [["cat_0"], ["cat_1"], ["cat_2"]]
    assert [table.num_embeddings for table in tables] == [10, 20, 30]
    assert [table.embedding_dim for table in tables] == [8, 8, 8]  # padded
    assert embedding.dims == (8, 6, 8)
    assert embedding.pooling.mean_F1.flatten().tolist() == [False, False, True]


def test_tables_take_no_memory_unless_asked():
    for device in ("meta", "cpu"):
        embedding = build_embedding(with_tables(), SCHEMA, device=device)
        assert {weight.device.type for weight in embedding.tables.parameters()} == {device}


def test_every_unknown_table_is_reported_with_the_nearest_name():
    config = with_tables(cat_11={"embedding_dim": 4}, Cat0={"pooling": "mean"}, cat_2={}, xyz={})
    with pytest.raises(ConfigError) as caught:
        lookups_of(config, SCHEMA)
    first, second, third = caught.value.problems
    assert first.key == "model.tables.cat_11"
    assert "cat_1?" in first.message
    assert second.key == "model.tables.Cat0"
    assert "cat_0?" in second.message
    assert third.key == "model.tables.xyz"
    assert "cat_0, cat_1, cat_2" in third.message


def test_data_without_sparse_features_is_reported():
    with pytest.raises(ConfigError, match="no sparse feature"):
        lookups_of(with_tables(), Schema.numbered(2, rows=[]))
