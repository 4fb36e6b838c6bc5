"""The bank's cache: it saves time and changes nothing, and whatever becomes of it costs time and nothing else."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from consortium import Consortium, payments

from bank_node import cache
from bank_node.enrol import DEFAULT_POLICY
from bank_node.local_round import measure
from bank_node.settings import Home


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path, sizes=(300, 200, 200))


def sums(consortium: Consortium, model: str, campaign: str = "cards") -> list[int]:
    """The exact sums that answer the model's next plan, which never leave."""
    return measure(consortium.banks["bank-0"], consortium.plan(model, campaign)).vector.tolist()


def files(consortium: Consortium) -> list[Path]:
    folder = home(consortium).cache
    return sorted(folder.iterdir()) if folder.exists() else []


def home(consortium: Consortium) -> Home:
    return consortium.banks["bank-0"].home


def without_cache(consortium: Consortium, model: str, campaign: str = "cards") -> list[int]:
    shutil.rmtree(home(consortium).cache, ignore_errors=True)
    return sums(consortium, model, campaign)


def test_every_round_is_the_same_with_and_without_it(consortium: Consortium) -> None:
    """From the bins to the evaluation, the sums from carried scores are, to the last step, those from the data file."""
    model = consortium.campaign(rounds=5)
    for _ in range(6):
        carried = sums(consortium, model)
        kept = home(consortium).cache.rename(home(consortium).path / "kept")
        assert without_cache(consortium, model) == carried
        shutil.rmtree(home(consortium).cache)
        kept.rename(home(consortium).cache)
        model = consortium.run(model, 1)


def test_a_missed_round_is_caught_up(tmp_path: Path) -> None:
    """Scores of an older model are carried on from, over as many rounds as the bank was away."""
    policy = DEFAULT_POLICY.replace("smallest_rows = 1000", "smallest_rows = 10").replace("cohort = 3", "cohort = 2")
    consortium = Consortium(tmp_path, sizes=(300, 200, 200), policy=policy)
    model = consortium.campaign(rounds=6, quorum=2)
    model = consortium.run(model, 3)
    for _ in range(2):
        plan = consortium.plan(model)
        for name in ("bank-1", "bank-2"):
            consortium.answer(name, plan)
        model = consortium.settle(plan)
    carried = sums(consortium, model)
    assert without_cache(consortium, model) == carried


def test_the_data_file_is_read_once(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds after the first, the evaluation too, are answered from the cache."""
    model = consortium.campaign(rounds=3)
    sums(consortium, model)

    def unexpected(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(cache, "load_table", unexpected)
    for _ in range(4):
        plan = consortium.plan(model)
        consortium.answer("bank-0", plan)
        monkeypatch.undo()
        for name in ("bank-1", "bank-2"):
            consortium.answer(name, plan)
        monkeypatch.setattr(cache, "load_table", unexpected)
        model = consortium.settle(plan)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other", "gone"])
def test_a_damaged_file_is_not_used(consortium: Consortium, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """One bit, a cut end, nothing, another's contents: the sums are as without a cache, and the bank's log says why."""
    model = consortium.run(consortium.campaign(rounds=5), 3)
    expected = sums(consortium, model)
    paths = files(consortium)
    contents = [path.read_bytes() for path in paths]
    for path, data, other in zip(paths, contents, contents[1:] + contents[:1], strict=True):
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"flip": flipped, "cut": data[:-9], "empty": b"", "other": other, "gone": b""}[damage])
        if damage == "gone":
            path.unlink()
        with caplog.at_level(logging.WARNING, logger="bank_node"):
            assert sums(consortium, model) == expected
        for sound, bytes_ in zip(paths, contents, strict=True):
            sound.write_bytes(bytes_)
    assert ("damaged" in caplog.text) == (damage != "gone")


def test_another_data_file_is_coded_anew(consortium: Consortium) -> None:
    """New rows under the old name and size are noticed; what was kept of the old ones is deleted."""
    model = consortium.run(consortium.campaign(rounds=5), 3)
    before, expected_before = files(consortium), sums(consortium, model)
    data, stat = home(consortium).data, home(consortium).data.stat()
    columns = payments(300, seed=0)
    columns["fraud"] = columns["fraud"][::-1].copy()
    pq.write_table(pa.table({key: pa.array(value, from_pandas=True) for key, value in columns.items()}), data)
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = sums(consortium, model)
    assert after != expected_before
    assert not set(before) & set(files(consortium))
    assert without_cache(consortium, model) == after


def test_it_is_small_and_only_the_owners(consortium: Consortium) -> None:
    """Two files of rows and one of scores, whatever the rounds and campaigns; no scores after an evaluation."""
    for name in ("first", "second"):
        model = consortium.campaign(name=name, rounds=3, epsilon=1.0)
        for settled in range(4):
            model = consortium.run(model, 1, name)
            kinds = sorted(path.suffix for path in files(consortium))
            assert kinds == ([".scores", ".test", ".train"] if settled < 3 else [".test", ".train"])
    assert home(consortium).cache.stat().st_mode & 0o077 == 0


def test_two_campaigns_do_not_mix_their_scores(consortium: Consortium) -> None:
    """Campaigns side by side, of other seeds and so other trees, get the sums that each gets alone."""
    one = consortium.run(consortium.campaign(name="one", rounds=5, epsilon=1.0, seed=1), 3, "one")
    two = consortium.run(consortium.campaign(name="two", rounds=5, epsilon=1.0, seed=2), 4, "two")
    mixed = sums(consortium, one, "one"), sums(consortium, two, "two")
    assert mixed == (without_cache(consortium, one, "one"), without_cache(consortium, two, "two"))


def test_a_full_disk_is_no_reason_to_be_silent(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the cache cannot be written the bank answers all the same."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_durably", full)
    with caplog.at_level(logging.WARNING, logger="bank_node"):
        consortium.answer("bank-0", consortium.plan(consortium.campaign()))
    assert "cache was not written" in caplog.text


def test_no_value_of_a_row_is_readable_in_what_is_logged(
    consortium: Consortium, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache's log lines name no number of any row."""
    with caplog.at_level(logging.DEBUG, logger="bank_node"):
        consortium.run(consortium.campaign(rounds=3), 3)
    amounts = np.asarray(consortium.columns["bank-0"]["amount"])
    assert not any(f"{value:.4f}" in caplog.text for value in amounts)
