"""`S3Store`: the mailbox in an S3 bucket, and the only place that imports boto3.

Writes carry `If-None-Match: *`, which makes them write-once; boto3's checksums stay on. Passing trouble (500, 503, cut
connections) is retried by boto3 with back-off, for some seconds or, by a coordinator, for about a minute: as long as it
takes to start a server again. Then it becomes a `StorageError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mintmark.errors import StorageError, TooLargeError

TIMEOUT_S = 20
ATTEMPTS = 5
PATIENT_ATTEMPTS = 10
MAX_KEYS = 100_000


@dataclass(frozen=True)
class S3Location:
    """Where the mailbox is and who one is there. The secret never shows in a representation."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"


class S3Store:
    """An `ObjectStore` in one bucket."""

    def __init__(self, where: S3Location, attempts: int = ATTEMPTS) -> None:
        import boto3
        from botocore.config import Config

        self._bucket, self._attempts = where.bucket, attempts
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=where.endpoint,
            aws_access_key_id=where.access_key,
            aws_secret_access_key=where.secret_key,
            region_name=where.region,
            config=Config(
                connect_timeout=TIMEOUT_S,
                read_timeout=TIMEOUT_S,
                retries={"max_attempts": attempts, "mode": "standard"},
                s3={"addressing_style": "path"},
            ),
        )

    def get(self, key: str, *, max_bytes: int) -> bytes | None:
        from botocore.exceptions import BotoCoreError, ClientError

        for _ in range(self._attempts):  # boto3 tries a request again, not the reading of its answer
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key)
                data = bytes(answer["Body"].read(max_bytes + 1))
            except ClientError as error:
                if _status(error) == 404 and error.response["Error"].get("Code") != "NoSuchBucket":
                    return None
                raise _storage_error("read", key, error) from None
            except _broken_off():
                continue
            except (BotoCoreError, OSError) as error:
                raise _storage_error("read", key, error) from None
            if len(data) > max_bytes:
                raise TooLargeError(f"{key}: expected at most {max_bytes} bytes, got more")
            if len(data) == answer["ContentLength"]:
                return data
        raise StorageError(f"cannot read {key} in the object store: every answer broke off; is the network well?")

    def put_once(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if _status(error) == 412:
                return False
            raise _storage_error("write", key, error) from None
        except (BotoCoreError, OSError) as error:
            raise _storage_error("write", key, error) from None
        return True

    def list(self, prefix: str) -> list[str]:
        from botocore.exceptions import BotoCoreError, ClientError

        keys: list[str] = []
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                keys += [item["Key"] for item in page.get("Contents", [])]
                if len(keys) > MAX_KEYS:
                    raise StorageError(f"{prefix}: expected at most {MAX_KEYS} objects, got more")
        except (ClientError, BotoCoreError, OSError) as error:
            raise _storage_error("list", prefix, error) from None
        return sorted(keys)


def _broken_off() -> tuple[type[Exception], ...]:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
    from urllib3.exceptions import (
        ProtocolError as ConnectionBroken,
    )  # of a refusal's body, which botocore does not wrap

    return IncompleteReadError, ReadTimeoutError, ResponseStreamingError, ConnectionBroken


def _status(error: Any) -> int:
    """The server's answer; 0 when there was none (a cut connection has a response, too: None)."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _storage_error(verb: str, key: str, error: Exception) -> StorageError:
    status = _status(error) or type(error).__name__
    return StorageError(f"cannot {verb} {key} in the object store ({status}): check endpoint, credentials and policy")
