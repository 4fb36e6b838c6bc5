"""Settings files: TOML in, a checked value out. Read where a process starts, by the bank and the coordinator alike.

key = read_toml(Path("identity/storage.toml"), StorageKey)
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mintmark.errors import DataError

MAX_SETTINGS_BYTES = 1024 * 1024
Model = TypeVar("Model", bound=BaseModel)


class StorageKey(BaseModel):
    """The contents of `identity/storage.toml`: S3 credentials."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key: str
    secret_key: str = Field(repr=False)


def read_toml(path: Path, model: type[Model]) -> Model:
    """The file as a checked value. Raises `DataError` with the file, the field, expected and got kinds; never values."""
    try:
        text = path.read_bytes()[: MAX_SETTINGS_BYTES + 1]
        if len(text) > MAX_SETTINGS_BYTES:
            raise DataError(f"{path}: expected at most {MAX_SETTINGS_BYTES} bytes, got more")
        return model.model_validate(tomllib.loads(text.decode()))
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {type(error).__name__}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise DataError(f"{path}: field {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected TOML, got something else: {error}") from None


def checked(model: type[Model], **values: object) -> Model:
    """A value from what a person typed. Raises `DataError` with the field and what was expected of it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def dump_toml(settings: BaseModel) -> str:
    """A flat settings value as TOML that `read_toml` reads back: strings and numbers, a line each."""
    values = settings.model_dump(mode="json")
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)


def _toml(value: object) -> str:
    """JSON's form, in ASCII: but TOML has no surrogate pairs, and wants DEL escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if " " <= c <= "~" else f"\\U{ord(c):08x}" for c in text)


def write_private(path: Path, text: str) -> None:
    """A new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
