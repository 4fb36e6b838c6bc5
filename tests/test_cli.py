"""Both command lines from outside: what they teach, what they make, and one sentence for what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from consortium import SCHEMA
from typer.testing import CliRunner

import bank_node.cli
import flows.cli
from mintmark.schema import dump_schema

ROOT = Path(__file__).parent.parent


def run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS", "MINTMARK"))}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=kept | {"COLUMNS": "200", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    (tmp_path / "schema.toml").write_text(dump_schema(SCHEMA))
    return tmp_path / "schema.toml"


def bank_options(schema: Path, key: str = "ab" * 32) -> list[str]:
    options = {"bank": "bank-a", "coordinator-key": key, "schema": str(schema), "storage-bucket": "b"}
    options |= {"storage-endpoint": "http://127.0.0.1:9", "prefect-api": "http://127.0.0.1:9/api"}
    return [word for name, value in options.items() for word in (f"--{name}", value)]


SECRETS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "very-secret"}


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, with the words that call each."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


@pytest.mark.parametrize("app", [flows.cli.app, bank_node.cli.app], ids=["mintmark", "mintmark-bank"])
def test_help_teaches(app: typer.Typer) -> None:
    """Every command explains itself and every option and argument of it."""
    for words, command in commands(typer.main.get_command(app)):
        shown = CliRunner().invoke(app, [*words, "--help"])
        assert shown.exit_code == 0
        assert command.help, f"{' '.join(words)} has no help"
        for option in command.params:
            assert getattr(option, "help", None), f"{option.name} of {' '.join(words)} has no help"


def test_readme_names_only_options_that_exist() -> None:
    """What the README says of the demonstration is what --help offers."""
    named = set(re.findall(r"--[a-z]+", (ROOT / "README.md").read_text()))
    shown = run("flows.cli", "demo", "--help").stdout
    assert {"--epsilon", "--data", "--schema", "--report", "--keep"} <= named
    assert all(option in shown for option in named)


def test_bank_joins(schema: Path, tmp_path: Path) -> None:
    """init makes a private folder with a key and prints the card; a second init never overwrites it; books are empty."""
    home = tmp_path / "bank"
    made = run("bank_node.cli", "init", str(home), *bank_options(schema), **SECRETS)
    assert made.returncode == 0, made.stderr
    assert re.search(r"key [0-9a-f]{64}", made.stdout)
    assert re.search(r"(?:[0-9a-f]{4} ){4}[0-9a-f]{4}", made.stdout)
    assert "very-secret" not in made.stdout + made.stderr
    for private in ("identity/signing.key", "identity/storage.toml"):
        assert (home / private).stat().st_mode & 0o077 == 0
    key = (home / "identity" / "signing.key").read_bytes()
    again = run("bank_node.cli", "init", str(home), *bank_options(schema), **SECRETS)
    assert again.returncode == 1
    assert "a key is never overwritten" in again.stderr
    assert (home / "identity" / "signing.key").read_bytes() == key
    assert run("bank_node.cli", "ledger", "show", "--home", str(home)).returncode == 0


def test_wrong_input_is_one_sentence(schema: Path, tmp_path: Path) -> None:
    """A malformed key, a folder that is none, an unreachable store: one line on stderr, exit code 1, no traceback."""
    cases = [
        run("bank_node.cli", "init", str(tmp_path / "x"), *bank_options(schema, key="zz"), **SECRETS),
        run("bank_node.cli", "work", "--home", str(tmp_path / "nothing")),
        run("flows.cli", "demo", "--data", "missing.parquet"),
        run("flows.cli", "demo", "--data", "missing.parquet", "--schema", str(schema)),
        run("flows.cli", "enrol", "bank-a", "ab" * 32, "--training-rows", "9", "--home", str(tmp_path / "nothing")),
    ]
    for shown in cases:
        assert shown.returncode == 1
        assert len(shown.stderr.strip().splitlines()) == 1, shown.stderr
        assert shown.stderr.startswith("mintmark")


def test_coordinator_begins(schema: Path, tmp_path: Path) -> None:
    """init makes the coordinator's folder and prints the key that banks pin."""
    options = {"consortium": "cards", "schema": str(schema), "storage-bucket": "b", "mlflow": "http://127.0.0.1:9"}
    options |= {"storage-endpoint": "http://127.0.0.1:9", "prefect-ui": "http://127.0.0.1:9"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    made = run("flows.cli", "init", str(tmp_path / "coordinator"), *words, **SECRETS)
    assert made.returncode == 0, made.stderr
    assert re.search(r"coordinator key  [0-9a-f]{64}", made.stdout)
    for private in ("signing.key", "sealing.key", "storage.toml"):
        assert (tmp_path / "coordinator" / "identity" / private).stat().st_mode & 0o077 == 0
