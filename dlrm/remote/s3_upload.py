"""Writing an object to S3 as its bytes come, in parts, so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from botocore.exceptions import ClientError

from dlrm.remote.objects import taken
from dlrm.remote.s3_errors import NOT_OFFERED, code_of, s3_errors

PART_BYTES = 16 << 20
"""S3 takes at most 10,000 parts of at least 5 MiB: with these, objects of up to 160 GB."""
PARTS_AT_ONCE = 4
_WRITER = "writer"
_NOT_ALONE = {"PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchUpload"}


class Upload:
    """A new object; what is not larger than a part is one request.

    The object tells who wrote it (metadata), because a request that succeeded without an answer is repeated and then finds
    an object: its own.

    Raises:
        FileExistsError: there is an object.
    """

    def __init__(self, client: Any, bucket: str, key: str, url: str, *, part_bytes: int) -> None:
        self._client, self._url, self._part_bytes = client, url, part_bytes
        self._where = {"Bucket": bucket, "Key": key}
        self._writer = secrets.token_hex(8)
        self._part = bytearray()
        self._id: str | None = None
        self._sent: list[Future[dict[str, Any]]] = []
        self._threads = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload")
        if self._found_writer() is not None:  # not every store heeds the condition at the end
            raise taken(url)

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``; waits while as many parts as may are on their way."""
        rest = memoryview(data).cast("B")
        while rest:
            if len(self._part) == self._part_bytes:
                self._send()
            count = self._part_bytes - len(self._part)
            self._part += rest[:count]
            rest = rest[count:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with s3_errors(self._url):
                    self._finish()
        finally:
            self._threads.shutdown(cancel_futures=True)
            if self._id is not None:
                # Of a finished upload nothing is left to drop. What fails here is dropped with the folder.
                with contextlib.suppress(OSError), s3_errors(self._url):
                    self._client.abort_multipart_upload(**self._where, UploadId=self._id)

    def _send(self) -> None:
        """Let a thread upload the part that is full."""
        with s3_errors(self._url):
            if self._id is None:
                begun = self._client.create_multipart_upload(**self._where, Metadata={_WRITER: self._writer})
                self._id = begun["UploadId"]
            if len(self._sent) >= PARTS_AT_ONCE:
                self._sent[-PARTS_AT_ONCE].result()
            number, body, self._part = len(self._sent) + 1, self._part, bytearray()
            self._sent.append(self._threads.submit(self._send_part, number, body))

    def _send_part(self, number: int, body: bytearray) -> dict[str, Any]:
        answer = self._client.upload_part(**self._where, UploadId=self._id, PartNumber=number, Body=body)
        checksums = {name: value for name, value in answer.items() if name in ("ETag", "ChecksumCRC32")}
        return {"PartNumber": number, **checksums}

    def _finish(self) -> None:
        if self._id is None:
            self._unless_there(self._client.put_object, Body=self._part, Metadata={_WRITER: self._writer})
            return
        self._send()
        parts = [part.result() for part in self._sent]
        self._unless_there(self._client.complete_multipart_upload, UploadId=self._id, MultipartUpload={"Parts": parts})
        self._id = None

    def _unless_there(self, request: Any, **content: Any) -> None:
        """Make the object unless there is one."""
        try:
            try:
                request(**self._where, **content, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) not in NOT_OFFERED:
                    raise
                request(**self._where, **content)
        except ClientError as error:
            if code_of(error) not in _NOT_ALONE:
                raise
            found = self._found_writer()
            if found is None:
                raise
            if found != self._writer:
                raise taken(self._url) from error

    def _found_writer(self) -> str | None:
        """Who wrote the object that is there; None if there is none."""
        try:
            with s3_errors(self._url):
                return str(self._client.head_object(**self._where)["Metadata"].get(_WRITER, ""))
        except FileNotFoundError:
            return None
