"""What Open vSwitch's database tells of its ports, from a database that says what a test wants."""

import itertools
import json
import socket
import threading
import time
from contextlib import suppress

import pytest

from agent import jsonstream, netns, switchwatch
from agent.switchwatch import Switches

WAIT_S = 20


def port(name, tag=5):
    return {"name": name, "tag": tag, "trunks": ["set", []], "vlan_mode": "access", "external_ids": ["map", []]}


def tables(**changes):
    """Return the tables of an answer: by row, what it is now, None: it is gone."""
    found = {"Bridge": {}, "Port": {}, "Interface": {}}
    for key, row in changes.items():
        table, uuid = key.split("_")
        found[table][uuid] = {"old": {}} if row is None else {"new": row}
    return found


BRIDGE = {"name": "br0", "ports": ["set", [["uuid", "p1"], ["uuid", "p2"]]]}
START = tables(Bridge_b1=BRIDGE, Port_p1=port("hn1"), Port_p2=port("hn2"), Interface_i1={"name": "hn1", "error": ""})


class Database:
    """Serves one connection after the other; the test says what each hears first, and then more."""

    def __init__(self, path):
        self.path, self.connection, self.asked = str(path), None, []
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(self.path)
        self.listening.listen()
        self.listening.settimeout(WAIT_S)

    def accept(self, first=START):
        """Wait for a connection, take its request, and answer it."""
        if self.connection is not None:
            self.connection.close()
        self.connection, _ = self.listening.accept()
        self.connection.settimeout(WAIT_S)
        self.asked.append(json.loads(self.connection.recv(1 << 16)))
        if first is not None:
            self.say({"id": 0, "result": first, "error": None})

    def say(self, message):
        self.connection.sendall(message if isinstance(message, bytes) else json.dumps(message).encode())

    def update(self, **changes):
        self.say({"id": None, "method": "update", "params": [None, tables(**changes)]})

    def is_heard(self):
        """Wait until all that was said has been read."""
        self.say({"method": "echo", "id": "e", "params": []})
        assert self.connection.recv(4096)

    def hang_up(self):
        self.connection.close()

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.listening.close()


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setattr(switchwatch, "RETRY_S", 0.05)
    monkeypatch.setattr(switchwatch, "PAUSE_S", 0.01)
    made = Database(tmp_path / "db.sock")
    yield made
    made.close()


class Heard:
    def __init__(self):
        self.names, self.changed = [], threading.Condition()

    def __call__(self, names):
        with self.changed:
            self.names.append(set(names))
            self.changed.notify_all()

    def next(self):
        with self.changed:
            assert self.changed.wait_for(lambda: self.names, WAIT_S), "nothing was heard"
            return self.names.pop(0)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def switches(heard):
    made = Switches(netns.View())
    made.changed = heard
    yield made
    made.close()


def test_ports_that_change_come_and_go_are_told_by_name_and_what_is_there_first_is_not(database, switches, heard):
    switches.follow(frozenset({database.path}))
    database.accept()
    database.update(Port_p1=port("hn1", tag=9))
    assert heard.next() == {"hn1"}
    database.update(Port_p3=port("hn3"), Bridge_b1={"name": "br0", "ports": ["uuid", "p1"]}, Port_p2=None)
    assert heard.next() == {"hn2", "hn3"}
    database.update(Bridge_b2={"name": "br1", "ports": ["uuid", "p3"]})
    assert heard.next() == {"hn3"}, "it is on another bridge"
    database.update(Interface_i1={"name": "hn1", "error": "could not open network device"})
    assert heard.next() == {"hn1"}
    database.update(Port_p1=port("hn1", tag=9))
    database.update(Port_p1=port("hn1", tag=5))
    assert heard.next() == {"hn1"}, "the same again is nothing"
    (request,) = database.asked
    assert (request["method"], sorted(request["params"][2])) == ("monitor", ["Bridge", "Interface", "Port"])


def test_a_message_comes_in_pieces_and_several_come_at_once(database, switches, heard):
    switches.follow(frozenset({database.path}))
    database.accept(first=None)
    whole = json.dumps({"id": 0, "result": tables(Port_p1=port("hnü")), "error": None}, ensure_ascii=False).encode()
    gone = [json.dumps({"method": "update", "id": None, "params": [None, tables(Port_p1=None)]}).encode()]
    middle = whole.index("ü".encode()) + 1
    for piece in (whole[:middle], whole[middle:] + b"\n" + gone[0][:9], gone[0][9:]):
        database.say(piece)
        time.sleep(0.05)
    assert heard.next() == {"hnü"}


def test_what_happened_while_the_connection_was_lost_is_told_when_it_is_back(database, switches, heard):
    switches.follow(frozenset({database.path}))
    database.accept()
    database.is_heard()
    database.hang_up()
    database.accept(tables(Bridge_b1=BRIDGE, Port_p1=port("hn1", tag=7), Port_p4=port("hn4"),
                           Interface_i1={"name": "hn1", "error": ""}))  # fmt: skip
    assert heard.next() == {"hn1", "hn2", "hn4"}


def test_a_database_that_asks_whether_we_live_is_answered(database, switches):
    switches.follow(frozenset({database.path}))
    database.accept()
    database.say({"method": "echo", "id": "e1", "params": ["x"]})
    assert json.loads(database.connection.recv(4096)) == {"id": "e1", "result": ["x"], "error": None}


