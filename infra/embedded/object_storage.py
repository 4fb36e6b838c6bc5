"""Buckets, users and their rights in the embedded object store, so that a bank reaches its own prefix only.

The same calls work against AWS, where a real consortium keeps its policies as infrastructure code instead. Left
out: deleting users, rotating keys.

    root = Credentials.random()
    create_bucket(endpoint, root, "mintmark")
    bank = create_user(endpoint, root, "bank-a", "mintmark", read_prefixes=["public/", "from/bank-a/"],
                       write_prefixes=["from/bank-a/"], list_prefixes=["public/", "from/bank-a/"])
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mintmark.errors import StorageError

REGION = "us-east-1"
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret; the secret is not in `repr`.

    The root key of ministack, the embedded store, is **no security boundary**: it is accepted with any secret, and so
    are the key `test` and any account number of twelve digits. Users' secrets are checked, and their policies hold:
    that keeps banks on one machine from reading each other by mistake, not a hostile program on that machine.
    """

    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def random(cls) -> Credentials:
        """A root key nobody can guess, for a store that is about to start."""
        return cls(access_key=f"ROOT{secrets.token_hex(8).upper()}", secret_key=secrets.token_urlsafe(30))


def create_bucket(endpoint: str, root: Credentials, bucket: str) -> None:
    """Create `bucket`. Raises `StorageError` if the store refuses or does not answer."""
    s3 = _client("s3", endpoint, root)
    _ask(endpoint, f"to create bucket {bucket!r}", lambda: s3.create_bucket(Bucket=bucket))


def create_user(
    endpoint: str,
    root: Credentials,
    name: str,
    bucket: str,
    *,
    read_prefixes: Sequence[str],
    write_prefixes: Sequence[str],
    list_prefixes: Sequence[str],
    delete_prefixes: Sequence[str] = (),
) -> Credentials:
    """Create a user who may get, put, list and delete under these prefixes of `bucket`, and nothing else.

    A prefix ends with `/`, or is empty for the whole bucket (`ValueError` otherwise: `from/a` would reach `from/ab`).
    Raises `StorageError` if the store refuses, as it does for a name in use.
    """
    arn = f"arn:aws:s3:::{bucket}"
    statements = [
        _on_objects("s3:GetObject", arn, read_prefixes),
        _on_objects("s3:PutObject", arn, write_prefixes),
        _on_objects("s3:DeleteObject", arn, delete_prefixes),
        _on_list(arn, list_prefixes),
    ]
    policy = {"Version": "2012-10-17", "Statement": [one for one in statements if one]}
    iam = _client("iam", endpoint, root)

    def create() -> dict[str, str]:
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="own-prefixes", PolicyDocument=json.dumps(policy))
        key: dict[str, str] = iam.create_access_key(UserName=name)["AccessKey"]
        return key

    key = _ask(endpoint, f"to create user {name!r}", create)
    return Credentials(access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"])


def _on_objects(action: str, arn: str, prefixes: Sequence[str]) -> dict[str, Any] | None:
    resources = [f"{arn}/{_checked(prefix)}*" for prefix in prefixes]
    return {"Effect": "Allow", "Action": action, "Resource": resources} if resources else None


def _on_list(arn: str, prefixes: Sequence[str]) -> dict[str, Any] | None:
    statement = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": arn}
    if "" in prefixes:
        return statement  # a condition on s3:prefix would refuse a listing that names none
    patterns = [f"{_checked(prefix)}*" for prefix in prefixes]
    return statement | {"Condition": {"StringLike": {"s3:prefix": patterns}}} if patterns else None


def _checked(prefix: str) -> str:
    if prefix and (not prefix.endswith("/") or set(prefix) & set("*?$")):
        raise ValueError(f"expected an empty prefix or one that ends with '/', without *, ? and $, got {prefix!r}")
    return prefix


def _client(service: str, endpoint: str, credentials: Credentials) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=30, proxies={}),
    )


def _ask(endpoint: str, expected: str, call: Callable[[], _Answer]) -> _Answer:
    try:
        return call()
    except ClientError as error:
        fault = error.response["Error"]
        got = f"{error.response['ResponseMetadata']['HTTPStatusCode']} {fault.get('Code')}: {fault.get('Message')}"
    except BotoCoreError as error:
        got = str(error)
    raise StorageError(f"expected {endpoint} {expected}, got {got}; is the store up, and its folder new?")
