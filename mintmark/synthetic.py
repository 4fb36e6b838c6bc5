"""Seeded card payments of n unlike banks, for the demonstration and the tests: nobody's data.

Customers go about their lives (with holidays, sprees and new telephones, which look like fraud), and four kinds of
fraud strike: takeovers of online accounts, card testing, cloned cards and stolen cards. Each bank has mostly known
two of them; in the held-out last weeks fraud has moved on to everybody. So no bank alone knows what comes, and the
consortium does. Left out: features of merchants, which look at other customers' rows and fit no privacy unit.

    schema, banks = simulate(seed=7)
    table = build_table(schema, banks["bank-a"])
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from string import ascii_lowercase

import numpy as np
import numpy.typing as npt

from mintmark.schema import Feature, FeatureKind, FeatureSchema, Scope

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DAY_S = 86_400
FIRST_DAY = np.datetime64(
    "2025-12-11", "s"
)  # training days begin on 10 January 2026, held-out ones on Monday, 16 March
WARM_UP_DAYS = 30  # fill the windows, and are dropped
TRAIN_DAYS = 60
GAP_DAYS = 5  # fraud is reported late, so what lies just before the test is not learned from
TEST_DAYS = 25
DAYS = WARM_UP_DAYS + TRAIN_DAYS + GAP_DAYS + TEST_DAYS
PAYMENTS_A_DAY = 0.4
FRAUD_SHARE = 0.012
UNDETECTED_SHARE = 0.08
DISPUTED_SHARE = 0.0002  # honest payments that their customers call fraud

CHANNELS = ("chip", "contactless", "stripe", "online", "atm")
MERCHANTS = ("grocery", "restaurant", "fuel", "clothing", "electronics", "jewellery", "travel", "digital", "cash")
MERCHANT_PRICE = np.array([0.7, 0.6, 1.0, 1.2, 3.0, 4.0, 5.0, 0.4, 1.8])  # times a customer's usual amount


@dataclass(frozen=True)
class Pattern:
    """Payments that belong together, and what they look like. Weights follow `CHANNELS` and `MERCHANTS`."""

    payments: float  # mean number in one episode
    hours: float  # over which they spread
    amount: float  # median: EUR, or times the customer's usual amount at such a merchant
    relative: bool
    spread: float  # standard deviation of the amount's logarithm
    channels: tuple[int, ...]
    merchants: tuple[int, ...]
    foreign: float = 0.01
    night: float = 0.03
    distance_km: float = 4
    new_device: float = 0.01


COUNTER = Pattern(1, 0, 1, True, 0.6, (40, 45, 6, 0, 9), (38, 18, 14, 10, 4, 1, 2, 0, 9))
ONLINE = Pattern(1, 0, 1, True, 0.7, (0, 0, 0, 1, 0), (8, 10, 0, 22, 12, 2, 10, 36, 0), foreign=0.06, night=0.08)
HOLIDAY = Pattern(9, 120, 1.5, True, 0.7, (45, 30, 15, 4, 6), (20, 36, 10, 8, 2, 3, 12, 1, 8), 0.7, 0.05, 900)
SPREE = Pattern(4, 5, 1.6, True, 0.7, (5, 5, 0, 90, 0), (2, 2, 0, 40, 26, 5, 10, 15, 0), 0.1, 0.12, new_device=0.06)
GAMING = Pattern(4, 2, 4, False, 0.6, (0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 0, 0, 1, 0), 0.25, 0.35, new_device=0.04)
PURCHASE = Pattern(1, 0, 5, True, 0.5, (60, 5, 12, 23, 0), (0, 1, 0, 8, 40, 25, 26, 0, 0), 0.04, distance_km=25)
HONEST = {HOLIDAY: 0.004, SPREE: 0.005, GAMING: 0.0035, PURCHASE: 0.02}  # episodes to one ordinary payment

TAKEOVER = Pattern(6, 10, 4, True, 0.8, (0, 0, 0, 1, 0), (1, 1, 0, 22, 34, 14, 16, 12, 0), 0.3, 0.35, new_device=0.65)
TESTING = Pattern(7, 2, 2, False, 0.5, (0, 0, 0, 1, 0), (8, 8, 0, 4, 0, 0, 0, 80, 0), 0.5, 0.5, new_device=0.7)
CLONED = Pattern(4, 20, 180, False, 0.6, (2, 0, 70, 0, 28), (10, 6, 16, 16, 16, 8, 2, 0, 26), 0.3, 0.2, 250)
STOLEN = Pattern(7, 5, 28, False, 0.4, (10, 85, 0, 0, 5), (38, 10, 22, 14, 6, 2, 0, 0, 8), 0.02, 0.15, 25)
FRAUDS = (TAKEOVER, TESTING, CLONED, STOLEN)
KNOWN_MIX = np.array([0.55, 0.37, 0.04, 0.04])  # what the first bank knows; the next knows it shifted by one


@dataclass(frozen=True, eq=False)
class _Payments:
    """[n] each, in any order."""

    customer: Integers
    time_s: Integers
    amount: Floats
    channel: Integers
    merchant: Integers
    foreign: Integers
    distance_km: Floats
    new_device: npt.NDArray[np.bool_]
    fraud: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Customers:
    """[u] each: the customers of one bank."""

    usual_amount: Floats
    rate: Floats  # payments a day
    online: Floats  # share of payments
    age: Floats
    device_day: Floats  # when the device was bought; bought anew every 900 days


def simulate(
    seed: int, banks: int = 4, rows: int = 200_000
) -> tuple[FeatureSchema, dict[str, dict[str, npt.NDArray[np.generic]]]]:
    """Payments of `banks` banks (2 to 26), about `rows` in all; of four, the shares are about 50, 30, 15 and 5 %.

    The same arguments give the same payments. Columns are those of the schema but `bank`: the key is the bank's id.
    Raises `ValueError` for fewer banks or rows than make sense.
    """
    if not 2 <= banks <= len(ascii_lowercase) or rows < 2_000 * banks:
        raise ValueError(f"expected 2 to 26 banks and 2000 rows a bank or more, got {banks} banks and {rows} rows")
    weights = np.arange(banks, 0, -1.0) ** 1.7
    sizes = rows * weights / weights.sum()
    return SCHEMA, {f"bank-{ascii_lowercase[bank]}": simulate_bank(seed, bank, sizes[bank]) for bank in range(banks)}


def simulate_bank(seed: int, bank: int, rows: float) -> dict[str, npt.NDArray[np.generic]]:
    """Payments of the bank with the number `bank` alone, about `rows`: `simulate`'s, however many banks there are."""
    rng = np.random.default_rng([seed, bank])
    people = _customers(rng, max(20, round(rows / ((TRAIN_DAYS + TEST_DAYS) * PAYMENTS_A_DAY * 1.1))))
    payments = _in_order(_honest(rng, people) + _fraud(rng, people, np.roll(KNOWN_MIX, bank)))
    columns = _features(rng, people, payments)
    if bank % 2:  # banks keep their records differently
        columns["customer_age"][rng.random(len(people.age))[payments.customer] < 0.1] = np.nan
    day = payments.time_s // DAY_S
    missed, disputed = rng.random((2, len(day))) < [[UNDETECTED_SHARE], [DISPUTED_SHARE]]
    test = day >= DAYS - TEST_DAYS
    kept = (day >= WARM_UP_DAYS) & (test | (day < WARM_UP_DAYS + TRAIN_DAYS))
    rest = {
        SCHEMA.time: FIRST_DAY + payments.time_s.astype("timedelta64[s]"),
        SCHEMA.label: np.where(payments.fraud, ~missed, disputed).astype(np.int8),
        SCHEMA.customer: 1_000_000 * (bank + 1) + payments.customer,
        SCHEMA.test: test,
    }
    return {name: column[kept] for name, column in (columns | rest).items()}


