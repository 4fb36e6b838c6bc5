"""How a bank joins: its folder, its key (which never leaves it), and a policy to read and sign.

card = create_home(Path("bank-a"), settings, schema, storage_key, policy_text=DEFAULT_POLICY)
card.fingerprint   # told to the coordinator by telephone, compared with what arrived in writing
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bank_node.settings import BankSettings
from mintmark.envelope import fingerprint, generate_signer, save_signer
from mintmark.errors import DataError
from mintmark.schema import FeatureSchema, dump_schema
from mintmark.settings import StorageKey, dump_toml, write_private

DEFAULT_POLICY = """\
# What this bank will ever allow. Missing, unreadable or contradictory: nothing leaves.
learners = ["guided_boosting", "logistic_regression"]
units = ["customer"]         # whose presence every release hides
smallest_cohort = 3          # fewest banks that a round must count
smallest_rows = 1000         # fewest training rows of our own
smallest_customers = 50      # and fewest customers whose rows these are
may_leave = ["training_sums", "scores"]  # noised sums to learn from, noised counts of held-out rows' scores
state_budget = false         # true: every update says in clear how much epsilon is left, of the campaign and the year

# Epsilon at delta, for each customer, over everything that leaves. A campaign reserves all of its epsilon when it begins,
# until so many days after its last round.

[budget]
delta = 1e-6
epsilon_per_round = 4.0
epsilon_per_campaign = 4.0
epsilon_per_year = 12.0
reservation_days = 30
"""


@dataclass(frozen=True)
class EnrolmentCard:
    """What a bank tells the coordinator."""

    bank: str
    signing_key: str

    @property
    def fingerprint(self) -> str:
        """The key, short enough to read aloud."""
        return fingerprint(bytes.fromhex(self.signing_key))


def create_home(
    home: Path,
    settings: BankSettings,
    schema: FeatureSchema,
    storage_key: StorageKey,
    policy_text: str = DEFAULT_POLICY,
) -> EnrolmentCard:
    """Make the bank's folder, readable by its owner only, with a new signing key. Raises `DataError` if it exists."""
    if home.exists() and any(home.iterdir()):
        raise DataError(f"{home}: expected a new folder, got one that holds files; a key is never overwritten")
    for directory in (home, home / "identity", home / "data", home / "ledger", home / "anchor", home / "outbox"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer = generate_signer()
    save_signer(signer, home / "identity" / "signing.key")
    write_private(home / "identity" / "storage.toml", dump_toml(storage_key))
    (home / "bank.toml").write_text(dump_toml(settings))
    (home / "schema.toml").write_text(dump_schema(schema))
    (home / "policy.toml").write_text(policy_text)
    return EnrolmentCard(settings.bank, signer.public_key.hex())
