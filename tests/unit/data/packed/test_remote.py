"""Remote packed data sets, from a real HTTP server on the loopback address."""

import contextlib
import errno
import http.server
import json
import os
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dlrm.data.packed import remote
from dlrm.data.packed.folder import open_packed
from dlrm.data.packed.remote import is_remote
from dlrm.errors import DataError
from tests.unit.data.packed.packed_files import record, write_days, write_manifest

SIZES = (50, 40, 30)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path in self.server.broken:
            self.send_error(self.server.broken[self.path])
        else:
            super().do_GET()

    def copyfile(self, source, outputfile):
        if self.path in self.server.cut:
            outputfile.write(source.read(200))  # fewer bytes than Content-Length says
            outputfile.flush()
            self.close_connection = True
        else:
            super().copyfile(source, outputfile)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and the server of it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served" / "my data"
    folder.mkdir(parents=True)
    handler = partial(Handler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked, server.broken, server.cut = [], {}, set()
        server.folder = folder
        server.url = f"http://127.0.0.1:{server.server_port}/my data"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def opened(served, cache, **options):
    return open_packed(served.url, cache_dir=str(cache), **options)


def error_of(served, cache, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(served, cache, **options)
    assert str(caught.value).isprintable()
    assert caught.value.hint
    return caught.value


def cached(cache) -> Path:
    (folder,) = cache.iterdir()
    return folder


def test_a_remote_data_set_is_what_was_uploaded_and_is_fetched_once(served, cache):
    written = write_days(served.folder, SIZES, multi_hot=True, manifest=True)
    for _ in range(2):
        found = opened(served, cache)
        assert found.path == str(cached(cache))
        for part, right in zip(found.parts, written, strict=True):
            np.testing.assert_array_equal(part.sparse_MF, right.sparse_MF)
            np.testing.assert_array_equal(part.dense_MN, right.dense_MN)
    kinds = [path.partition("_")[2].partition("_")[2] for path in served.asked if path.endswith(".npy")]
    assert sorted(kinds) == ["dense.npy"] * 3 + ["labels.npy"] * 3 + ["sparse.npy"] * 3
    assert served.asked.count("/my%20data/dataset.json") == 2
    assert (cached(cache) / "dataset.json").read_bytes() == (served.folder / "dataset.json").read_bytes()


def test_multi_hot_files_are_fetched_when_they_are_asked_for(served, cache):
    write_days(served.folder, SIZES, multi_hot=True, manifest=True)
    assert opened(served, cache, multi_hot=True).parts[2].multi_hot is not None
    assert not any(path.endswith("_sparse.npy") for path in served.asked)
    assert opened(served, cache).parts[2].sparse_MF.shape == (30, 3)


def test_a_cached_folder_can_be_opened_as_a_local_one(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    path = opened(served, cache).path
    assert len(open_packed(path).parts) == 3


def test_another_manifest_is_another_folder(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    first = opened(served, cache).path
    written = write_days(served.folder, (50, 40, 10), manifest=True)
    second = opened(served, cache)
    assert second.path != first
    np.testing.assert_array_equal(second.parts[2].dense_MN, written[2].dense_MN)
    assert len(open_packed(first).parts[2].labels_MT) == 30


def test_a_cached_file_of_another_size_is_fetched_anew(served, cache):
    written = write_days(served.folder, SIZES, manifest=True)
    folder = Path(opened(served, cache).path)
    os.truncate(folder / "day_1_dense.npy", 100)
    np.testing.assert_array_equal(opened(served, cache).parts[1].dense_MN, written[1].dense_MN)
    assert served.asked.count("/my%20data/day_1_dense.npy") == 2
    assert served.asked.count("/my%20data/day_0_dense.npy") == 1


def test_ranks_of_a_host_fetch_each_file_once(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    with ThreadPoolExecutor(6) as ranks:
        folders = list(ranks.map(lambda _: opened(served, cache), range(6)))
    assert len({folder.path for folder in folders}) == 1
    files = [path for path in served.asked if path.endswith(".npy")]
    assert len(files) == len(set(files)) == 9


def test_what_was_fetched_before_a_failure_is_not_fetched_again(served, cache, monkeypatch):
    monkeypatch.setattr(remote, "_FILES_AT_ONCE", 1)
    write_days(served.folder, SIZES, manifest=True)
    served.broken["/my%20data/day_2_labels.npy"] = 500
    error_of(served, cache)
    assert not (cached(cache) / "dataset.json").exists(), "a folder that is not whole has no manifest"
    served.broken.clear()
    served.asked.clear()
    opened(served, cache)
    assert sorted(served.asked) == ["/my%20data/dataset.json", "/my%20data/day_2_labels.npy"]


def test_nothing_unfinished_stays_in_the_cache(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    with open(served.folder / "day_1_sparse.npy", "r+b") as file:
        file.seek(300)
        file.write(b"\xff")
    error_of(served, cache)
    assert not (cached(cache) / "day_1_sparse.npy").exists()
    assert all(path.suffix == ".lock" for path in (cached(cache) / ".unfinished").iterdir())


def test_a_missing_object_is_one_line(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    (served.folder / "day_1_labels.npy").unlink()
    error = error_of(served, cache)
    assert str(error).startswith(f"{served.url}/day_1_labels.npy: is missing (HTTP 404 File not found); ")


def test_a_missing_manifest_is_one_line(served, cache):
    write_days(served.folder, SIZES)
    assert str(error_of(served, cache)).startswith(f"{served.url}/dataset.json: is missing (HTTP 404 ")


def test_a_bad_manifest_is_one_line(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    content = json.loads((served.folder / "dataset.json").read_text())
    content["parts"][0]["files"]["dense"]["name"] = "../../x.npy"
    (served.folder / "dataset.json").write_text(json.dumps(content))
    error = error_of(served, cache)
    assert error.path == f"{served.url}/dataset.json"
    assert "the path '../../x.npy' leaves the folder" in error.problem
    assert not cache.exists()


@pytest.mark.parametrize(("size", "found"), [(-8, "600"), (8, "more than 608")])
def test_an_object_of_another_size_is_one_line(served, cache, size, found):
    write_days(served.folder, SIZES, manifest=True)
    path = served.folder / "day_1_dense.npy"
    path.write_bytes(path.read_bytes()[:size] if size < 0 else path.read_bytes() + bytes(size))
    error = error_of(served, cache)
    assert (
        str(error)
        == f"{served.url}/day_1_dense.npy: has {found} bytes, dataset.json says 608; upload the data set again"
    )


def test_an_object_with_other_bytes_is_one_line(served, cache):
    write_days(served.folder, SIZES)
    manifest = record(served.folder, SIZES)
    content = (served.folder / "day_1_dense.npy").read_bytes()
    (served.folder / "day_1_dense.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    write_manifest(served.folder, manifest)
    error = error_of(served, cache)
    assert error.path == f"{served.url}/day_1_dense.npy"
    assert f"dataset.json says {manifest.parts[1].files['dense'].sha256[:12]}.." in error.problem


def test_a_connection_that_breaks_is_one_line(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    served.cut.add("/my%20data/day_0_dense.npy")
    error = error_of(served, cache)
    assert error.path == f"{served.url}/day_0_dense.npy"


def test_a_refused_connection_is_one_line(cache, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/data"
        with pytest.raises(DataError) as caught:
            open_packed(url, cache_dir=str(cache))
    expected = f"{url}/dataset.json: cannot be read (Connection refused); check the URL and the network"
    assert str(caught.value) == expected


def test_a_server_that_refuses_is_one_line(served, cache):
    served.broken["/my%20data/dataset.json"] = 403
    assert "cannot be read (HTTP 403 Forbidden)" in str(error_of(served, cache))


def test_a_host_that_is_none_is_one_line(cache):
    with pytest.raises(DataError) as caught:
        open_packed("http://[not-a-host/data", cache_dir=str(cache))
    assert str(caught.value).isprintable()


def test_a_disk_without_room_is_one_line_before_anything_is_fetched(served, cache, monkeypatch):
    write_days(served.folder, SIZES, manifest=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 999, 999))
    error = error_of(served, cache)
    needed = sum(path.stat().st_size for path in served.folder.glob("*.npy"))
    assert error.path == str(cached(cache))
    assert error.problem == f"has too little room: {needed:,} bytes are to come, 999 are free"
    assert served.asked == ["/my%20data/dataset.json"]


def test_a_disk_that_fills_up_is_one_line(served, cache, monkeypatch):
    write_days(served.folder, SIZES, manifest=True)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    error = error_of(served, cache)
    assert error.problem == "cannot be written (No space left on device)"
    assert "data.cache_dir" in error.hint
    with contextlib.suppress(FileNotFoundError):
        assert not (cached(cache) / "dataset.json").exists()


def test_a_cache_that_is_a_file_is_one_line(served, cache):
    write_days(served.folder, SIZES, manifest=True)
    cache.write_text("")
    assert "cannot be written (Not a directory)" in str(error_of(served, cache))


def test_unknown_schemes_are_refused_and_the_known_ones_named(cache):
    with pytest.raises(DataError) as caught:
        open_packed("gopher://host/data", cache_dir=str(cache))
    assert str(caught.value).startswith(
        "gopher://host/data: has a scheme that cannot be read; there are http://, https://"
    )


def test_s3_without_boto3_says_what_to_install(cache, monkeypatch):
    monkeypatch.setattr("dlrm.remote.paths.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"^s3://bucket/data: needs the package boto3, .*; pip install boto3$"):
        open_packed("s3://bucket/data", cache_dir=str(cache))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("http://a/b", True), ("s3://a/b", True), ("/a/b", False), ("a/b", False), ("a:b", False), ("C:/a", False)],
)
def test_a_scheme_makes_a_path_remote(path, expected):
    assert is_remote(path) == expected