def _customers(rng: np.random.Generator, count: int) -> _Customers:
    return _Customers(
        usual_amount=rng.lognormal(np.log(35), 0.5, count),
        rate=rng.gamma(2, PAYMENTS_A_DAY / 2, count),
        online=rng.beta(1.5, 3.5, count),
        age=rng.normal(45, 16, count).clip(18, 95).round(),
        device_day=rng.uniform(-900, 0, count),
    )


def _honest(rng: np.random.Generator, people: _Customers) -> list[_Payments]:
    who = np.repeat(np.arange(len(people.rate)), rng.poisson(people.rate * DAYS))
    online = rng.random(len(who)) < people.online[who]
    episodes = [(COUNTER, who[~online]), (ONLINE, who[online])]
    episodes += [(pattern, rng.choice(who, round(share * len(who)) + 1)) for pattern, share in HONEST.items()]
    return [_draw(rng, pattern, people, who, rng.integers(0, DAYS, len(who)), False) for pattern, who in episodes]


def _fraud(rng: np.random.Generator, people: _Customers, known: Floats) -> list[_Payments]:
    """Fraud of the bank's `known` mix at first; from the gap on, half of it is spread evenly over the kinds."""
    moved = DAYS - GAP_DAYS - TEST_DAYS
    drawn = []
    for first, end, mix in ((0, moved, known), (moved, DAYS, (known + 1 / len(FRAUDS)) / 2)):
        wanted = FRAUD_SHARE * people.rate.sum() * (end - first) * mix
        for pattern, payments in zip(FRAUDS, wanted, strict=True):
            victims = rng.integers(0, len(people.rate), round(payments / pattern.payments) + 1)
            drawn.append(_draw(rng, pattern, people, victims, rng.integers(first, end, len(victims)), True))
    return drawn


