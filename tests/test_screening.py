"""Screening against the others, and the report of a round: whom it refuses, whom it names."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from consortium import Consortium
from hypothesis import given, settings
from hypothesis import strategies as st
from test_round import COORDINATES, forge, manifest, post

from mintmark.aggregation import aggregate
from mintmark.aggregation.report import (
    ALARM,
    AggregationReport,
    agreements,
    distances,
    evidence_of,
    figures_of,
    is_suspicious,
    last_suspicion,
    quietness,
    suspicion_after,
    suspicion_by_round,
)
from mintmark.aggregation.screening import RejectionReason, screen
from mintmark.campaign import learner_of, replay, shape_of
from mintmark.envelope import generate_signer
from mintmark.errors import ProtocolError
from mintmark.mailbox import report_key
from tasks.aggregation import read_reports
from tasks.suspicion import suspicion_figure, suspicion_lines

BANKS = tuple(f"bank-{letter}" for letter in "abcdefgh")
seeds = st.integers(0, 2**32 - 1)


def honest(seed: int, sizes: np.ndarray, noise: float, unlike: float = 0.3) -> np.ndarray:
    """Sums of banks that are unlike each other, with noise of one standard deviation for all."""
    rng = np.random.default_rng(seed)
    rates = rng.standard_normal(400) + unlike * rng.standard_normal((len(sizes), 400))
    return rates * sizes[:, None] + noise * rng.standard_normal((len(sizes), 400))


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.lists(st.integers(0, 12).map(lambda power: 2.0**power), min_size=8, max_size=8),
    st.sampled_from([0.0, 0.1, 30.0, 2000.0]),
)
def test_honest_banks_are_never_refused(seed: int, sizes: list[float], noise: float) -> None:
    """Whatever the sizes, from 1 to 4096, and the noise, unlike banks pass."""
    band = np.array(sizes)
    assert screen(BANKS, honest(seed, band, noise), band, noise=noise, f=2) == ()


@pytest.mark.parametrize("noise", [0.0, 5.0])
@pytest.mark.parametrize("liars", [1, 2])
def test_banks_far_from_all_others_are_refused(noise: float, liars: int) -> None:
    """One or two that send something immense are refused with their distance, though they stand together."""
    sizes = np.array([64.0, 64, 32, 32, 32, 16, 16, 16])
    updates = honest(1, sizes, noise)
    updates[:liars] = 1e6 * (1 + 1e-3 * np.arange(liars)[:, None])
    rejected = screen(BANKS, updates, sizes, noise=noise, f=2)
    assert [rejection.bank for rejection in rejected] == list(BANKS[:liars])
    assert {rejection.reason for rejection in rejected} == {RejectionReason.FAR_FROM_ALL}
    assert "expected a distance of at most" in rejected[0].detail


def test_equal_updates_are_refused_where_there_is_noise() -> None:
    """Noise never repeats: who sends the same as another has copied it. Without noise it may be chance."""
    sizes = np.full(8, 16.0)
    updates = honest(2, sizes, 3.0)
    updates[4] = updates[6]
    rejected = screen(BANKS, updates, sizes, noise=3.0, f=2)
    assert [(r.bank, r.reason) for r in rejected] == [(BANKS[k], RejectionReason.SAME_AS_ANOTHER) for k in (4, 6)]
    assert screen(BANKS, updates, sizes, noise=0.0, f=2) == ()


SIZES = np.array([64.0, 64, 32, 32, 32, 16, 16, 16])


@pytest.mark.parametrize("noise", [0.0, 5.0, 20.0])
@pytest.mark.parametrize("liars", [[0], [0, 1], [0, 7], [3, 4]])
def test_who_says_the_opposite_is_refused(noise: float, liars: list[int]) -> None:
    """Alone or two together; and none of the honest, whom they push against."""
    updates = honest(3, SIZES, noise)
    updates[liars] *= -1
    refused = screen(BANKS, updates, SIZES, noise=noise, f=2)
    assert {rejection.reason for rejection in refused} == {RejectionReason.AGAINST_THE_OTHERS}
    assert [rejection.bank for rejection in refused] == [BANKS[liar] for liar in liars]


@pytest.mark.parametrize("liars", [[0], [0, 7], [6, 7]])
def test_a_lie_as_long_as_the_noise_is_refused(liars: list[int]) -> None:
    """Noise of that length points nowhere; a lie that hides in it and points against the others is seen by that, though two
    liars outweigh all others' sum."""
    updates = honest(3, SIZES, 200.0)
    others = updates[1:6].sum(axis=0)
    updates[liars] = -others / np.linalg.norm(others) * 200 * 20
    updates[liars] += np.random.default_rng(1).standard_normal((len(liars), 400))
    refused = screen(BANKS, updates, SIZES, noise=200.0, f=2)
    assert [rejection.bank for rejection in refused] == [BANKS[liar] for liar in liars]


