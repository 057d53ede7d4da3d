import pytest

from dlrm.remote.paths import SchemeError, is_remote, local_path, object_handler, reading_manager, scheme_of


def test_a_scheme_makes_a_path_remote_unless_it_is_that_of_files():
    remote = ["s3://bucket/a", "http://host/a", "gs://bucket", "memory://a"]
    local = ["/a/b", "a/b", "a:b", "C:/a", "file:///a/b", "a//b", "://a", "runs/s3://a"]
    assert [is_remote(path) for path in remote + local] == [True] * 4 + [False] * 8
    assert scheme_of("s3://bucket/a") == "s3"
    assert scheme_of("/a") is None


def test_urls_of_files_are_paths():
    assert local_path("file:///a/b%20c") == "/a/b c"
    assert local_path("file://localhost/a") == "/a"
    assert local_path("a b/%20") == "a b/%20"
    with pytest.raises(SchemeError, match="names the host a; write file:///folder"):
        local_path("file://a/b")


def test_what_is_missing_for_a_scheme_is_named(monkeypatch):
    with pytest.raises(SchemeError, match=r"there are http://, https://, s3:// and what fsspec knows"):
        object_handler("gopher://host/a")
    with pytest.raises(SchemeError, match=r"not installed \(.*adlfs.*\); install it with pip"):
        object_handler("abfs://container/a")
    with pytest.raises(SchemeError, match="cannot be listed or written"):
        object_handler("https://host/a")
    reading_manager("https://host/a")
    monkeypatch.setattr("dlrm.remote.paths.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SchemeError, match="needs the package boto3, which is not installed; pip install boto3"):
        object_handler("s3://bucket/a")
