"""Settings files: read strictly, written so that they are read back, and silent about what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from mintmark.errors import DataError
from mintmark.settings import MAX_SETTINGS_BYTES, StorageKey, dump_toml, read_toml, write_private

SECRET = "correct-horse-battery"


class Example(BaseModel):
    """Settings of every kind that `dump_toml` writes."""

    model_config = ConfigDict(extra="forbid")

    name: str
    count: int = 1
    share: float = 0.5
    on: bool = False
    note: str | None = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for many examples."""
    return tmp_path_factory.mktemp("settings")


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none() | st.text(st.characters(codec="utf-8"), max_size=30),
)
def test_what_is_written_is_read_back(
    folder: Path, name: str, count: int, share: float, on: bool, note: str | None
) -> None:
    """Any text, control characters and emoji included, and any number come back; what is None is left out."""
    value = Example(name=name, count=count, share=share, on=on, note=note)
    text = dump_toml(value)
    assert text.isascii()
    (folder / "example.toml").write_text(text)
    assert read_toml(folder / "example.toml", Example) == value


def test_emoji_and_delete_are_read_back(tmp_path: Path) -> None:
    """Two that JSON and TOML write differently."""
    value = Example(name="\U0001f3e6 \x7f \\ \" ' \n \t é")
    (tmp_path / "a.toml").write_text(dump_toml(value))
    assert read_toml(tmp_path / "a.toml", Example) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "field name: Field required"),
        ('name = "a"\nmore = 1', "field more: Extra inputs"),
        ('name = "a"\ncount = "many"', "field count: .*integer"),
        ("name = [1]", "field name: .*string"),
        ("name =", "expected TOML"),
        ('name = "a"\nname = "b"', "expected TOML"),
        ("a = " + "[" * 100_000, "expected TOML"),
        ("a = " + "9" * 5000, "expected TOML"),
    ],
)
def test_unfit_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """Missing, unknown or wrong fields are named; what is no TOML is said to be none."""
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_toml(path, Example)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder, other bytes than text, and a file that is too long."""
    with pytest.raises(DataError, match="expected a readable file, got FileNotFoundError"):
        read_toml(tmp_path / "none.toml", Example)
    with pytest.raises(DataError, match="expected a readable file, got IsADirectoryError"):
        read_toml(tmp_path, Example)
    path = tmp_path / "a.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(DataError, match="expected TOML"):
        read_toml(path, Example)
    path.write_bytes(b"#" * (MAX_SETTINGS_BYTES + 1))
    with pytest.raises(DataError, match=f"at most {MAX_SETTINGS_BYTES} bytes"):
        read_toml(path, Example)


@pytest.mark.parametrize(
    "text",
    [
        f'access_key = "a"\nsecret_key = ["{SECRET}"]',
        f'access_key = "a"\nsecret_key = "{SECRET}"\nmore = "{SECRET}"',
        f'access_key = "a"\nsecret_key = "{SECRET}',
        f'access_key = "a"\nsecret_key = {SECRET}',
        f'access_key = "a"\nsecret_key = "{SECRET}" "{SECRET}"',
    ],
)
def test_errors_hold_no_secrets(tmp_path: Path, text: str) -> None:
    """Whatever is wrong with a file of secrets, the error does not repeat them, nor does its chain."""
    path = tmp_path / "storage.toml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_toml(path, StorageKey)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_keys_hide_their_secret(tmp_path: Path) -> None:
    """The secret is in the value and in no representation of it."""
    path = tmp_path / "storage.toml"
    write_private(path, dump_toml(StorageKey(access_key="access", secret_key=SECRET)))
    key = read_toml(path, StorageKey)
    assert key.secret_key == SECRET
    assert SECRET not in repr(key)
    assert SECRET not in str(key)


def test_private_files_are_private(tmp_path: Path) -> None:
    """Only the owner may read it, and nothing is overwritten."""
    path = tmp_path / "private"
    write_private(path, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_private(path, "two")
    assert path.read_text() == "one"
