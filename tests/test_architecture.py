"""The directions of import, held by reading the code."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("mintmark", "bank_node", "tasks", "flows", "infra", "benchmarks")
FILES = sorted(path for package in OURS[:-1] for path in (ROOT / package).rglob("*.py"))

# What each package may import of ours.
MAY_IMPORT = {
    "mintmark": {"mintmark"},
    "bank_node": {"mintmark", "bank_node"},
    "tasks": {"mintmark", "tasks"},
    "flows": {"mintmark", "tasks", "flows", "infra"},
    "infra": {"mintmark", "bank_node", "tasks", "flows", "infra", "benchmarks"},  # plays both sides, and liars
}
# Where a package from outside may be imported: a folder or a file.
ONLY_IN = {
    "prefect": ("flows/", "tasks/", "bank_node/worker.py", "bank_node/bell.py"),
    "boto3": ("mintmark/s3.py", "infra/embedded/object_storage.py"),
    "botocore": ("mintmark/s3.py", "infra/embedded/object_storage.py"),
    "mlflow": ("tasks/alias.py", "tasks/register.py", "tasks/runs.py", "tasks/stored_model.py"),
    "lightgbm": (
        "mintmark/models/",
        "bank_node/personal/own_model.py",
        "infra/embedded/comparison.py",
        "tasks/register.py",
        "tasks/stored_model.py",
    ),
    "numba": (
        "mintmark/aggregation/kernels.py",
        "mintmark/models/kernels.py",
        "mintmark/models/shapley_kernel.py",
        "mintmark/privacy/kernels.py",
    ),
    "duckdb": ("infra/embedded/dataset.py",),
    "opendp": ("mintmark/privacy/mechanism.py", "bank_node/local_round.py"),
    "dp_accounting": ("mintmark/privacy/accountant.py", "bank_node/local_round.py"),
    "starlette": ("infra/gateway/", "bank_node/serving/"),
    "uvicorn": ("infra/gateway/", "bank_node/serving/"),
    "websockets": ("infra/gateway/",),
    "pickle": (),
    "cloudpickle": (),
    "joblib": (),
    "dill": (),
    "importlib": (),
}


def imports(path: Path) -> set[str]:
    """The top-level names of all packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_directions(path: Path) -> None:
    """flows -> tasks -> mintmark <- bank_node, and packages from outside only where the table says."""
    where, found = str(path.relative_to(ROOT)), imports(path)
    assert found & set(OURS) <= MAY_IMPORT[where.split("/")[0]]
    for package, places in ONLY_IN.items():
        assert package not in found or where.startswith(places or "nowhere"), f"{where} imports {package}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_from_outside(path: Path) -> None:
    """No eval, exec, __import__ or compile, and no print in the core."""
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    forbidden = {"eval", "exec", "__import__", "compile"} | (
        {"print", "input"} if path.is_relative_to(ROOT / "mintmark") else set()
    )
    assert not calls & forbidden


def test_core_has_no_clock_environment_or_global_randomness() -> None:
    """In mintmark/, time, the environment and random generators are arguments."""
    for path in (ROOT / "mintmark").rglob("*.py"):
        text = path.read_text()
        for word in ("os.environ", "datetime.now", "time.time", "np.random.seed", "default_rng()", "import random"):
            assert word not in text, f"{path.name} uses {word}"


def test_mlflow_folder_does_not_shadow_the_package() -> None:
    """mlflow/ at the top level holds no Python, and the name still means the installed package."""
    assert not list((ROOT / "mlflow").rglob("*.py"))
    found = importlib.util.find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    assert ROOT / "mlflow" not in Path(found.origin).parents


def test_dependency_pins_name_no_address() -> None:
    """The constraints hold versions only, and no fastapi that Prefect's server cannot start with."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all("/" not in line and "@" not in line for line in lines)
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert (0, 150) <= tuple(map(int, pins["fastapi"].split(".")[:2])) < (0, 155)
