"""What the gateway is told and by whom, the certificates it hands out, and how a bank finds its own."""

from __future__ import annotations

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from consortium import SCHEMA
from cryptography import x509
from typer.testing import CliRunner

from bank_node.enrol import create_home
from bank_node.settings import BankSettings, Home
from flows.cli import app
from infra.gateway import authority
from infra.gateway.settings import read_credential, read_settings
from infra.gateway.tls import server_context
from mintmark.errors import DataError
from mintmark.settings import StorageKey, checked

NOW = datetime.now(UTC)
GOOD = f'[banks]\nbank-a = ["{"aa" * 32}", "{"ab" * 32}"]\nbank-b = ["{"bb" * 32}"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An authority for gateway.example with the gateway's certificate and bank-a's."""
    made = authority.open_authority(tmp_path, "gateway.example", NOW)
    authority.issue_gateway(made)
    authority.issue_bank(made, "bank-a")
    return tmp_path


def config(folder: Path, text: str = GOOD, mode: int = 0o600) -> Path:
    path = folder / "gateway.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def verifies(folder: Path, certificate: Path, name: str) -> bool:
    """Whether openssl, which is not our code, takes the certificate for this name."""
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(folder / "authority.pem"), "-verify_hostname", name]
    return subprocess.run([*command, str(certificate)], capture_output=True, check=False).returncode == 0


def test_settings_say_which_certificate_is_whose(tmp_path: Path) -> None:
    """Two certificates of one bank lead to its one pool; paths start at the file's folder; only 127.0.0.1 hears."""
    read = read_settings(config(tmp_path))
    assert read.bank_of() == {"aa" * 32: "bank-a", "ab" * 32: "bank-a", "bb" * 32: "bank-b"}
    assert read.pools() == {"bank-a": "mintmark-bank-a", "bank-b": "mintmark-bank-b"}
    assert (read.host, read.certificate_key) == ("127.0.0.1", tmp_path / "gateway.key")


@pytest.mark.parametrize(
    "text",
    ["", "[banks]\n", GOOD.replace("bb", "aa"), GOOD.replace("bb", "BB"), f"{GOOD}x = 1", "admin = true\n" + GOOD],
)
def test_unsound_settings_are_refused(tmp_path: Path, text: str) -> None:
    """No bank, one certificate for two banks, a misspelt fingerprint and unknown fields stop the start."""
    with pytest.raises(DataError):
        read_settings(config(tmp_path, text))


def test_files_that_others_could_change_or_read_are_refused(tmp_path: Path) -> None:
    """Who may write gateway.toml decides who is who; who may read the credential can do everything."""
    with pytest.raises(DataError, match="chmod 600"):
        read_settings(config(tmp_path, mode=0o622))
    secret = config(tmp_path, "user:password\n", 0o600)
    assert read_credential(secret) == "user:password"
    for text, mode in (("user:password", 0o640), ("no colon", 0o600), ("a:" + "b" * 2000, 0o600), ("a:b\nc", 0o600)):
        with pytest.raises(DataError) as caught:
            read_credential(config(tmp_path, text, mode))
        assert text not in str(caught.value)


def test_authority_vouches_for_its_gateway_and_banks_only(folder: Path) -> None:
    """Certificates hold for their names, a year long; the same key cannot vouch for any other site."""
    assert verifies(folder, folder / "gateway.pem", "gateway.example")
    assert not verifies(folder, folder / "gateway.pem", "other.example")
    assert verifies(folder, folder / "bank-a.pem", "bank-a.banks.mintmark.internal")

    stolen = authority.open_authority(folder, "gateway.example", NOW)
    elsewhere = authority.Authority(folder, "bank.example", stolen.certificate, stolen.key, NOW)
    (folder / "gateway.key").unlink()
    assert not verifies(folder, authority.issue_gateway(elsewhere).certificate, "bank.example")
    address = authority.Authority(folder, "192.0.2.1", stolen.certificate, stolen.key, NOW)
    (folder / "gateway.key").unlink()
    assert not verifies(folder, authority.issue_gateway(address).certificate, "192.0.2.1")

    read = x509.load_pem_x509_certificate((folder / "bank-a.pem").read_bytes())
    assert timedelta(0) <= read.not_valid_after_utc - (NOW + timedelta(days=364)) <= timedelta(days=1)


