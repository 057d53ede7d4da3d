"""What a store of objects may refuse or fail to do, and what is said of it."""

import socket
import threading

import pytest

from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.remote import RemoteStorage, located
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.save import prepare
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.storage import LocalStorage
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import CheckpointError
from dlrm.remote.s3 import S3Handler, S3Limits
from tests.unit.checkpoint.remote_runs import (
    RANKS,
    Run,
    a_lesser_store,
    failing_requests,
    refused_requests,
    save_by_threads,
)
from tests.unit.checkpoint.states import cut_up, random_state


def error_of(action) -> str:
    with pytest.raises(CheckpointError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def storage_with(**limits):
    return RemoteStorage(S3Handler(S3Limits(connect_s=0.2, answer_s=0.2, attempts=1, **limits)))


def test_a_dead_or_slow_endpoint_is_one_line_within_the_limits(s3_settings, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # nobody listens yet
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        storage = storage_with()
        error = error_of(lambda: newest_good("s3://bucket/run", storage=storage))
        assert error == f"s3://bucket/run: no connection to {endpoint}/bucket (check AWS_ENDPOINT_URL and the network)"
        server.listen()
        error = error_of(lambda: prepare(storage, "s3://bucket/run", 1))
        assert error.startswith(f"s3://bucket/run: no answer in time from {endpoint}/bucket (check AWS_ENDPOINT_URL")
        assert "the state was not saved" in error
    with failing_requests(0, "down") as requests:
        error_of(lambda: newest_good("s3://bucket/run", storage=RemoteStorage(S3Handler())))
    assert requests.count == 8
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with failing_requests(0, "down") as requests:
        error_of(lambda: newest_good("s3://bucket/run", storage=RemoteStorage(S3Handler())))
    assert requests.count == 2


def test_a_server_that_stops_in_the_middle_is_one_line(s3_settings, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                head = b'HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\nETag: "x"\r\n\r\n'
                connection.sendall(head + b"half")
                finished.wait(10)

        finished, thread = threading.Event(), threading.Thread(target=serve)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(OSError, match="no answer in time"):
            storage_with().read("s3://bucket/file", 0, 100)
        finished.set()
        thread.join()


def test_what_the_store_does_not_allow_is_one_line_with_its_hint(bucket, s3, s3_settings, monkeypatch):
    nowhere = f"{bucket.url}-nowhere/run"
    assert "there is no such bucket (make it," in error_of(lambda: newest_good(nowhere, storage=s3))
    assert "there is no such bucket (make it," in error_of(lambda: prepare(s3, nowhere, 1))
    assert "names no bucket" in error_of(lambda: newest_good("s3:///run", storage=s3))
    answers = {
        "AccessDenied": "permission is denied (AccessDenied; reading, listing, writing and removing",
        "InvalidAccessKeyId": "does not accept the credentials (InvalidAccessKeyId",
        "SlowDown": "the store failed 3 times (SlowDown",
        "Odd": "the store refuses it (Odd: words)",
    }
    for code, words in answers.items():
        with refused_requests(code):
            assert words in error_of(lambda: newest_good(f"{bucket.url}/run", storage=s3))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "there are no credentials for the store (set AWS_ACCESS_KEY_ID" in error_of(
        lambda: newest_good(f"{bucket.url}/run", storage=storage_with())
    )
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "(check AWS_PROFILE)" in error_of(lambda: newest_good(f"{bucket.url}/run", storage=storage_with()))


def test_a_store_without_conditions_holds_checkpoints_as_well(folder, s3):
    with a_lesser_store() as refused:
        run = Run(s3, folder)
        run.save(2)
        run.save(3)
        with pytest.raises(FileExistsError):
            s3.put(f"{folder}/step_00000003/COMMITTED", b"x")
        assert prune(folder, keep=2, storage=s3) == [f"{folder}/step_00000001"]
        assert s3.names(folder) == ["step_00000002", "step_00000003"]
        assert run.loaded_step() == 3
    assert any("uploads" in url for url in refused)
    assert any(url.endswith("COMMITTED") for url in refused)


def test_paths_and_urls_find_their_storage(tmp_path, bucket, s3):
    assert isinstance(located(str(tmp_path))[0], LocalStorage)
    storage, path = located(f"file://{tmp_path}/a%20b")
    assert (type(storage), path) == (LocalStorage, f"{tmp_path}/a b")
    assert isinstance(located("s3://bucket/a")[0], RemoteStorage)
    assert located("s3://bucket/a/")[1] == "s3://bucket/a"
    assert located(tmp_path, s3) == (s3, str(tmp_path))
    save_by_threads(LocalStorage(), str(tmp_path), 1, cut_up(random_state(1), 1, RANKS))
    assert newest_good(f"file://{tmp_path}")[0] is not None
    assert open_checkpoint(f"file://{tmp_path}/step_00000001").step == 1
    assert "has a scheme that cannot be read" in error_of(lambda: newest_good("gopher://host/run"))
    assert "cannot be listed or written" in error_of(lambda: AsyncSaver("https://host/run", OneProcess()))


def test_without_boto3_what_to_install_is_said(monkeypatch):
    monkeypatch.setattr("dlrm.remote.paths.importlib.util.find_spec", lambda name: None)
    error = error_of(lambda: AsyncSaver("s3://bucket/run", OneProcess()))
    assert error == "s3://bucket/run: needs the package boto3, which is not installed; pip install boto3"
