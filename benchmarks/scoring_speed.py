"""How long a payment waits for its score and reasons, and how fast a file is scored beside LightGBM's own predict.

The simulator's largest bank, its global model of ten rounds and its deployed one (own, global and corrected: hundreds of
trees). The service runs as `mintmark-bank serve` does, in a process bound to one core; this process asks it, from
another core, at fixed times whether or not earlier answers have come (open loop), over connections that stay open. A wait
counts from the time a request was due. `burden` is the service's processor seconds a second and `cpu_ms` its processor time
a payment: other work on the machine adds to the waits, hardly to these. A file is scored from Parquet to Parquet; beside it
LightGBM's `predict` on the same rows in memory, by turns, both in processor seconds on one thread. Results: a table, and
var/benchmarks/scoring_speed.json.

    python -m benchmarks.scoring_speed [--seconds 30] [--rate 200] [--rows 300000] [--runs 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bank_node.personal.own_model import Effort
from bank_node.personal.personalise import combine_with_shared, train_own
from bank_node.personal.scorer import Scorer, Scores, SharedScorer
from bank_node.personal.scoring import score_file
from bank_node.personal.shared_model import SharedModel
from bank_node.serving.app import make_app
from bank_node.serving.models import ServedModel, warmed
from mintmark.plan import AggregationTerms, Campaign, PrivacyTerms, PrivacyUnit
from mintmark.schema import FeatureKind, FeatureSchema
from mintmark.simulation import seeded_gaussian, simulate_rounds
from mintmark.synthetic import simulate
from mintmark.table import Table, build_table, columns_of

CONNECTIONS = 16
WARM_UP_S = 2.0
TARGETS = {"p99_ms": 5.0, "share_of_lightgbm": 0.8}


def make_models(seed: int = 7) -> tuple[FeatureSchema, dict[str, Any], Table, dict[str, Scores]]:
    """The schema, the largest bank's columns and table, and its two models."""
    schema, columns = simulate(seed=seed, banks=4, rows=200_000)
    tables = {bank: build_table(schema, own).train() for bank, own in columns.items()}
    campaign = Campaign(
        name="speed",
        seed=1,
        learner="guided_boosting",
        schema_digest=schema.digest(),
        rounds=10,
        privacy=PrivacyTerms(epsilon=4.0, delta=1e-6, unit=PrivacyUnit.CUSTOMER, clip=0.25),
        aggregation=AggregationTerms(rule="weighted_mean", banks=len(tables)),
        cohort=tuple(sorted(tables)),
        quorum=len(tables),
    )
    *_, last = simulate_rounds(campaign, tables, noise=seeded_gaussian(np.random.default_rng(seed)))
    shared = SharedModel(last.artifact, schema)
    bank = max(tables, key=lambda name: len(tables[name]))
    own = train_own(tables[bank], Effort(trials=1))
    deployed = combine_with_shared(own, tables[bank], shared, bank=bank).deployed
    scorers: dict[str, Scores] = {"champion": SharedScorer(shared.text()), "deployed": Scorer(deployed)}
    return schema, columns[bank], build_table(schema, columns[bank]), scorers


