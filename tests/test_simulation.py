"""A campaign in memory is the protocol's campaign: held against banks, mailbox, envelopes and coordinator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from consortium import SCHEMA, Consortium

from mintmark.campaign import replay
from mintmark.plan import Campaign
from mintmark.privacy.mechanism import BoundedSum
from mintmark.simulation import Attack, seeded_gaussian, simulate_rounds
from mintmark.table import Table, build_table


@pytest.fixture
def consortium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Consortium:
    """Banks that add no noise, and whose policies would not even let them be asked for that."""
    monkeypatch.setattr("bank_node.local_round.check_budget", lambda *_: None)
    monkeypatch.setattr("bank_node.local_round.release", lambda total, *, noise_scale: total.vector)
    return Consortium(tmp_path, sizes=(400, 300, 300, 200))


def exact(total: BoundedSum, *, noise_scale: float) -> np.ndarray:
    """The sum as it is."""
    return total.vector


def simulated(consortium: Consortium) -> dict[str, Table]:
    return {bank: build_table(SCHEMA, columns) for bank, columns in consortium.columns.items()}


def agreed(consortium: Consortium, digest: str) -> Campaign:
    return consortium.coordinator.model("cards", digest).campaign


@pytest.mark.parametrize("rule", ["weighted_mean", "trimmed_mean"])
def test_same_model_as_the_protocol(consortium: Consortium, rule: str) -> None:
    """Without the random part, every round's published artifact and the model's text are the same bytes."""
    liars = {"byzantine": 1, "trim": 0.3} if rule == "trimmed_mean" else {}
    start = consortium.campaign(rounds=4, rule=rule, quorum=4, **liars)  # type: ignore[arg-type]
    campaign, tables = agreed(consortium, start), simulated(consortium)
    rounds = simulate_rounds(
        campaign,
        {bank: table.train() for bank, table in tables.items()},
        held_out={bank: table.test_part() for bank, table in tables.items()},
        sizes={member.bank: member.rows_band for member in consortium.roster.members},
        noise=exact,
    )
    for after in rounds:
        start = consortium.run(start, 1)
        assert after.artifact.digest() == start
        assert after.shares.sum() == pytest.approx(1)
    assert after.state.round == campaign.rounds + 1
    replayed = replay(consortium.coordinator.model("cards", start), SCHEMA)
    np.testing.assert_array_equal(replayed.scores, after.state.scores)


def test_seeded_noise_repeats_and_has_the_stated_spread(consortium: Consortium) -> None:
    """The same generator gives the same model; another one does not, and differs by as much as the round's noise."""
    campaign = agreed(consortium, consortium.campaign(rounds=3))
    training = {bank: table.train() for bank, table in simulated(consortium).items()}

    def first_sums(seed: int) -> tuple[np.ndarray, float]:
        total = next(
            simulate_rounds(campaign, training, noise=seeded_gaussian(np.random.default_rng(seed)))
        ).artifact.history[0]
        return total.values, total.noise

    (one, noise), (again, _), (other, _) = first_sums(1), first_sums(1), first_sums(2)
    np.testing.assert_array_equal(one, again)
    assert np.std(one - other) == pytest.approx(np.sqrt(2) * noise, rel=0.1)


def test_attackers_send_what_they_like(consortium: Consortium) -> None:
    """What an attack returns is what is aggregated, round by round, in the order of the cohort."""
    campaign = agreed(consortium, consortium.campaign(rounds=3))
    training = {bank: table.train() for bank, table in simulated(consortium).items()}
    seen: list[tuple[int, int]] = []

    def first_sums(attack: Attack | None) -> np.ndarray:
        return next(simulate_rounds(campaign, training, noise=exact, attack=attack)).artifact.history[0].values

    def keep(*banks: float) -> Attack:
        return lambda _, updates: updates * np.array(banks)[:, None]

    def listen(number: int, updates: np.ndarray) -> np.ndarray:
        seen.append((number, len(updates)))
        return updates

    without_first, first_alone = first_sums(keep(0, 1, 1, 1)), first_sums(keep(1, 0, 0, 0))
    assert np.abs(first_alone).sum() > 0
    np.testing.assert_allclose(without_first + first_alone, first_sums(None), atol=1e-9)
    list(simulate_rounds(campaign, training, noise=exact, attack=listen))
    assert seen == [(0, 4), (1, 4), (2, 4)]


def test_another_cohort_is_refused(consortium: Consortium) -> None:
    """Tables of other banks than the campaign names do not start."""
    campaign = agreed(consortium, consortium.campaign())
    tables = simulated(consortium)
    del tables["bank-0"]
    with pytest.raises(ValueError, match="expected tables of the banks"):
        next(simulate_rounds(campaign, tables))