def test_no_allowance_for_banks_that_were_refused_before() -> None:
    """A push against the others that noise could explain is let pass, but not from a bank that is doubted."""
    updates = honest(4, SIZES, 100.0)
    total = updates[1:].sum(axis=0)
    direction = total / np.linalg.norm(total)
    updates[0] += (-200.0 - updates[0] @ direction) * direction  # two standard deviations
    assert screen(BANKS, updates, SIZES, noise=100.0, f=2) == ()
    (refused,) = screen(BANKS, updates, SIZES, noise=100.0, f=2, doubted={BANKS[0]})
    assert (refused.bank, refused.reason) == (BANKS[0], RejectionReason.AGAINST_THE_OTHERS)
    assert screen(BANKS, updates, SIZES, noise=100.0, f=0, doubted={BANKS[0]}) == ()


def test_who_is_louder_than_its_size_is_refused() -> None:
    """A small bank that sends what a large one does, in the others' own direction, is refused for its norm."""
    updates = honest(5, SIZES, 20.0)
    updates[7] = 6 * updates[7]
    (refused,) = screen(BANKS, updates, SIZES, noise=20.0, f=1)
    assert (refused.bank, refused.reason) == (BANKS[7], RejectionReason.NORM_TOO_LARGE)


@pytest.mark.parametrize("attack", ["opposite", "shifted"])
def test_a_bias_in_every_round_adds_up(attack: str) -> None:
    """A bank that leans against the others by a part of what they agree on is named after some rounds; nobody else is."""
    sizes = np.array([64.0, 64, 32, 32, 32, 16, 16, 16])
    suspicion = np.zeros(8)
    for number in range(12):
        rates = honest(number, sizes, 20.0) / sizes[:, None]
        mean = rates[1:].mean(axis=0)
        rates[0] = -0.5 * mean if attack == "opposite" else rates[0] - 1.2 * np.sign(mean) * np.abs(mean).mean()
        deviations = 20.0 / sizes
        rate, shares = np.median(rates, axis=0), np.full(8, 1 / 8)
        noise = deviations / np.linalg.norm(rate)
        far, alike = distances(rates, rate, shares, deviations), agreements(rates, rate, shares, deviations)
        evidence = evidence_of(far, alike, noise)
        suspicion = np.array([suspicion_after(s, evidence=float(e)) for s, e in zip(suspicion, evidence, strict=True)])
    assert is_suspicious(suspicion[0])
    assert suspicion[1:].max() < ALARM


@pytest.mark.parametrize("signal", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("rule", ["weighted_mean", "centred_clipping", "geometric_median", "krum", "multi_krum"])
def test_noise_makes_nobody_suspicious(rule: str, signal: float) -> None:
    """However unlike in size, and whether banks say much, little or nothing but noise: a large bank, whose noise is far
    shorter than that of the result, is as far from it and agrees as much as its noise lets expect."""
    sizes = np.array([4096.0, 4096, 2048, 1024, 512, 512, 256, 128])
    suspicion: dict[str, float] = {}
    for number in range(10):
        rng = np.random.default_rng(number)
        truth = signal * rng.standard_normal(1280) / 400
        rates = truth + rng.standard_normal((8, 1280)) / sizes[:, None]
        made = aggregate(rule, rates, sizes if rule == "weighted_mean" else None, f=0)
        figures = figures_of(BANKS, rates, made.vector, made.shares, 1 / sizes, suspicion)
        suspicion = {own.bank: own.suspicion for own in figures}
    assert max(suspicion.values()) < ALARM / 2


def test_how_often_the_alarm_is_false() -> None:
    """Of standard normal evidence, five in a thousand banks in ten rounds, and once in 940 rounds in the long run."""
    rng = np.random.default_rng(9)
    evidence = rng.standard_normal((40_000, 10)).tolist()
    false = 0
    for own in evidence:
        suspicion = 0.0
        for figure in own:
            suspicion = suspicion_after(suspicion, evidence=figure)
            if is_suspicious(suspicion):
                false += 1
                break
    assert false / 40_000 == pytest.approx(0.005, abs=0.0015)
    lengths, suspicion, length = [], 0.0, 0
    for figure in rng.standard_normal(1_000_000).tolist():
        suspicion, length = suspicion_after(suspicion, evidence=figure), length + 1
        if is_suspicious(suspicion):
            lengths.append(length)
            suspicion, length = 0.0, 0
    assert np.mean(lengths) == pytest.approx(940, rel=0.1)


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path, sizes=(400, 300, 300, 200))


def reports(consortium: Consortium) -> list[AggregationReport]:
    return read_reports(consortium.store, "cards", consortium.coordinator.signer.public_key)


def test_every_round_is_reported(consortium: Consortium) -> None:
    """Each bank's share and distance in every round, signed, beside the manifest; a rerun writes the same."""
    plan = consortium.plan(consortium.campaign())
    consortium.answer("bank-0", plan)
    post(consortium, "bank-1", plan, b"garbage")
    for name in ("bank-2", "bank-3"):
        consortium.answer(name, plan)
    consortium.settle(plan)
    (made,) = reports(consortium)
    assert [figures.bank for figures in made.accepted] == ["bank-0", "bank-2", "bank-3"]
    assert sum(figures.share for figures in made.accepted) == pytest.approx(1)
    assert all(figures.distance > 0 for figures in made.accepted)
    record = manifest(consortium, plan)
    assert (made.rejected, made.late, made.plan_digest) == (record.rejected, record.late, plan.digest())
    consortium.now += timedelta(minutes=5)
    consortium.settle(plan)
    assert reports(consortium) == [made]


