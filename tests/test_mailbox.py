"""The mailbox: one contract that every store keeps, and what a store does when its server does not."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from moto.server import ThreadedMotoServer

from infra.chaos.proxy import FaultProxy
from mintmark import mailbox, s3
from mintmark.errors import ProtocolError, StorageError, TooLargeError
from mintmark.mailbox import MemoryStore, ObjectStore, get_required, prove_write_once, put_same
from mintmark.s3 import S3Location, S3Store
from mintmark.settings import StorageKey

SECRET = "correct-horse-battery"
RACERS = 8


class StoreContract:
    """What the protocol relies on, asked of every `ObjectStore` by a fixture `store`."""

    def test_missing_objects_are_none(self, store: ObjectStore) -> None:
        """A key that nobody wrote reads as None, and required it is a `ProtocolError`."""
        assert store.get("public/nothing", max_bytes=10) is None
        with pytest.raises(ProtocolError, match="expected an object at public/nothing, got none"):
            get_required(store, "public/nothing", max_bytes=10)

    @pytest.mark.parametrize("data", [b"", b"\0\xff\n", bytes(range(256)) * 50])
    def test_bytes_come_back(self, store: ObjectStore, data: bytes) -> None:
        """Any bytes, none at all included, are read as they were written."""
        assert store.put_once("from/bank-a/x", data)
        assert store.get("from/bank-a/x", max_bytes=len(data)) == data
        assert get_required(store, "from/bank-a/x", max_bytes=len(data)) == data

    def test_the_first_write_stays(self, store: ObjectStore) -> None:
        """A second write of a key is refused, the same bytes included, and changes nothing."""
        assert store.put_once("public/plan", b"first")
        assert not store.put_once("public/plan", b"second")
        assert not store.put_once("public/plan", b"first")
        assert store.get("public/plan", max_bytes=10) == b"first"

    def test_one_of_many_racing_writers_wins(self, store: ObjectStore) -> None:
        """Of eight threads that write a key at the same moment one wins, and its bytes are there."""
        start = threading.Barrier(RACERS)

        def race(number: int) -> bool:
            start.wait()
            return store.put_once("public/raced", b"%d" % number)

        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(race, range(RACERS)))
        assert sum(won) == 1
        assert store.get("public/raced", max_bytes=10) == b"%d" % won.index(True)

    def test_keys_are_listed_by_prefix(self, store: ObjectStore) -> None:
        """Keys under a prefix come sorted, and no others."""
        for key in ("from/b/2", "from/b/10", "from/a/1", "from/bb/1", "public/x"):
            store.put_once(key, b"x")
        assert store.list("from/b/") == ["from/b/10", "from/b/2"]
        assert store.list("from/") == ["from/a/1", "from/b/10", "from/b/2", "from/bb/1"]
        assert store.list("nobody/") == []

    def test_too_large_objects_are_not_returned(self, store: ObjectStore) -> None:
        """One byte more than the reader allows is a `TooLargeError`, which names the key."""
        store.put_once("from/bank-a/large", bytes(101))
        assert store.get("from/bank-a/large", max_bytes=101) == bytes(101)
        with pytest.raises(TooLargeError, match="from/bank-a/large: expected at most 100 bytes"):
            store.get("from/bank-a/large", max_bytes=100)

    def test_write_once_is_proved(self, store: ObjectStore) -> None:
        """The store passes its proof, under as many new keys as one likes."""
        prove_write_once(store, f"public/proof/{uuid.uuid4()}")
        prove_write_once(store, f"public/proof/{uuid.uuid4()}")

    def test_the_same_bytes_may_be_put_again(self, store: ObjectStore) -> None:
        """A rerun that writes what is there already is fine; other bytes, longer or shorter, are a `StorageError`."""
        for _ in range(2):
            put_same(store, "public/model", b"model")
        for other in (b"MODEL", b"mode", b"model, and more"):
            with pytest.raises(StorageError):
                put_same(store, "public/model", other)
        assert store.get("public/model", max_bytes=10) == b"model"


class TestMemoryStore(StoreContract):
    """The store in memory."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        """An empty one."""
        return MemoryStore()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A simulated S3 server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def location(endpoint: str, bucket: str = "mailbox") -> S3Location:
    """A place with credentials of no value."""
    return S3Location(endpoint, bucket, "access", SECRET)


class TestS3Store(StoreContract):
    """The store in S3."""

    @pytest.fixture
    def store(self, endpoint: str) -> ObjectStore:
        """An empty bucket."""
        where = location(endpoint, f"bucket-{uuid.uuid4()}")
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=where.access_key,
            aws_secret_access_key=where.secret_key,
            region_name=where.region,
        )
        client.create_bucket(Bucket=where.bucket)
        return S3Store(where)

    def test_half_an_object_is_none(self, endpoint: str, store: ObjectStore) -> None:
        """An answer that breaks off is asked for again, and never passed on as the object; nor is a write done twice."""
        assert isinstance(store, S3Store)
        with FaultProxy(endpoint) as proxy:
            through = S3Store(location(proxy.url, store._bucket))
            proxy.fail("cut", requests=2)
            assert through.put_once("public/plan", b"a plan of some length") is False  # written; the answer was lost
            proxy.fail("cut", requests=1)
            assert through.get("public/plan", max_bytes=100) == b"a plan of some length"
            proxy.fail("cut", requests=1)
            assert through.get("public/nothing", max_bytes=100) is None
            proxy.fail("cut")
            with pytest.raises(StorageError, match="broke off"):
                through.get("public/plan", max_bytes=100)

    def test_lists_have_a_limit(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A flood of objects is an error, not a list without end."""
        monkeypatch.setattr(s3, "MAX_KEYS", 3)
        for number in range(4):
            store.put_once(f"from/bank-a/{number}", b"x")
        with pytest.raises(StorageError, match="from/bank-a/: expected at most 3 objects"):
            store.list("from/bank-a/")