def requests_of(schema: FeatureSchema, table: Table, count: int) -> list[bytes]:
    """Whole HTTP requests for payments of the table, as a client over a kept connection sends them."""
    found = []
    for row in table.features[:: len(table) // count][:count]:
        values = {
            feature.name: None
            if np.isnan(x)
            else feature.categories[int(x)]
            if feature.kind is FeatureKind.CATEGORY
            else float(x)
            for feature, x in zip(schema.features, row, strict=True)
        }
        body = json.dumps(values).encode()
        head = (
            f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


def serve(scorer: Scores, schema: FeatureSchema, port: int) -> None:
    """The service, bound to core 0."""
    import gc

    import uvicorn

    os.sched_setaffinity(0, {0})
    served = warmed(ServedModel("champion", "speed", "0" * 64, scorer), schema)
    app = make_app(served, schema, newer=lambda _: None, every_s=60.0)
    gc.collect()
    gc.freeze()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, server_header=False)


async def ask(port: int, requests: list[bytes], rate: float, seconds: float) -> np.ndarray:
    """The wait of every request, in seconds from when it was due."""
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    waits: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            when, request = await due.get()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            waits.append(time.perf_counter() - when)
            assert head.startswith(b"HTTP/1.1 200"), body

    tasks = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    start = time.perf_counter() + 0.1
    count = int(rate * seconds)
    for number in range(count):
        when = start + number / rate
        if (pause := when - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        due.put_nowait((when, requests[number % len(requests)]))
    while len(waits) < count:
        await asyncio.sleep(0.05)
        for task in tasks:
            if task.done():
                task.result()
    for task in tasks:
        task.cancel()
    return np.array(waits)


def measure_service(
    scorer: Scores, schema: FeatureSchema, table: Table, rate: float, seconds: float
) -> dict[str, float]:
    """Waits in milliseconds, and the service's burden of its core."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = multiprocessing.get_context("fork").Process(target=serve, args=(scorer, schema, port), daemon=True)
    service.start()
    os.sched_setaffinity(0, {os.cpu_count() - 1} if (os.cpu_count() or 1) > 1 else {0})
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        requests, process = requests_of(schema, table, 1000), psutil.Process(service.pid)
        asyncio.run(ask(port, requests, rate, WARM_UP_S))
        before, began = process.cpu_times(), time.perf_counter()
        waits = 1000 * asyncio.run(ask(port, requests, rate, seconds))
        after, took = process.cpu_times(), time.perf_counter() - began
    finally:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        service.terminate()
        service.join()
    used = after.user + after.system - before.user - before.system
    quantiles = {f"p{share:g}_ms": float(np.percentile(waits, share)) for share in (50, 99, 99.9)}
    return quantiles | {"requests": len(waits), "burden": used / took, "cpu_ms": 1000 * used / len(waits)}


def measure_files(
    scorers: dict[str, Scores], schema: FeatureSchema, columns: dict[str, Any], rows: int, runs: int
) -> dict[str, Any]:
    """Rows a processor second, from file to file and in memory, for both models."""
    repeated = {name: np.resize(columns[name], rows) for name in schema.names}
    others = {name: np.resize(columns[name], rows) for name in columns_of(schema)}
    features = build_table(schema, others | {schema.customer: np.arange(rows)}).features
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.parquet", Path(folder) / "out.parquet"
        pq.write_table(
            pa.table({name: pa.array(values, from_pandas=True) for name, values in repeated.items()}), source
        )
        for name, scorer in scorers.items():
            ours, theirs = [], []
            for _ in range(runs):
                theirs.append(timed(lambda scorer=scorer: scorer.raw(features)))  # type: ignore[misc]
                ours.append(timed(lambda scorer=scorer: score_file(source, target, scorer, schema)))  # type: ignore[misc]
            reasons = timed(lambda scorer=scorer: score_file(first(source, 20_000), target, scorer, schema, reasons=3))  # type: ignore[misc]
            found[name] = {
                "file_rows_a_second": rows / statistics.median(ours),
                "predict_rows_a_second": rows / statistics.median(theirs),
                "share_of_lightgbm": statistics.median(theirs) / statistics.median(ours),
                "file_rows_a_second_with_reasons": 20_000 / reasons,
            }
    return found


def first(source: Path, rows: int) -> Path:
    """A file of the first rows."""
    head = source.with_name("head.parquet")
    pq.write_table(pq.read_table(source).slice(0, rows), head)
    return head


def timed(work: Callable[[], Any]) -> float:
    """Processor seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    schema, columns, table, scorers = make_models()
    found: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "rate": arguments.rate,
        "service": {},
        "targets": TARGETS,
    }
    for name, scorer in scorers.items():
        found["service"][name] = shown = measure_service(scorer, schema, table, arguments.rate, arguments.seconds)
        print(f"{name:9} one payment: " + "  ".join(f"{key} {value:.4g}" for key, value in shown.items()), flush=True)
    found["files"] = measure_files(scorers, schema, columns, arguments.rows, arguments.runs)
    for name, shown in found["files"].items():
        print(f"{name:9} a file: " + "  ".join(f"{key} {value:.4g}" for key, value in shown.items()), flush=True)
    target = Path("var/benchmarks/scoring_speed.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