def test_keys_are_private_and_never_overwritten(folder: Path) -> None:
    """Every key is its owner's alone; a second one for the same name, or another gateway's authority, is refused."""
    for key in folder.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = (folder / "bank-a.key").read_bytes()
    with pytest.raises(DataError, match="move it away"):
        authority.issue_bank(authority.open_authority(folder, "gateway.example", NOW), "bank-a")
    assert (folder / "bank-a.key").read_bytes() == before
    with pytest.raises(DataError, match="another folder"):
        authority.open_authority(folder, "other.example", NOW)


def test_server_takes_nothing_older_than_tls_1_3_and_nobody_without_a_certificate(folder: Path) -> None:
    """The context demands a client's certificate and never resumes a session without looking at it again."""
    context = server_context(folder / "gateway.pem", folder / "gateway.key", folder / "authority.pem")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.num_tickets == 0
    with pytest.raises(DataError, match="gateway-certificates"):
        server_context(folder / "gateway.pem", folder / "bank-a.key", folder / "authority.pem")


def test_command_makes_what_the_settings_read(tmp_path: Path) -> None:
    """What `gateway-certificates` prints is a table that gateway.toml takes; a second call adds a bank."""
    made = tmp_path / "made"
    for bank in ("bank-a", "bank-b"):
        arguments = ["gateway-certificates", str(made), "--server-name", "gateway.example", "--bank", bank]
        shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
        table = shown.stdout[shown.stdout.index("[banks]") :]
        fingerprint = authority.fingerprint_of(x509.load_pem_x509_certificate((made / f"{bank}.pem").read_bytes()))
        assert read_settings(config(made, table)).bank_of() == {fingerprint: bank}


def settings(**more: object) -> BankSettings:
    return checked(
        BankSettings,
        **{
            "bank": "bank-a", "coordinator_key": "ab" * 32, "storage_endpoint": "http://127.0.0.1:9",
            "storage_bucket": "b", "prefect_api": "https://gateway.example:4201/api",
        } | more,
    )  # fmt: skip


def test_a_bank_shows_its_certificate_where_bank_toml_names_one(tmp_path: Path, folder: Path) -> None:
    """With all three files the bank trusts the gateway's authority alone; without them Prefect is called as before."""
    files = {"certificate": folder / "bank-a.pem", "certificate_key": folder / "bank-a.key"}
    files |= {"gateway_ca": folder / "authority.pem"}
    create_home(tmp_path / "bank", settings(**files), SCHEMA, StorageKey(access_key="a", secret_key="s"))
    context = Home(tmp_path / "bank").gateway_tls()
    assert context is not None
    assert context.check_hostname and len(context.get_ca_certs()) == 1
    create_home(tmp_path / "plain", settings(), SCHEMA, StorageKey(access_key="a", secret_key="s"))
    assert Home(tmp_path / "plain").gateway_tls() is None


def test_a_banks_half_an_identity_is_refused(tmp_path: Path, folder: Path) -> None:
    """Two of three files, plain HTTP, or a key of somebody else are told before the worker starts."""
    files: dict[str, object] = {"certificate": folder / "bank-a.pem", "certificate_key": folder / "gateway.key"}
    with pytest.raises(DataError, match="gateway_ca"):
        settings(**files)
    files |= {"gateway_ca": folder / "authority.pem"}
    with pytest.raises(DataError, match="https"):
        settings(**files, prefect_api="http://gateway.example/api")
    create_home(tmp_path / "bank", settings(**files), SCHEMA, StorageKey(access_key="a", secret_key="s"))
    with pytest.raises(DataError, match="belong together"):
        Home(tmp_path / "bank").gateway_tls()
