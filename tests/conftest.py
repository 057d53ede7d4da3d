import gc
import hashlib
import logging
import os
import secrets
import signal
from dataclasses import dataclass
from typing import Any

import pytest

pytest_plugins = ["tests.gpus", "tests.support.predicting"]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell without job control
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Handed out first: the longest of the slow files. Those of Slurm and of lost hosts wait most of their time.
LONGEST = ("launch/test_slurm.py", "e2e/test_extending.py", "e2e/test_resume.py", "launch/test_scale_on_slurm.py")
LONGEST += ("launch/test_lost_host.py", "e2e/test_scale.py", "launch/test_status.py", "launch/test_elastic.py")


def pytest_addoption(parser):
    parser.addoption(
        "--share",
        type=int,
        default=1,
        metavar="N",
        help="run one test in N; which ones follows from SHARE_SEED (CI: the commit), so that in time all have their turn",
    )


def pytest_configure():
    gc.disable()  # until all tests are collected: importing and making them makes hardly any garbage


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_ignore_collect(collection_path, config):
    """With ``-m slow``, files that do not have the word: importing all takes longer than many a test."""
    if config.option.markexpr == "slow" and collection_path.match("test_*.py"):
        return "slow" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(config, items):
    if (share := config.getoption("--share")) > 1:
        taken = [item for item in items if is_taken(item.nodeid, share)]
        config.hook.pytest_deselected(items=[item for item in items if item not in taken])
        items[:] = taken
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


def is_taken(test, share):
    text = f"{os.environ.get('SHARE_SEED', '')} {test}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % share == 0


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests run in as many processes as there are cores: a second thread of torch's waits for one that another test has."""
    import torch  # after collecting, which has imported it anyway; not in the process that only hands out tests

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Bucket:
    """A new bucket of the S3 server on the loopback address.

    Attributes:
        url: of it; client: boto3's, to look behind the back of what is tested.
    """

    url: str
    name: str
    client: Any

    def all_keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [entry["Key"] for entry in found]

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


@pytest.fixture(scope="session")
def s3_server():
    """moto's S3 server; its endpoint."""
    from moto.server import ThreadedMotoServer  # takes a while, and few tests need it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(monkeypatch, s3_server):
    """What boto3 takes from the environment points to the server, and to nothing of this machine's user."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def s3_client(s3_server):
    import boto3

    return boto3.Session(aws_access_key_id="me", aws_secret_access_key="secret", region_name="us-east-1").client(
        "s3", endpoint_url=s3_server
    )


@pytest.fixture
def bucket(s3_settings, s3_client):
    name = f"bucket-{secrets.token_hex(4)}"
    s3_client.create_bucket(Bucket=name)
    return Bucket(f"s3://{name}", name, s3_client)
