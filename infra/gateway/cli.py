"""`mintmark gateway` and `mintmark gateway-certificates`: the door before Prefect, and the keys to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def gateway(
    config: Annotated[
        Path, typer.Option(help="gateway.toml: addresses, files, and which certificate is which bank's.")
    ],
) -> None:
    """Stand before the Prefect API and give each bank, by its certificate, its own work pool only.

    Banks then put https://THIS-HOST:4201/api into bank.toml and never learn Prefect's credential. Listens on 127.0.0.1
    unless gateway.toml names another host. After a change of the file, start it again: banks wait and come back. The
    set-up in ten minutes, what passes and what does not: docs/gateway.md.
    """
    from infra.gateway.serving import serve
    from infra.gateway.settings import read_settings

    serve(read_settings(config))


def certificates(
    folder: Annotated[Path, typer.Argument(help="Where keys and certificates are written; kept for the next ones.")],
    server_name: Annotated[str, typer.Option(help="The gateway's host name or address, as banks will call it.")],
    bank: Annotated[list[str], typer.Option(help="A bank that needs a certificate; repeat it for several.")] = [],  # noqa: B006
) -> None:
    """Make a private authority for the gateway and its banks, and what each needs; valid for a year.

    Run it again with the same folder for more banks. No key is overwritten: to renew one, move it away first. Prints the
    [banks] table for gateway.toml. A bank gets its own .pem and .key and authority.pem, nothing else; authority.key stays.
    """
    from datetime import UTC, datetime

    from pydantic import TypeAdapter

    from infra.gateway.authority import issue_bank, issue_gateway, open_authority
    from mintmark.agreed import Name
    from mintmark.errors import DataError

    try:
        banks = TypeAdapter(list[Name]).validate_python(bank)
    except ValueError:
        raise DataError("expected banks' names of lower case, digits and hyphens, as in the roster") from None
    authority = open_authority(folder, server_name, datetime.now(UTC))
    if not (folder / "gateway.pem").exists():
        issue_gateway(authority)
    issued = {name: issue_bank(authority, name) for name in banks}
    print(f"Made in {folder}. For gateway.toml:\n\n[banks]")
    for name, one in issued.items():
        print(f'{name} = ["{one.fingerprint}"]')


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command()(gateway)
    app.command("gateway-certificates")(certificates)
