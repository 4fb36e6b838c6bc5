"""The demonstration from outside, as a user runs it: a whole campaign with real processes and real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from consortium import SCHEMA, payments

from mintmark.schema import dump_schema

TIMEOUT_S = 240
COMMAND = [sys.executable, "-m", "flows.cli", "demo"]


@pytest.fixture(scope="module")
def input_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Parquet file of three banks' payments that the project did not make, and its schema."""
    folder = tmp_path_factory.mktemp("input")
    parts = []
    for number, rows in enumerate((6000, 4000, 2500)):
        columns = payments(rows, seed=number, customers=rows // 5, prefix=number * 10**6)
        parts.append(pa.table({name: pa.array(value, from_pandas=True) for name, value in columns.items()}))
        parts[-1] = parts[-1].append_column("bank", pa.array(np.full(rows, number)))
    pq.write_table(pa.concat_tables(parts), folder / "payments.parquet")
    (folder / "schema.toml").write_text(dump_schema(SCHEMA))
    return folder / "payments.parquet", folder / "schema.toml"


def arguments(files: tuple[Path, Path]) -> list[str]:
    return ["--data", str(files[0]), "--schema", str(files[1]), "--rounds", "3", "--epsilon", "5"]


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """The output up to the line that matches; fails when it ends before."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if re.search(pattern, line):
            return text
    raise AssertionError(f"the demo ended before {pattern!r}:\n{text}")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def listening(processes: list[psutil.Process]) -> set[int]:
    return {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def assert_nothing_left(processes: list[psutil.Process], ports: set[int]) -> None:
    assert [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is still open"


@pytest.fixture
def started(input_files: tuple[Path, Path], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that stays up, with its temporary files where the test can see what is left of them."""
    process = subprocess.Popen(
        [*COMMAND, *arguments(input_files), "--keep", "--report", str(tmp_path / "report.json")],
        env=os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)


@pytest.mark.servers
def test_whole_campaign_on_data_of_its_own(
    started: subprocess.Popen[str], input_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Data in, a registered model out: report, ledgers, Prefect and MLflow agree; Ctrl-C leaves nothing behind."""
    output = read_until(started, "Everything stays up")
    report = json.loads((tmp_path / "report.json").read_text())
    banks = ["bank-0", "bank-1", "bank-2"]
    assert sorted(report["auprc"]["local"]) == sorted(report["epsilon"]) == banks
    assert sorted(report["auprc"]["own"]) == sorted(report["auprc"]["deployed"]) == sorted(report["gain"]) == banks
    assert 0 < report["auprc"]["federated"] <= 1
    assert 0 < report["auprc"]["central"] <= 1
    assert all(4.99 < epsilon <= 5 for epsilon in report["epsilon"].values())
    assert [entry["accepted"] for entry in report["rounds"]] == [banks] * 4
    assert all(entry["rejected"] == {} and entry["late"] == [] for entry in report["rounds"])
    assert report["links"]["flow_run"] in output
    assert report["links"]["model"] in output

    flow_run, mlflow_url = report["links"]["flow_run"], report["links"]["model"].split("/#/")[0]
    _check_prefect(flow_run)
    _check_mlflow(mlflow_url, report, input_files[0])

    processes = family(started)
    names = [" ".join(process.cmdline()) for process in processes]
    assert sum("bank_node.cli work" in name for name in names) == 3
    ports = listening(processes)
    started.send_signal(signal.SIGINT)
    rest, _ = started.communicate(timeout=TIMEOUT_S)
    assert started.returncode == 130
    assert "everything that was started is stopped" in rest
    assert_nothing_left(processes, ports)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def _check_prefect(flow_run_page: str) -> None:
    """The campaign's run is Completed, each round a run of its own below it, and no bank's run holds data."""
    import httpx

    server, _, run_id = flow_run_page.partition("/runs/flow-run/")
    with httpx.Client(base_url=f"{server}/api", trust_env=False) as client:
        assert client.get(f"/flow_runs/{run_id}").json()["state_type"] == "COMPLETED"
        runs = client.post("/flow_runs/filter", json={"limit": 100}).json()
    rounds = [run["name"] for run in runs if run["name"].startswith("demo round")]
    assert sorted(rounds) == [f"demo round {number}" for number in range(4)]
    rings = [run for run in runs if " round " in run["name"] and run["name"].startswith("bank-")]
    assert len(rings) == 12
    assert all(set(run["parameters"]) == {"plan_key", "plan_digest"} for run in rings)


def _check_mlflow(url: str, report: dict[str, object], data: Path) -> None:
    """The alias leads to a Booster that predicts, and its AUPRC on the test rows is the report's."""
    script = """
import json, sys
import mlflow, numpy as np, pyarrow.parquet as pq
from sklearn.metrics import average_precision_score
url, data = sys.argv[1:]
mlflow.set_tracking_uri(url)
booster = mlflow.lightgbm.load_model("models:/demo-fraud@challenger")
rows = pq.read_table(data).to_pandas()
rows = rows[rows.test]
features = rows[["amount", "hour", "payments"]].to_numpy(float)
features = np.clip(features, [1, 0, 0], [1000, 23, 50])
run = mlflow.MlflowClient().get_model_version_by_alias("demo-fraud", "challenger").run_id
metrics = mlflow.MlflowClient().get_run(run).data.metrics
print(json.dumps([average_precision_score(rows.fraud, booster.predict(features)), sorted(metrics)]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "AWS"))}
    run = subprocess.run(
        [sys.executable, "-c", script, url, str(data)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    figure, metrics = json.loads(run.stdout.splitlines()[-1])
    assert figure == pytest.approx(report["auprc"]["federated"], abs=1e-9)  # type: ignore[index]
    assert {"evaluation/auprc", "evaluation/auprc.low", "evaluation/auprc.high", "rounds/accepted"} <= set(metrics)


@pytest.mark.servers
@pytest.mark.parametrize("moment", ["ready object store", "round  0"])
def test_interrupt_in_the_middle(started: subprocess.Popen[str], tmp_path: Path, moment: str) -> None:
    """Ctrl-C while servers start or rounds run: exit code 130, no process, no port, no file."""
    read_until(started, moment)
    processes = family(started)
    ports = listening(processes)
    started.send_signal(signal.SIGINT)
    started.communicate(timeout=TIMEOUT_S)
    assert started.returncode == 130
    assert_nothing_left(processes, ports)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("fraud", 7, "bank-1: column fraud: expected 0 or 1 in every row, got something else or nothing in 4000 rows"),
        ("amount", np.inf, "bank-1: column amount: expected finite or missing values, got 4000 infinite ones"),
        ("payments", None, "expected the columns amount, hour, payments, fraud, card, test, bank, got no payments"),
        ("test", 1, "bank-1: expected rows to train on, got only rows with test set"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_starts(
    input_files: tuple[Path, Path], tmp_path: Path, column: str, value: float | None, sentence: str
) -> None:
    """A missing column, a label that is not 0/1, an infinite value, an empty bank: said at once, exit code 1."""
    table = pq.read_table(input_files[0])
    place, bank = table.column_names.index(column), table["bank"].to_numpy()
    if value is None:
        table = table.remove_column(place)
    else:
        changed = np.where(bank == 1, value, table[column].to_numpy())
        table = table.set_column(place, column, pa.array(changed, from_pandas=True))
    pq.write_table(table, tmp_path / "bad.parquet")
    run = subprocess.run(
        [*COMMAND, "--data", str(tmp_path / "bad.parquet"), "--schema", str(input_files[1])],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith(f"mintmark: {sentence}")
    assert "ready" not in run.stdout
