"""The coordinator's reference set: public or synthetic rows in a Parquet file, named in `coordinator.toml`.

    reference = "reference.parquet"    # the schema's features and its label; beside coordinator.toml, or a whole path

Every model is judged on it besides the banks' own evaluation, and a challenger is compared with the champion on the same
rows. It is nobody's data: whatever is counted on it is exact, costs no privacy, and stands in the signed record.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mintmark.campaign import learner_of, replay
from mintmark.champion import Champion
from mintmark.errors import DataError
from mintmark.evaluation_record import ReferenceComparison, ReferenceFigures
from mintmark.messages import ModelArtifact
from mintmark.models.rows import RowState, code_table
from mintmark.parquet import read_columns
from mintmark.reference import compare, judge
from mintmark.schema import FeatureSchema
from mintmark.table import build_table
from tasks.coordinator import Coordinator


@dataclass(frozen=True, eq=False)
class ReferenceRows:
    """The rows as learners see them, and the SHA-256 of their file."""

    rows: RowState
    file: str

    def scores(self, artifact: ModelArtifact, schema: FeatureSchema) -> npt.NDArray[np.float64]:
        """The model's raw scores [n], but for a constant. Raises `ProtocolError` for a model of another schema."""
        return learner_of(artifact.campaign).advance(replay(artifact, schema), self.rows).score


def read_reference(coordinator: Coordinator) -> ReferenceRows | None:
    """The rows; None when the coordinator names no file. Raises `DataError`: not readable, or not the schema's columns."""
    path = coordinator.reference
    if path is None:
        return None
    schema = coordinator.schema
    columns = read_columns(path, (*schema.names, schema.label))
    count = max((len(column) for column in columns.values()), default=0)
    columns |= {schema.customer: np.arange(count), schema.test: np.zeros(count)}
    if schema.time:
        columns[schema.time] = np.zeros(count, "datetime64[D]")
    try:
        table = build_table(schema, columns)
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from None
    with path.open("rb") as file:
        return ReferenceRows(code_table(table), hashlib.file_digest(file, "sha256").hexdigest())


def judge_on_reference(coordinator: Coordinator, artifact: ModelArtifact) -> ReferenceFigures | None:
    """The model's exact figures on the reference set; None without one."""
    reference = read_reference(coordinator)
    if reference is None:
        return None
    scores = reference.scores(artifact, coordinator.schema)
    return judge(reference.rows.labels, scores, reference.file, _generator(reference.file))


def compare_on_reference(
    coordinator: Coordinator, challenger: ModelArtifact, champion: Champion | None
) -> ReferenceComparison | None:
    """Both models on the reference set as it is now; None without one, or without a champion of the same schema."""
    schema = coordinator.schema
    if champion is None or champion.schema_digest != schema.digest() or (rows := read_reference(coordinator)) is None:
        return None
    before = coordinator.model(champion.campaign, champion.model_digest)
    new, old = (rows.scores(artifact, schema) for artifact in (challenger, before))
    return compare(rows.rows.labels, new, old, rows.file, _generator(rows.file))


def _generator(file: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int(file[:32], 16)))
