"""A private certificate authority for one consortium: it can name one gateway and its banks, and nothing else.

The authority's certificate carries name constraints, so that its key, if it were stolen, vouches for no other site.
Certificates live a year. Keys are P-256, written readable by their owner only, and never overwritten.

    authority = open_authority(Path("certificates"), "gateway.example", now)   # made, if it is not there
    issue_gateway(authority), issue_bank(authority, "bank-a")
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mintmark.errors import DataError
from mintmark.settings import write_private

LIFE = timedelta(days=365)
BANKS = "banks.mintmark.internal"
"""The domain of the names in banks' certificates; nothing is ever looked up there."""
_EVERYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True)
class Authority:
    """An authority in its folder, and the moment at which it acts."""

    folder: Path
    server_name: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    now: datetime


@dataclass(frozen=True)
class Issued:
    """A certificate, its key's file, and the name by which gateway.toml knows it."""

    certificate: Path
    key: Path
    fingerprint: str


def open_authority(folder: Path, server_name: str, now: datetime) -> Authority:
    """The authority of this folder; made when there is none. `DataError` when it is another gateway's or unreadable."""
    certificate, key = folder / "authority.pem", folder / "authority.key"
    if not certificate.exists():
        _make(folder, server_name, now)
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: expected authority.pem and authority.key, got {type(error).__name__}") from None
    if read.subject != _subject(f"Mintmark authority of {server_name}"):
        raise DataError(f"{folder}: expected the authority of {server_name}, got another one's; take another folder")
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return Authority(folder, server_name, read, private, now)


def issue_gateway(authority: Authority) -> Issued:
    """The gateway's own certificate, for its name only."""
    return _issue(authority, "gateway", _name(authority.server_name), ExtendedKeyUsageOID.SERVER_AUTH)


def issue_bank(authority: Authority, bank: str, life: timedelta = LIFE) -> Issued:
    """A bank's certificate: it can call, and cannot pose as a server."""
    return _issue(authority, bank, x509.DNSName(f"{bank}.{BANKS}"), ExtendedKeyUsageOID.CLIENT_AUTH, life)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate as it travels (DER), in hexadecimal digits."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _make(folder: Path, server_name: str, now: datetime) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = _name(server_name)
    if isinstance(server, x509.IPAddress):
        permitted: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_network(server.value))]
        excluded: list[x509.GeneralName] | None = None
    else:
        permitted, excluded = [server], [x509.IPAddress(network) for network in _EVERYWHERE]
    constraints = x509.NameConstraints([*permitted, x509.DNSName(BANKS)], excluded)
    key, subject = ec.generate_private_key(ec.SECP256R1()), _subject(f"Mintmark authority of {server_name}")
    certificate = (
        _builder(subject, subject, key, now, 2 * LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, "authority", certificate, key)


def _issue(
    authority: Authority, name: str, alternative: x509.GeneralName, use: x509.ObjectIdentifier, life: timedelta = LIFE
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = (
        _builder(_subject(name), authority.certificate.subject, key, authority.now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(issuer, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return _write(authority.folder, name, certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    issued = Issued(folder / f"{name}.pem", folder / f"{name}.key", fingerprint_of(certificate))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    try:
        write_private(issued.key, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode())
    except FileExistsError:
        raise DataError(f"{issued.key}: expected no key yet, got one; to renew it, move it away first") from None
    issued.certificate.write_bytes(certificate.public_bytes(pem))
    return issued


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _name(server: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(server))
    except ValueError:
        return x509.DNSName(server)
