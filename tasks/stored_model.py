"""The finished model in MLflow's store: written without code, and read back only when it is what was written.

A Booster is LightGBM's text, a pipeline is skops' numbers and names of known types. MLflow's own loaders take flavour,
module and trusted types from the stored folder; here they are checked against two known ones first, and MLflow's loaders
are not used.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mintmark.errors import ProtocolError
from mintmark.models.scikit_pipeline import TRUSTED_TYPES
from mintmark.schema import Feature, FeatureKind, FeatureSchema

MAX_MODEL_FILE_BYTES = 256 * 1024 * 1024
_MAX_DESCRIPTION_BYTES = 1024 * 1024
_FILES = {"lightgbm": "model.lgb", "sklearn": "model.skops"}
_LOADERS = {"lightgbm": "mlflow.lightgbm", "sklearn": "mlflow.sklearn"}


def store_model(client: Any, tracking_uri: str, run_id: str, model: Any, schema: FeatureSchema) -> tuple[str, str]:
    """Log the finished model to the run, unless it is there; returns MLflow's id of it and where it is."""
    experiment = client.get_run(run_id).info.experiment_id
    for known in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if str(known.status) == "READY":
            return str(known.model_id), str(known.model_uri)
    logged = _log_model(tracking_uri, run_id, model, schema)
    return str(logged.model_id), str(logged.model_uri)


def read_model_file(client: Any, tracking_uri: str, model_id: str) -> tuple[str, bytes]:
    """Flavour and bytes of the stored model's one file. Raises `ProtocolError` for a flavour that might run code."""
    import yaml  # type: ignore[import-untyped]

    described = yaml.safe_load(_read(client, tracking_uri, model_id, "MLmodel", _MAX_DESCRIPTION_BYTES))
    found = described.get("flavors") if isinstance(described, dict) else None
    flavors: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = next((kind for kind in _FILES if set(flavors) == {kind, "python_function"}), "")
    if not kind or not all(isinstance(flavor, dict) for flavor in flavors.values()):
        raise ProtocolError(f"stored model: expected the flavour {' or '.join(_FILES)}, got another")
    own, function = flavors[kind], flavors["python_function"]
    named = own.get("data" if kind == "lightgbm" else "pickled_model")
    if (
        (named, function.get("loader_module")) != (_FILES[kind], _LOADERS[kind])
        or own.get("code")
        or function.get("code")
    ):
        raise ProtocolError(f"stored model: expected {_FILES[kind]} and no code, got another file, loader or code")
    return kind, _read(client, tracking_uri, model_id, _FILES[kind], MAX_MODEL_FILE_BYTES)


def booster_bytes(booster: Any) -> bytes:
    """What LightGBM writes for a Booster, to the byte what MLflow keeps of it."""
    with tempfile.TemporaryDirectory(prefix="mintmark-model-") as folder:
        booster.save_model(Path(folder) / "model.lgb")
        return (Path(folder) / "model.lgb").read_bytes()


def load_pipeline(data: bytes) -> Any:
    """The scikit-learn pipeline of a skops file, trusting only the types that ours hold."""
    import skops.io

    return skops.io.loads(data, trusted=TRUSTED_TYPES)


def example_row(schema: FeatureSchema) -> dict[str, list[float]]:
    """One row in the middle of the public bounds: an example of the input, nobody's data."""
    return {feature.name: [_middle(feature)] for feature in schema.features}


def _middle(feature: Feature) -> float:
    if feature.kind is FeatureKind.LOG and feature.lower > 0:
        return float(f"{(feature.lower * feature.upper) ** 0.5:.3g}")
    middle = (feature.lower + feature.upper) / 2
    return float(int(middle)) if feature.kind is not FeatureKind.LINEAR else middle


def _read(client: Any, tracking_uri: str, model_id: str, name: str, limit: int) -> bytes:
    """One file of the stored model, no longer than `limit`."""
    from mlflow.artifacts import download_artifacts

    sizes = {info.path: info.file_size for info in client.list_logged_model_artifacts(model_id)}
    size = sizes.get(name)
    if size is None or size > limit:
        raise ProtocolError(f"stored model: expected {name} of at most {limit} bytes, got {size}")
    with tempfile.TemporaryDirectory(prefix="mintmark-model-") as folder:
        source = f"{client.get_logged_model(model_id).artifact_location}/{name}"
        data = Path(download_artifacts(source, dst_path=folder, tracking_uri=tracking_uri)).read_bytes()
    if len(data) > limit:
        raise ProtocolError(f"stored model: expected {name} of at most {limit} bytes, got {len(data)}")
    return data


def _log_model(tracking_uri: str, run_id: str, model: Any, schema: FeatureSchema) -> Any:
    """Log the model with its signature and an example; returns MLflow's record of it."""
    import lightgbm
    import mlflow
    import pandas  # type: ignore[import-untyped]
    import sklearn
    import skops
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    mlflow.set_tracking_uri(tracking_uri)
    columns = [ColSpec(DataType.double, name, required=False) for name in schema.names]
    known = {
        "name": "model",
        "signature": ModelSignature(Schema(columns), Schema([ColSpec(DataType.double)])),
        "input_example": pandas.DataFrame(example_row(schema)),
    }
    with mlflow.start_run(run_id=run_id):
        if isinstance(model, lightgbm.Booster):
            needs = [f"lightgbm=={lightgbm.__version__}"]
            return mlflow.lightgbm.log_model(model, pip_requirements=needs, **known)
        return mlflow.sklearn.log_model(
            model,
            serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
            skops_trusted_types=TRUSTED_TYPES,
            pyfunc_predict_fn="predict_proba",
            pip_requirements=[f"scikit-learn=={sklearn.__version__}", f"skops=={skops.__version__}"],
            **known,
        )
