"""The stock Python client etcd3 against a running cluster.

Usage: checks.py ENDPOINT…, with ETCDCTL_CACERT and ETCDCTL_USER (name:password) in the environment
where the cluster wants them. Prints `ok <name>` or `FAIL <name>: <why>` per check and fails if one
did. Passes against stock etcd too, which keeps it honest.
"""

import os
import sys
import threading
import time

import etcd3

ENDPOINTS = sys.argv[1:]
CERTIFICATES = os.environ.get("ETCDCTL_CACERT")
USER, _, PASSWORD = os.environ.get("ETCDCTL_USER", "").partition(":")


def connect(endpoint=ENDPOINTS[0], user=USER or None, password=PASSWORD or None):
    host, port = endpoint.rsplit(":", 1)
    return etcd3.client(host=host, port=int(port), ca_cert=CERTIFICATES, user=user,
                        password=password, timeout=10)


def put_get_and_delete(client):
    client.put("py/a", "1")
    value, meta = client.get("py/a")
    assert (value, meta.key) == (b"1", b"py/a"), (value, meta.key)
    client.put("py/a", "2", prev_kv=True)
    value, meta = client.get("py/a")
    assert value == b"2" and meta.version >= 2, (value, meta.version)
    assert client.delete("py/a") is True
    assert client.delete("py/a") is False
    assert client.get("py/a") == (None, None)


def every_member_serves_what_another_took(client):
    for number, writer in enumerate(ENDPOINTS):
        connect(writer).put("py/everywhere", str(number))
        for reader in ENDPOINTS:
            value, _ = connect(reader).get("py/everywhere")
            assert value == str(number).encode(), (writer, reader, value)


def ranges_are_sorted(client):
    for key, value in [("py/r/a", "3"), ("py/r/b", "1"), ("py/r/c", "2")]:
        client.put(key, value)
    values = [value for value, _ in client.get_prefix("py/r/")]
    assert values == [b"3", b"1", b"2"], values
    values = [value for value, _ in client.get_prefix("py/r/", sort_order="descend")]
    assert values == [b"2", b"1", b"3"], values
    values = [value for value, _ in client.get_range("py/r/b", "py/r/z", sort_target="value")]
    assert values == [b"1", b"2"], values
    assert client.delete_prefix("py/r/").deleted == 3


def transactions_take_the_right_branch(client):
    client.put("py/t", "1")
    replace = {
        "compare": [client.transactions.value("py/t") == "1"],
        "success": [client.transactions.put("py/t", "2")],
        "failure": [client.transactions.get("py/t")],
    }
    succeeded, _ = client.transaction(**replace)
    assert succeeded
    succeeded, answers = client.transaction(**replace)
    assert not succeeded and answers[0][0][0] == b"2", answers
    assert client.replace("py/t", "2", "3") is True
    assert client.replace("py/t", "2", "4") is False
    client.delete("py/t/new")
    assert client.put_if_not_exists("py/t/new", "x") is True
    assert client.put_if_not_exists("py/t/new", "y") is False


def a_watch_tells_what_happens(client):
    events, cancel = client.watch_prefix("py/w/")
    client.put("py/w/a", "1")
    client.delete("py/w/a")
    first, second = next(events), next(events)
    cancel()
    assert isinstance(first, etcd3.events.PutEvent) and first.value == b"1", first
    assert isinstance(second, etcd3.events.DeleteEvent), second
    history, cancel = client.watch("py/w/a", start_revision=first.mod_revision)
    assert next(history).mod_revision == first.mod_revision
    cancel()


def a_lease_keeps_and_takes_its_keys(client):
    lease = client.lease(60)
    client.put("py/l", "x", lease=lease)
    assert lease.granted_ttl == 60 and 50 < lease.remaining_ttl <= 60, lease.remaining_ttl
    assert list(lease.keys) == [b"py/l"], lease.keys
    assert [answer.TTL for answer in lease.refresh()] == [60]
    lease.revoke()
    assert client.get("py/l") == (None, None)


def a_lease_that_nobody_keeps_expires(client):
    client.put("py/expires", "x", lease=client.lease(2))
    give_up = time.monotonic() + 15
    while client.get("py/expires") != (None, None):
        assert time.monotonic() < give_up, "still there"
        time.sleep(0.1)


def a_lock_is_held_by_one(client):
    first, second = connect().lock("py/lock", ttl=30), connect().lock("py/lock", ttl=30)
    assert first.acquire(timeout=5)
    assert first.is_acquired()
    assert not second.acquire(timeout=1)
    taken = threading.Thread(target=second.acquire, args=(10,))
    taken.start()
    # The client watches after it has looked, and misses what happens in between.
    time.sleep(1)
    first.release()
    taken.join()
    assert second.is_acquired()
    second.release()


def members_and_status(client):
    members = list(client.members)
    assert len(members) == len(ENDPOINTS), members
    assert {name for member in members for name in [member.name]} == {"n1", "n2", "n3"}, members
    status = client.status()
    assert status.leader.id in [member.id for member in members], status.leader
    assert status.db_size > 0
    assert list(client.list_alarms()) == []
    # The client asks for the hash without its token.
    assert USER or client.hash() != 0


def a_snapshot_is_streamed(client):
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"quorate-python-{os.getpid()}")
    try:
        with open(path, "wb") as file:
            client.snapshot(file)
        # A SHA-256 follows whole blocks, by which etcd's tools know a snapshot.
        assert os.path.getsize(path) % 512 == 32, os.path.getsize(path)
    finally:
        os.remove(path)


def compaction_forgets(client):
    client.put("py/c", "1")
    revision = int(client.get("py/c")[1].mod_revision)
    client.put("py/c", "2")
    client.compact(revision + 1)
    try:
        client.compact(revision)
    except Exception as error:
        assert "required revision has been compacted" in str(error), error
        return
    raise AssertionError("compacted twice")


def a_wrong_password_is_refused(client):
    try:
        connect(user=USER, password="wrong").get("py/a")
    except Exception as error:
        assert "authentication failed" in repr(error), repr(error)
        return
    raise AssertionError("let in")


CHECKS = [
    put_get_and_delete,
    every_member_serves_what_another_took,
    ranges_are_sorted,
    transactions_take_the_right_branch,
    a_watch_tells_what_happens,
    a_lease_keeps_and_takes_its_keys,
    a_lease_that_nobody_keeps_expires,
    a_lock_is_held_by_one,
    members_and_status,
    a_snapshot_is_streamed,
    compaction_forgets,
]


def main():
    checks = CHECKS + ([a_wrong_password_is_refused] if USER else [])
    failed = False
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            check(connect())
            print("ok", name, flush=True)
        except Exception as error:
            failed = True
            print(f"FAIL {name}: {repr(error)}".replace("\n", " "), flush=True)
    # Threads of watches do not end by themselves.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