def assert_every_call_fails(store: ObjectStore, says: str) -> None:
    """Each operation raises a `StorageError` with a sentence that helps, and without the secret."""
    calls = (
        lambda: store.get("public/a", max_bytes=9),
        lambda: store.put_once("public/a", b""),
        lambda: store.list("p"),
    )
    for verb, call in zip(("read", "write", "list"), calls, strict=True):
        with pytest.raises(
            StorageError, match=f"cannot {verb} p.*{says}.*check endpoint, credentials and policy"
        ) as caught:
            call()
        assert not isinstance(caught.value, TooLargeError)
        assert SECRET not in str(caught.value)


def test_an_unreachable_server_is_a_storage_error() -> None:
    """Nobody listens at the endpoint: a `StorageError` that says what to check."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but never listening: connections to it are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert_every_call_fails(S3Store(location(url), attempts=1), "EndpointConnectionError")


def test_a_cut_connection_is_a_storage_error() -> None:
    """A server that hangs up without an answer: a `StorageError`, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            assert_every_call_fails(S3Store(location(url), attempts=1), r"\(\w*Error\)")
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_missing_bucket_is_a_storage_error(endpoint: str) -> None:
    """A bucket that is not there is a fault of the store, not a mailbox without letters."""
    assert_every_call_fails(S3Store(location(endpoint, "no-such-bucket")), "404")


def test_secrets_are_never_shown(endpoint: str) -> None:
    """No representation of a place, a key or a store holds the secret."""
    where = location(endpoint)
    for value in (where, S3Store(where), StorageKey(access_key="access", secret_key=SECRET)):
        assert SECRET not in repr(value)
        assert SECRET not in str(value)


class OverwritingStore(MemoryStore):
    """A store as three of six servers were: it takes every write."""

    says_so = True

    def put_once(self, key: str, data: bytes) -> bool:
        """Overwrite, and say it was written or that it was not."""
        first = key not in self._objects
        self._objects[key] = data
        return first or self.says_so


@pytest.mark.parametrize("says_so", [True, False])
def test_a_store_that_overwrites_is_found_out(says_so: bool) -> None:
    """A store that accepts a second write, or claims to refuse it, fails its proof with a sentence on what to use."""
    store = OverwritingStore()
    store.says_so = says_so
    with pytest.raises(StorageError, match=r"does not keep write-once: .* public/proof .* Use a server that honours"):
        prove_write_once(store, "public/proof")


def test_keys_are_as_the_policies_expect() -> None:
    """What the coordinator writes lies under public/, what a bank writes under its own prefix, and no key is another's."""
    digest = "a" * 64
    ours = [
        mailbox.roster_key(3),
        mailbox.plan_key("cards", 3, 1),
        mailbox.model_key("cards", digest),
        mailbox.manifest_key("cards", 3, 1),
        mailbox.registration_key("cards"),
    ]
    assert all(key.startswith("public/") for key in ours)
    update = mailbox.update_key("bank-a", "cards", 3, 1)
    assert update.startswith(mailbox.bank_prefix("bank-a"))
    assert not update.startswith(mailbox.bank_prefix("bank"))
    assert len({*ours, update}) == 6


@pytest.mark.parametrize(("round_", "attempt"), [(0, 0), (12, 3), (1000, 99)])
def test_plan_keys_are_recognised(round_: int, attempt: int) -> None:
    """A plan's key is read back into its campaign, round and attempt; keys sort as rounds do."""
    match = mailbox.PLAN_KEY.fullmatch(mailbox.plan_key("cards-7", round_, attempt))
    assert match is not None
    assert (match[1], int(match[2]), int(match[3])) == ("cards-7", round_, attempt)
    assert mailbox.plan_key("c", round_, attempt) < mailbox.plan_key("c", round_ + 1, 0)


@pytest.mark.parametrize(
    "key",
    [
        "public/campaigns/../plans/0000-00",
        "public/campaigns/Cards/plans/0000-00",
        "public/campaigns/cards/plans/0-0",
        "public/campaigns/cards/plans/0000-00\n",
        "public/campaigns/cards/plans/0000-00/x",
        "from/bank-a/cards/0000-00",
        "",
    ],
)
def test_other_keys_are_no_plans(key: str) -> None:
    """Nothing else is taken for a plan's key."""
    assert mailbox.PLAN_KEY.fullmatch(key) is None
