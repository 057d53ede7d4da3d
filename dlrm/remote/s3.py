"""s3:// for iopath: its own handler's place, with boto3's client.

iopath's S3PathHandler downloads a whole object to open it, holds a whole object in memory to write it, replaces what is
there, takes a refused permission for a missing object, and sets no limits of time. What checkpoints need (ranges, streams
of parts, If-None-Match, errors in words) is therefore done with boto3's client. Endpoint, region, credentials and retries
come from where boto3 takes them: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_PROFILE, ~/.aws/config and so on.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dlrm.remote.objects import Entry, NewObject, ObjectHandler, Range, StoreError, missing
from dlrm.remote.s3_errors import NOT_OFFERED, code_of, s3_errors
from dlrm.remote.s3_upload import PART_BYTES, Upload

SCHEME = "s3"


@dataclass(frozen=True)
class S3Limits:
    """How long to wait, and how often to try.

    botocore (mode ``standard``, unless AWS_RETRY_MODE or the profile says otherwise) repeats a request that met a broken or
    refused connection, no answer in time, HTTP 500, 502, 503, 504, or a store that asks to slow down; after pauses that
    double from 0.05 s (1 s for a slow store) to 20 s, at random shorter, and no more once dozens have failed without a
    success between. Nothing else is repeated: not a refused permission, and not a missing bucket. So a store that is down
    for a few seconds does no harm; one that refuses connections is given up after about 3 s, one that does not answer at
    all after 40 s, and one that takes requests and says nothing after 4 minutes.

    Attributes:
        connect_s: for a connection; answer_s: for the next bytes of an answer.
        attempts: for a request, unless AWS_MAX_ATTEMPTS or the profile says how many, and for the rest of an object whose
            stream breaks.
        part_bytes: of an upload in parts; several are in memory at once.
    """

    connect_s: float = 5.0
    answer_s: float = 30.0
    attempts: int = 8
    part_bytes: int = PART_BYTES


class S3Handler(ObjectHandler):
    """Objects at ``s3://bucket/key``."""

    def __init__(self, limits: S3Limits | None = None) -> None:
        super().__init__(SCHEME)
        self._limits, self._lock, self._made = limits or S3Limits(), threading.Lock(), None

    def client(self, url: str) -> Any:
        """boto3's client, which threads may share; made at its first use."""
        with self._lock, s3_errors(url):
            if self._made is None:
                session = botocore.session.get_session()
                asked = {name: session.get_config_variable(name) for name in ("max_attempts", "retry_mode")}
                retries = {"total_max_attempts": asked["max_attempts"] or self._limits.attempts}
                config = Config(
                    connect_timeout=self._limits.connect_s,
                    read_timeout=self._limits.answer_s,
                    retries={**retries, "mode": asked["retry_mode"] or "standard"},
                    tcp_keepalive=True,
                    max_pool_connections=32,
                )
                self._made = boto3.Session(botocore_session=session).client("s3", config=config)
            return self._made

    def reader(self, url: str, start: int, size: int | None) -> Range:
        """A stream of a range, by one request."""
        return _Range(self, url, start, size, self._limits.attempts)

    def new(self, url: str) -> NewObject:
        """A new object; refused at its end even if it came to be in the meantime, where the store heeds If-None-Match."""
        bucket, key = split(url)
        return Upload(self.client(url), bucket, key, url, part_bytes=self._limits.part_bytes)

    def below(self, folder: str) -> Iterator[Entry]:
        """Every object below; asks for a thousand at a time."""
        bucket, prefix = split(folder, "/")
        with s3_errors(folder):
            for page in self._client_pages(folder, Bucket=bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    yield Entry(f"s3://{bucket}/{found['Key']}", found["Size"], found["LastModified"].timestamp())

    def stat(self, url: str) -> Entry:
        """Size and age."""
        bucket, key = split(url)
        with s3_errors(url):
            found = self.client(url).head_object(Bucket=bucket, Key=key)
        return Entry(url, found["ContentLength"], found["LastModified"].timestamp())

    def clear_unfinished(self, folder: str) -> None:
        """Drop uploads in parts whose writer has died; they are invisible and cost money."""
        bucket, prefix = split(folder, "/")
        with s3_errors(folder):
            client = self.client(folder)
            try:
                pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
                found = [upload for page in pages for upload in page.get("Uploads", ())]
            except ClientError as error:
                if code_of(error) in NOT_OFFERED:
                    return  # a rule of the bucket has to do it
                raise
            for upload in found:
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _client_pages(self, url: str, **options: Any) -> Any:
        return self.client(url).get_paginator("list_objects_v2").paginate(**options)

    def _ls(self, path: str, **_: Any) -> list[str]:
        """Names of what is directly in a folder."""
        bucket, prefix = split(path, "/")
        names: set[str] = set()
        with s3_errors(path):
            for page in self._client_pages(path, Bucket=bucket, Prefix=prefix, Delimiter="/"):
                names.update(found["Key"][len(prefix) :] for found in page.get("Contents", ()))
                names.update(found["Prefix"][len(prefix) : -1] for found in page.get("CommonPrefixes", ()))
        # The object that stands for an empty folder in some tools has the folder's own name.
        if not names:
            raise missing(path)
        return sorted(names - {""})

    def _isdir(self, path: str, **_: Any) -> bool:
        bucket, prefix = split(path, "/")
        with s3_errors(path):
            return bool(self.client(path).list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"))

    def _isfile(self, path: str, **_: Any) -> bool:
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    def _exists(self, path: str, **_: Any) -> bool:
        return self._isfile(path) or self._isdir(path)

    def _rm(self, path: str, **_: Any) -> None:
        """Remove an object; S3 does not say whether there was one."""
        bucket, key = split(path)
        with s3_errors(path):
            self.client(path).delete_object(Bucket=bucket, Key=key)

    def _copy(self, src_path: str, dst_path: str, overwrite: bool = False, **_: Any) -> bool:
        """Copy an object within the store, in parts if it is large; what is there is replaced."""
        if not overwrite:
            raise ValueError("does not look at what is there: overwrite has to be set")
        (bucket, key), (new_bucket, new_key) = split(src_path), split(dst_path)
        with s3_errors(src_path):
            self.client(src_path).copy({"Bucket": bucket, "Key": key}, new_bucket, new_key)
        return True


def split(url: str, end: str = "") -> tuple[str, str]:
    """Bucket and key; the key of a folder ends with ``end``, that of the bucket itself is empty."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise StoreError("names no bucket (write s3://bucket/folder)", url)
    return bucket, f"{key.rstrip('/')}{end}" if end and key.rstrip("/") else key


class _Range(Range):
    """The bytes of a range as they arrive; where a stream breaks, another one goes on from there."""

    def __init__(self, handler: S3Handler, url: str, start: int, size: int | None, attempts: int) -> None:
        super().__init__()
        self._handler, self._url, self._attempts = handler, url, attempts
        self._at, self._end = start, None if size is None else start + size
        self._version: dict[str, str] = {}
        self._body: Any = None
        self.size = self._request()

    def _request(self) -> int:
        bucket, key = split(self._url)
        wanted = f"bytes={self._at}-{'' if self._end is None else self._end - 1}"
        ranged = {} if self._at == 0 and self._end is None else {"Range": wanted}  # an empty object has no range
        with s3_errors(self._url):
            client = self._handler.client(self._url)
            try:
                answer = client.get_object(Bucket=bucket, Key=key, **ranged, **self._version)
            except ClientError as error:
                if code_of(error) != "InvalidRange":
                    raise
                self._body = io.BytesIO()  # it begins at or beyond the end
                return 0
        self._body, self._version = answer["Body"], {"IfMatch": answer["ETag"]}
        self._end = self._at + int(answer["ContentLength"])
        return int(answer["ContentLength"])

    def readinto(self, buffer: Any) -> int:
        for attempt in range(self._attempts):
            try:
                if attempt:
                    self._request()
                count = self._body.readinto(buffer)
                break
            except BotoCoreError:
                if attempt == self._attempts - 1:
                    with s3_errors(self._url):
                        raise
        self._at += count
        return int(count)

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
        super().close()
