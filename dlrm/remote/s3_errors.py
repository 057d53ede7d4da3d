"""What boto3 raises, as OSError with a line for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
)
from botocore.exceptions import ConnectionError as FailedConnection

from dlrm.remote.objects import StoreError, missing

NOT_OFFERED = {"NotImplemented", "501"}
"""What stores answer that are like S3, but not in this."""
_MISSING = {"NoSuchKey", "404", "NotFound"}
_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "500", "502", "503", "504"}
_NO_ANSWER = (FailedConnection, HTTPClientError, IncompleteReadError)
"""The connection could not be made, broke, or nothing came through it in time."""


def code_of(error: ClientError) -> str:
    """The store's word for what is wrong; for an answer without a body, its HTTP status."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


@contextmanager
def s3_errors(url: str) -> Iterator[None]:
    """Raise what goes wrong with the store as FileNotFoundError or StoreError."""
    try:
        yield
    except ClientError as error:
        if code_of(error) in _MISSING:
            raise missing(url) from error
        raise StoreError(_answered(error), url, may_pass=code_of(error) in _BUSY) from error
    except (BotoCoreError, Boto3Error) as error:
        raise StoreError(_unanswered(error), url, may_pass=isinstance(error, _NO_ANSWER)) from error


def _answered(error: ClientError) -> str:
    code = code_of(error)
    words = _one_line(error.response.get("Error", {}).get("Message") or code)
    if code == "NoSuchBucket":
        return "there is no such bucket (make it, or check its name and AWS_ENDPOINT_URL)"
    if code in _CREDENTIALS:
        return f"the store does not accept the credentials ({code}: {words}; check AWS_ACCESS_KEY_ID and its secret)"
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        needed = "reading, listing, writing and removing objects and uploads there"
        return f"permission is denied ({code}; {needed} has to be allowed)"
    if code in _BUSY:
        tries = 1 + int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))
        return f"the store failed {tries} times ({code}: {words}; try again later)"
    return f"the store refuses it ({code}: {words})"


def _unanswered(error: Exception) -> str:
    endpoint = str(getattr(error, "kwargs", {}).get("endpoint_url", "")).split("?")[0]
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return (
            "there are no credentials for the store (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    if isinstance(error, ProfileNotFound):
        return f"{_one_line(error)} (check AWS_PROFILE)"
    if isinstance(error, EndpointConnectionError):
        return f"no connection to {endpoint} (check AWS_ENDPOINT_URL and the network)"
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return f"no answer in time from {endpoint} (check AWS_ENDPOINT_URL and the network)"
    if isinstance(error, ConnectionClosedError):
        return f"the connection to {endpoint} broke before there was an answer (try again later)"
    return f"the store cannot be used ({_one_line(error)})"


def _one_line(words: object) -> str:
    return " ".join(str(words).split())
