"""Where the files of `mlflow/` are: beside the code in a checkout, inside this package in an installed wheel.

That folder must never be a package (it would shadow MLflow), so `pyproject.toml` installs it as `tasks/mlflow_files/`.
"""

from __future__ import annotations

from pathlib import Path

from mintmark.errors import DataError

_HERE = Path(__file__).parent
FOLDERS = (_HERE / "mlflow_files", _HERE.parent / "mlflow")


def shipped(name: str) -> Path:
    """A file of `mlflow/`. Raises `DataError` when the installation lost it."""
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"expected {name} to be installed with Mintmark, got none; install the package again")