@pytest.mark.parametrize(
    "nonsense",
    [
        {"id": 0, "result": None, "error": "no such database"},
        {"id": 0, "result": {"Port": {"p1": {"new": {}}}}, "error": None},
        {"id": 0, "result": {"Other": {}}, "error": None},
        {"id": 0, "result": {"Port": 7}, "error": None},
        {"id": None, "method": "update", "params": [None, tables(Port_p1={**port("hn1"), "name": 5})]},
        b'{"id": 1} ',
        b"[1] ",
        b"\xff\xff",
        b"1" * 5000 + b" ",
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_of_a_database_ends_the_connection_and_nothing_else(database, switches, heard, nonsense):
    switches.follow(frozenset({database.path}))
    database.accept()
    database.is_heard()
    with suppress(OSError):
        database.say(nonsense)
    database.accept(tables(Bridge_b1=BRIDGE, Port_p1=port("hn1"), Interface_i1={"name": "hn1", "error": ""}))
    assert heard.next() == {"hn2"}


def test_an_answer_without_an_end_is_not_kept(database, switches, heard, monkeypatch):
    monkeypatch.setattr(jsonstream, "MESSAGE_BYTES", 10_000)
    switches.follow(frozenset({database.path}))
    database.accept()
    database.is_heard()
    with suppress(OSError):
        database.say(b'{"x": "' + b"a" * 20_000)
    database.accept(tables(Port_p1=port("hn1"), Port_p2=port("hn2")))
    assert heard.next() == {"hn1", "hn2"}


def test_a_message_that_never_ends_is_not_waited_for(database, switches, heard, monkeypatch):
    monkeypatch.setattr(switchwatch, "MESSAGE_S", 0.2)
    switches.follow(frozenset({database.path}))
    database.accept()
    database.is_heard()
    database.say(b'{"id": ')
    database.accept(tables(Port_p1=port("hn1"), Port_p2=port("hn2")))
    assert heard.next() == {"hn1", "hn2"}
    time.sleep(0.5)
    database.update(Port_p1=port("hn1", tag=8))
    assert heard.next() == {"hn1"}, "who has nothing to say is not late"


@pytest.mark.parametrize(("bound", "most"), [("ROWS", 20), ("CHARACTERS", 5000)])
def test_a_database_that_has_ever_more_is_not_kept(database, switches, heard, monkeypatch, bound, most):
    monkeypatch.setattr(switchwatch, bound, most)
    switches.follow(frozenset({database.path}))
    database.accept()
    for _ in range(50):
        database.update(Port_p1=port("hn1"), Port_p2=port("hn2"))
        database.is_heard()  # the same again is no more
    with suppress(OSError):
        for number in range(most):
            database.update(**{f"Port_x{number}": port(f"x{number}")})
    database.accept(tables(Port_p1=port("hn1", tag=6)))
    told = set()
    while "hn1" not in told:
        told |= heard.next()


def test_who_ends_each_connection_is_asked_ever_more_rarely_and_told_once(database, switches, monkeypatch, caplog):
    tries, connect = [], switchwatch._Monitor
    monkeypatch.setattr(switchwatch, "_Monitor", lambda path: (tries.append(time.monotonic()), connect(path))[1])
    switches.follow(frozenset({database.path}))
    for _ in range(5):
        database.accept(first=None)
        database.hang_up()
    waits = [later - before for before, later in itertools.pairwise(tries)]
    assert all(wait >= 0.05 * 2**number for number, wait in enumerate(waits, 1)), waits
    assert caplog.text.count("is not heard any more") == 1


def test_a_path_that_is_none_is_nothing_to_the_others(tmp_path, database, switches, heard, caplog):
    switches.follow(frozenset({database.path, "/\ud800", "/" + 200 * "x"}))
    database.accept()
    database.update(Port_p1=port("hn1", tag=9))
    assert heard.next() == {"hn1"}
    assert not caplog.records


def test_where_no_thread_can_be_had_it_is_tried_again(database, switches, heard, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(
            threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
        )
        switches.follow(frozenset({database.path}))
    switches.follow(frozenset({database.path}))
    database.accept()
    database.update(Port_p1=port("hn1", tag=9))
    assert heard.next() == {"hn1"}


def test_what_never_ran_can_be_closed(monkeypatch):
    made = Switches(netns.View())
    with monkeypatch.context() as short:
        short.setattr(
            threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
        )
        made.follow(frozenset({"/nowhere"}))
    made.close()


def test_a_database_that_comes_later_is_heard_and_one_that_nobody_needs_is_left(tmp_path, database, switches, heard):
    later = str(tmp_path / "later.sock")
    switches.follow(frozenset({database.path, later}))
    database.accept()
    other = Database(later)
    try:
        other.accept(tables(Port_p1=port("hn7")))
        switches.follow(frozenset({later}))
        assert database.connection.recv(4096) == b"", "it is closed"
        other.update(Port_p1=None)
        assert heard.next() == {"hn7"}
    finally:
        other.close()


def test_where_no_attachment_needs_one_nothing_runs(switches):
    switches.follow(frozenset())
    assert switches._thread is None
