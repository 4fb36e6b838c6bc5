"""What a bank keeps between rounds, so that a round costs only what is new in it: its coded rows, and scores on them.

cache/<key>.train, .test   one byte a feature and row (`mintmark/models/rows.py`), labels, customers
cache/<digest>.scores      scores of the training rows by one model, and their leaves in the trees it asks for next; the
                           digest is that of the model and of the rows' key

It never leaves the bank, only its owner reads it, and losing it costs time and nothing else. The key names the schema,
and the data file by its size, times and inode: another file is coded anew. Older files are deleted when new ones are
written, so that there are three. Each begins with the SHA-256 of its name and the rest: one that is cut, changed or
renamed is not used.

    coded = coded_rows(home, schema, test=False)
    rows = with_scores(home, coded, artifact)    # as far as the newest scores here go
    keep_scores(home, coded.key, remember(rows, query.digest(), contributions.cells_of), artifact)
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bank_node.settings import Home
from bank_node.table import load_table
from mintmark.canonical import canonical_json, digest
from mintmark.messages import ModelArtifact
from mintmark.models.rows import RowState, code_table
from mintmark.parquet import MAX_TABLE_BYTES
from mintmark.privacy.ledger import write_durably
from mintmark.schema import FeatureSchema

_DIGEST_CHARS = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CodedRows:
    """The training rows or the held-out ones of one data file, without scores; `key` names file and schema."""

    key: str
    rows: RowState
    training_rows: int
    training_customers: int


def coded_rows(home: Home, schema: FeatureSchema, *, test: bool) -> CodedRows:
    """The bank's held-out rows or its training rows. Raises `DataError` when there is no sound data file."""
    key = _rows_key(home.data, schema)
    if kept := _read_rows(home, key, test=test):
        return kept
    table = load_table(home.data, schema)
    for name, share in zip(schema.names, table.clipped_share, strict=True):
        if share:
            log.info(
                "feature %s: %.3f %% of the values lay outside the agreed bounds and count as them", name, 100 * share
            )
    train = code_table(table.train())
    sizes = {"training_rows": len(train), "training_customers": int(train.customers[-1]) + 1}
    coded = {
        False: CodedRows(key, train, **sizes),
        True: CodedRows(key, code_table(table.test_part()), **sizes),
    }
    _forget(home, "*")
    for held_out, part in coded.items():
        rows = part.rows
        facts = {**sizes, "features": len(rows.codes), "rows": len(rows)}
        _keep(home, _name(key, test=held_out), facts, rows.codes, rows.labels, rows.customers, rows.days)
    return coded[test]


def with_scores(home: Home, coded: CodedRows, artifact: ModelArtifact) -> RowState:
    """The rows with the scores of the model after as many of the artifact's rounds as a file here knows, or none."""
    for settled in range(len(artifact.history), 0, -1):
        known = replace(artifact, history=artifact.history[:settled])
        if found := _read(home, _scores_name(coded.key, known)):
            facts, data = found
            count = len(coded.rows)
            score = np.frombuffer(data[: 8 * count], np.float64)
            leaves = np.frombuffer(data[8 * count :], np.uint8).reshape(-1, count)
            return replace(coded.rows, score=score, trees=facts["trees"], question=facts["question"], leaves=leaves)
    return coded.rows


def keep_scores(home: Home, key: str, rows: RowState, artifact: ModelArtifact) -> None:
    """Keep the rows' scores by the artifact's model, and their leaves in the trees it asks for, in place of all others."""
    name = _scores_name(key, artifact)
    if (rows.trees or rows.question) and not (home.cache / name).exists():
        _forget(home, "*.scores*")  # and what a crash left half written
        _keep(home, name, {"trees": rows.trees, "question": rows.question}, rows.score, rows.leaves)


def forget_scores(home: Home) -> None:
    """Delete the scores: the campaign is over."""
    _forget(home, "*.scores")


def _rows_key(data: Path, schema: FeatureSchema) -> str:
    try:
        stat = data.stat()
        file = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    except OSError:
        file = []  # reading it will say what is wrong
    columns = [schema.label, schema.customer, schema.test, schema.time]
    return digest(canonical_json([schema.digest(), *columns, str(data), *file]))


def _name(key: str, *, test: bool) -> str:
    return f"{key}.{'test' if test else 'train'}"


def _scores_name(key: str, artifact: ModelArtifact) -> str:
    return f"{digest(canonical_json([key, artifact.digest()]))}.scores"


def _read_rows(home: Home, key: str, *, test: bool) -> CodedRows | None:
    found = _read(home, _name(key, test=test))
    if found is None:
        return None
    facts, data = found
    features, count = facts["features"], facts["rows"]
    ends = [features * count, (features + 1) * count, (features + 9) * count]
    codes, labels, customers, days = np.split(np.frombuffer(data, np.uint8), ends)
    rows = RowState(
        codes.reshape(features, count), labels, customers.view(np.int64), np.zeros(count), days=days.view(np.int32)
    )
    return CodedRows(key, rows, facts["training_rows"], facts["training_customers"])


def _keep(home: Home, name: str, facts: Mapping[str, int | str], *arrays: npt.NDArray[Any]) -> None:
    """Write a file of `facts` and the arrays' bytes. A full disk is no reason not to answer."""
    parts = [canonical_json(facts), b"\n", *(array.tobytes() for array in arrays)]
    payload = b"".join(parts)
    try:
        home.cache.mkdir(mode=0o700, exist_ok=True)
        write_durably(home.cache / name, _seal(name, payload) + payload)
    except OSError as error:
        log.warning("the cache was not written (%s): the next round computes it again", type(error).__name__)


def _read(home: Home, name: str) -> tuple[dict[str, Any], memoryview] | None:
    """A file's facts and the bytes of its arrays; None when it is not there, or not as it was written."""
    try:
        if (home.cache / name).stat().st_size > MAX_TABLE_BYTES:
            return None
        data = (home.cache / name).read_bytes()
    except OSError:
        return None
    if data[:_DIGEST_CHARS] != _seal(name, memoryview(data)[_DIGEST_CHARS:]):
        log.warning("a file of the cache is damaged; what it held is computed again")
        return None
    end = data.index(b"\n", _DIGEST_CHARS)
    return json.loads(data[_DIGEST_CHARS:end]), memoryview(data)[end + 1 :]


def _seal(name: str, payload: bytes | memoryview) -> bytes:
    whole = hashlib.sha256(name.encode())
    whole.update(payload)
    return whole.hexdigest().encode()


def _forget(home: Home, pattern: str) -> None:
    if home.cache.is_dir():
        for path in home.cache.glob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)