def _draw(
    rng: np.random.Generator, pattern: Pattern, people: _Customers, who: Integers, day: Integers, fraud: bool
) -> _Payments:
    """One episode of `pattern` for each of `who`, beginning on `day`."""
    night = rng.random(len(who)) < pattern.night
    hour = np.where(night, rng.uniform(0, 6, len(who)), rng.normal(14.5, 3.8, len(who)) % 24)
    payments = 1 + rng.poisson(pattern.payments - 1, len(who))
    start, customer = np.repeat(DAY_S * day + 3600 * hour, payments), np.repeat(who, payments)
    count = len(customer)
    merchant = rng.choice(len(MERCHANTS), count, p=np.divide(pattern.merchants, sum(pattern.merchants)))
    usual = people.usual_amount[customer] * MERCHANT_PRICE[merchant] if pattern.relative else 1.0
    foreign = np.repeat(rng.random(len(who)) < pattern.foreign, payments)
    return _Payments(
        customer=customer,
        time_s=(start + 3600 * rng.uniform(0, pattern.hours, count)).astype(np.int64),
        amount=(pattern.amount * usual * rng.lognormal(0, pattern.spread, count)).clip(0.01, 20_000),
        channel=rng.choice(len(CHANNELS), count, p=np.divide(pattern.channels, sum(pattern.channels))),
        merchant=merchant,
        foreign=foreign.astype(np.int64),
        distance_km=np.where(foreign, 1_500, pattern.distance_km) * rng.lognormal(0, 1, count),
        new_device=np.repeat(rng.random(len(who)) < pattern.new_device, payments),
        fraud=np.full(count, fraud),
    )


def _in_order(parts: list[_Payments]) -> _Payments:
    """All payments within the simulated days, by customer and time."""
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Payments)}
    order = np.lexsort((joined["time_s"], joined["customer"]))
    order = order[joined["time_s"][order] < DAYS * DAY_S]
    return _Payments(**{name: column[order] for name, column in joined.items()})