def test_a_copy_is_refused_in_the_round(consortium: Consortium) -> None:
    """Two banks with the same sums are both refused, and a rerun from the manifest makes the same model."""
    plan = consortium.plan(consortium.campaign(quorum=2))
    drawn = np.random.default_rng(1).standard_normal(COORDINATES) * plan.noise_scale
    for name in ("bank-0", "bank-1"):
        post(consortium, name, plan, forge(consortium, name, plan, sums=drawn.astype(np.int64)))
    for name in ("bank-2", "bank-3"):
        post(consortium, name, plan, forge(consortium, name, plan))
    model = consortium.settle(plan)
    reasons = {rejection.bank: rejection.reason for rejection in manifest(consortium, plan).rejected}
    assert reasons == dict.fromkeys(("bank-0", "bank-1"), RejectionReason.SAME_AS_ANOTHER)
    assert consortium.settle(plan) == model


def lying_rounds(consortium: Consortium, says: float) -> list[AggregationReport]:
    """Five rounds in which bank-1 says `says` times what the others do."""
    digest = consortium.campaign(rounds=5, rule="trimmed_mean", byzantine=1, trim=0.34, quorum=3)
    for number in range(5):
        plan = consortium.plan(digest)
        artifact = consortium.coordinator.model("cards", digest)
        width = math.prod(shape_of(learner_of(plan.campaign).query(replay(artifact, consortium.schema))))
        rng = np.random.default_rng(number)
        truth = rng.standard_normal(width) * 240 * 2**26 / np.sqrt(width)
        for name in consortium.banks:
            sums = (says if name == "bank-1" else 1.0) * truth + rng.standard_normal(width) * plan.noise_scale
            post(consortium, name, plan, forge(consortium, name, plan, sums=sums.astype(np.int64)))
        digest = consortium.settle(plan)
        consortium.now += timedelta(seconds=10)
    return reports(consortium)


def test_suspicion_carries_on_and_is_only_told(consortium: Consortium) -> None:
    """A bank that says nothing of what the others say is named after some rounds, and is still in every one of them."""
    made = lying_rounds(consortium, says=0.0)
    assert made[-1].suspicious == ("bank-1",)
    assert made[0].suspicious == ()
    assert all("bank-1" in [figures.bank for figures in report.accepted] for report in made)


def test_who_sends_less_than_its_noise_shows() -> None:
    """Noise is at least as long as noise: a bank that sends less left it out. Signal hides nothing of that."""
    noise = np.random.default_rng(6).standard_normal((3, 1000))
    found = quietness(noise * np.array([1.0, 0.6, 1.1])[:, None], np.ones(3))
    assert found.tolist() == [0.0, ALARM, 0.0]
    assert quietness(noise * 0.01 + 1.0, np.ones(3)).tolist() == [0.0, 0.0, 0.0]
    assert quietness(noise, np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_who_says_the_opposite_is_refused_and_named(consortium: Consortium) -> None:
    """In every round, with its figure; its suspicion grows by each refusal, and nobody else is suspicious."""
    made = lying_rounds(consortium, says=-1.0)
    for report in made:
        (rejection,) = report.rejected
        assert (rejection.bank, rejection.reason) == ("bank-1", RejectionReason.AGAINST_THE_OTHERS)
        assert "in the direction of the others, got -" in rejection.detail
    rounds = suspicion_by_round(made)
    assert [suspicion["bank-1"] for suspicion in rounds] == [ALARM * number for number in range(1, 6)]
    assert [bank for bank, suspicion in last_suspicion(made).items() if is_suspicious(suspicion)] == ["bank-1"]
    refused, suspicious = suspicion_lines(made)
    assert refused.startswith("bank-1 was refused (against_the_others): expected")
    assert suspicious == "bank-1 is suspicious (25.0, from 5 on): ask it"


def test_suspicion_is_plotted(consortium: Consortium) -> None:
    """The plot has a line for each bank, over all rounds, and the alarm."""
    consortium.run(consortium.campaign(), 2)
    axes = suspicion_figure(reports(consortium)).axes[0]
    lines = {line.get_label(): len(line.get_xdata()) for line in axes.lines}
    assert {name: count for name, count in lines.items() if name.startswith("bank")} == dict.fromkeys(
        consortium.banks, 2
    )
    assert any(
        (line.get_ydata() == np.array([ALARM, ALARM])).all() for line in axes.lines if len(line.get_xdata()) == 2
    )


def test_a_report_is_the_coordinator_s(consortium: Consortium) -> None:
    """One that another has signed is not read."""
    consortium.run(consortium.campaign(), 1)
    with pytest.raises(ProtocolError):
        read_reports(consortium.store, "cards", generate_signer().public_key)
    assert consortium.store.list(report_key("cards", 0, 0))
