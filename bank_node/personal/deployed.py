r"""The model a bank deploys, as a value and as files: the own and the global model, what the own rows correct in the global
one, and the weights of the three. It never leaves the bank.

    own         mean of K LightGBM models trained on the bank's own rows
    calibrated  scale x clip(the global model) + shift
    corrected   calibrated plus the mean of K LightGBM models trained from its scores on
    z           = w_own clip(own) + w_shared clip(calibrated) + w_corrected clip(corrected) + b, in log-odds

Files: one LightGBM text a model, named by its SHA-256, and `model.json`, which names them, holds the weights and bears the
signature of the bank's own key. LightGBM trusts the texts it loads, so nothing is loaded before signature and digests have
been checked. `model.json` is written last and replaced as a whole: a folder holds one sound model or none.

    save(folder, deployed, signer)
    deployed = load_deployed(folder, public_key)    # DataError when anything differs
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bank_node.personal.stacking import Stack
from mintmark.agreed import Agreed, Digest, Name
from mintmark.canonical import canonical_json, digest, read_canonical
from mintmark.envelope import Signer, sign, verify
from mintmark.errors import DataError, ProtocolError
from mintmark.privacy.ledger import write_durably

MODEL_FILE = "model.json"
DEPLOYED_TYPE = "application/x-mintmark-deployed-model"
MAX_STATEMENT_BYTES = 64 * 1024
MAX_TEXT_BYTES = 256 * 1024 * 1024
MAX_FOLDS = 100

Texts = tuple[str, ...]
Weight = Annotated[float, Field(ge=0, le=1000)]


class DeployedTerms(Agreed):
    """What `model.json` says. `scale` and `shift`, in log-odds, calibrate the global model. `keeps_own`: nothing was
    gained, so the weights are those of the own model alone."""

    format: Annotated[str, Field(pattern=r"^mintmark/deployed/2$")] = "mintmark/deployed/2"
    bank: Name
    campaign: Name
    model_digest: Digest
    schema_digest: Digest
    own: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAX_FOLDS)]
    shared: Digest
    corrected: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAX_FOLDS)]
    scale: Weight
    shift: float
    weights: tuple[Weight, Weight, Weight]
    intercept: float
    keeps_own: bool


@dataclass(frozen=True, eq=False)
class Deployed:
    """The terms and the LightGBM texts that their digests name."""

    terms: DeployedTerms
    own: Texts
    shared: str
    corrected: Texts

    @property
    def calibration(self) -> Stack:
        """Of the global model's score alone."""
        return Stack((self.terms.scale,), self.terms.shift)

    @property
    def stack(self) -> Stack:
        return Stack(self.terms.weights, self.terms.intercept)


def assemble(
    *, bank: str, campaign: str, model_digest: str, schema_digest: str, own: Texts, shared: str, corrected: Texts,
    calibration: Stack, stack: Stack, keeps_own: bool,
) -> Deployed:  # fmt: skip
    """A deployed model from its texts."""
    first, second, third = stack.weights
    terms = DeployedTerms(
        bank=bank,
        campaign=campaign,
        model_digest=model_digest,
        schema_digest=schema_digest,
        own=tuple(map(_digest, own)),
        shared=_digest(shared),
        corrected=tuple(map(_digest, corrected)),
        scale=calibration.weights[0],
        shift=calibration.intercept,
        weights=(first, second, third),
        intercept=stack.intercept,
        keeps_own=keeps_own,
    )
    return Deployed(terms, own, shared, corrected)


def save(folder: Path, deployed: Deployed, signer: Signer) -> None:
    """Write the model's files, the statement last, and remove the texts of the model before."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    texts = (*deployed.own, deployed.shared, *deployed.corrected)
    for text in texts:
        write_durably(folder / f"{_digest(text)}.txt", text.encode())
    payload = deployed.terms.canonical_bytes()
    signature = sign(signer, DEPLOYED_TYPE, payload)[-64:].hex()
    statement = {"model": deployed.terms.model_dump(mode="json"), "signature": signature}
    write_durably(folder / MODEL_FILE, canonical_json(statement))
    for left in set(folder.glob("*.txt")) - {folder / f"{_digest(text)}.txt" for text in texts}:
        left.unlink()


def load_deployed(folder: Path, public_key: bytes) -> Deployed:
    """The folder's model. Raises `DataError`: none there, not signed by this bank, or a text that was changed."""
    if not (folder / MODEL_FILE).exists():
        raise DataError(f"{folder}: expected a deployed model, got none: make it with mintmark-bank personalise")
    try:
        statement = read_canonical(
            _read(folder / MODEL_FILE, MAX_STATEMENT_BYTES), what=MODEL_FILE, max_bytes=MAX_STATEMENT_BYTES
        )
        payload = canonical_json(statement.get("model"))
        held = _Held(public_key, bytes.fromhex(str(statement.get("signature"))))
        verify(sign(held, DEPLOYED_TYPE, payload), DEPLOYED_TYPE, public_key, max_bytes=2 * MAX_STATEMENT_BYTES)
        terms = DeployedTerms.from_bytes(payload, max_bytes=MAX_STATEMENT_BYTES)
    except (ProtocolError, ValueError) as error:
        raise DataError(f"{folder / MODEL_FILE}: {error}; make it anew with mintmark-bank personalise") from None
    return Deployed(terms, _texts(folder, terms.own), _text(folder, terms.shared), _texts(folder, terms.corrected))


@dataclass(frozen=True)
class _Held:
    """A signature that was made before, in the place of a signer: so that it is verified in the same frame."""

    public_key: bytes
    signature: bytes

    def sign(self, data: bytes) -> bytes:
        return self.signature


def _digest(text: str) -> str:
    return digest(text.encode())


def _texts(folder: Path, names: Iterable[str]) -> Texts:
    return tuple(_text(folder, name) for name in names)


def _text(folder: Path, name: str) -> str:
    data = _read(folder / f"{name}.txt", MAX_TEXT_BYTES)
    if digest(data) != name:
        raise DataError(
            f"{folder / name}.txt: expected the digest in its name, got {digest(data)[:12]}...: the file was changed; "
            "make the model anew with mintmark-bank personalise"
        )
    return data.decode()


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {type(error).__name__}") from None
    if len(data) > max_bytes:
        raise DataError(f"{path}: expected at most {max_bytes} bytes, got more")
    return data