def _features(rng: np.random.Generator, people: _Customers, payments: _Payments) -> dict[str, npt.NDArray[np.generic]]:
    cents, day = np.rint(payments.amount * 100), payments.time_s / DAY_S
    online = payments.channel == CHANNELS.index("online")
    device_age = (day - people.device_day[payments.customer]) % 900
    device_age = np.where(payments.new_device, rng.uniform(0, 3, len(day)), device_age)
    count = {days: _before(payments, days, np.ones(len(day))) for days in (1 / 24, 1, 7, 30)}
    same = np.diff(payments.customer, prepend=-1) == 0
    with np.errstate(divide="ignore", invalid="ignore"):  # no payment before: missing
        mean = _before(payments, 30, cents) / count[30]
        online_share = _before(payments, 30, online.astype(float)) / count[30]
    return {
        "amount": cents / 100,
        "hour": day % 1 * 24,
        "weekday": payments.time_s // DAY_S % 7,
        "channel": np.array(CHANNELS)[payments.channel],
        "merchant": np.array(MERCHANTS)[payments.merchant],
        "foreign": payments.foreign,
        "distance_km": np.where(online | (rng.random(len(day)) < 0.03), np.nan, payments.distance_km),
        "device_age_days": np.where(online & (rng.random(len(day)) > 0.05), device_age, np.nan),
        "customer_age": people.age[payments.customer],
        "payments_1h": count[1 / 24],
        "payments_1d": count[1],
        "payments_7d": count[7],
        "payments_30d": count[30],
        "spent_1d": _before(payments, 1, cents) / 100,
        "foreign_30d": _before(payments, 30, payments.foreign.astype(float)),
        "amount_over_mean": cents / mean,
        "online_share_30d": online_share,
        "hours_since_last": np.where(same, np.diff(payments.time_s, prepend=0) / 3600, np.nan),
    }


def _before(payments: _Payments, days: float, values: Floats) -> Floats:
    """The sum of `values` over the customer's payments in the `days` before each payment, itself left out."""
    key = payments.customer * 2 * DAYS * DAY_S + payments.time_s  # so far apart that no window reaches another customer
    first = np.searchsorted(key, key - round(days * DAY_S), side="left")
    sums = np.concatenate([[0.0], np.cumsum(values)])  # whole numbers: exact
    window: Floats = sums[:-1] - sums[first]
    return window


def _windowed(name: str, kind: FeatureKind, upper: float, unit: str = "") -> Feature:
    return Feature(name, kind, 0, upper, Scope.CUSTOMER, unit)


SCHEMA = FeatureSchema(
    name="synthetic-card-payments",
    features=(
        Feature("amount", FeatureKind.LOG, 0.01, 20_000, unit="EUR"),
        Feature("hour", FeatureKind.LINEAR, 0, 24, unit="h"),
        Feature("weekday", FeatureKind.INTEGER, 0, 6),
        Feature("channel", FeatureKind.CATEGORY, 0, len(CHANNELS) - 1, categories=CHANNELS),
        Feature("merchant", FeatureKind.CATEGORY, 0, len(MERCHANTS) - 1, categories=MERCHANTS),
        Feature("foreign", FeatureKind.INTEGER, 0, 1),
        Feature("distance_km", FeatureKind.LOG, 0.1, 20_000, unit="km"),
        Feature("device_age_days", FeatureKind.LOG, 0, 1_000, unit="d"),
        Feature("customer_age", FeatureKind.INTEGER, 18, 100, unit="years"),
        _windowed("payments_1h", FeatureKind.INTEGER, 20),
        _windowed("payments_1d", FeatureKind.INTEGER, 40),
        _windowed("payments_7d", FeatureKind.INTEGER, 100),
        _windowed("payments_30d", FeatureKind.INTEGER, 250),
        _windowed("spent_1d", FeatureKind.LOG, 50_000, "EUR"),
        _windowed("foreign_30d", FeatureKind.INTEGER, 50),
        _windowed("amount_over_mean", FeatureKind.LOG, 1_000),
        _windowed("online_share_30d", FeatureKind.LINEAR, 1),
        _windowed("hours_since_last", FeatureKind.LOG, 1_440, "h"),
    ),
    label="fraud",
    customer="customer",
    bank="bank",
    test="test",
    time="time",
    value="amount",
    value_limit=500,
)
