import contextlib
import json
import logging
import statistics
import threading
import time

import pytest
from kubernetes import client

from controller import follow, kube
from controller.known import Table
from controller.model import Event, PodRef, PodUID
from controller.reconcile import Conflict, Gone
from controller.relay import Denied
from controller.workers import Unavailable
from tests.controller import build, http_server

REF = PodRef(PodUID("uid-p"), "ns", "p")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(follow, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(follow, "LAST_RETRY_S", 0.05)


def kube_of(url: str, **parts: object) -> kube.Kube:
    settings = client.Configuration()
    settings.host = url
    for key, value in parts.items():
        setattr(settings, key, value)
    return kube.Kube(settings, "node-1", lambda _: None)


def page(*documents: dict, version: str = "10", more: str = "") -> dict:
    return {"items": list(documents), "metadata": {"resourceVersion": version, "continue": more}}


class Following:
    """A follower on a thread of its own, with a table that remembers what it was told."""

    def __init__(self, url: str) -> None:
        self.calls: list[tuple[str, float]] = []
        self.restarts = 0
        self.news = threading.Condition()
        self.table = Table(lambda pod: pod.ref, self._changed)
        self.stop = threading.Event()
        follower = follow.Follower(kube_of(url), kube.pods_of("node-1"), self.table, self._restarted)
        self.thread = threading.Thread(target=follower.run, args=(self.stop,), daemon=True)

    def _restarted(self, _: str) -> None:
        self.restarts += 1

    def _changed(self, old, new) -> None:
        now = time.monotonic()
        with self.news:
            what = f"+{new.ref.name}" if old is None else f"-{old.ref.name}" if new is None else f"={new.ref.name}"
            self.calls.append((what, now))
            self.news.notify_all()

    def wait(self, *expected: str) -> None:
        with self.news:
            assert self.news.wait_for(lambda: [what for what, _ in self.calls] == list(expected), 5), self.calls


@contextlib.contextmanager
def following(answer):
    with http_server.serving(answer) as url:
        one = Following(url)
        one.thread.start()
        try:
            yield one
        finally:
            one.stop.set()


# -- list and watch -------------------------------------------------------------------------------------------------


def test_pods_of_the_node_are_listed_in_pages_and_watched_from_there():
    asked = []

    def answer(request):
        asked.append(request.query)
        if "watch" in request.query:
            request.start_stream()
            request.event("ADDED", build.document("c", version=11))
            time.sleep(0.3)
            request.end_stream()
        elif "continue" not in request.query:
            request.reply(200, page(build.document("a"), more="next"))
        else:
            request.reply(200, page(build.document("b")))

    with following(answer) as one:
        one.wait("+a", "+b", "+c")
    assert [query["fieldSelector"] for query in asked[:3]] == ["spec.nodeName=node-1"] * 3
    assert asked[0]["limit"] == "500"
    assert asked[1]["continue"] == "next"
    assert (asked[2]["resourceVersion"], asked[2]["allowWatchBookmarks"]) == ("10", "true")
    assert int(asked[2]["timeoutSeconds"]) == 300


def test_a_change_arrives_in_the_moment_it_is_sent():
    sent = []

    def answer(request):
        if "watch" not in request.query:
            request.reply(200, page())
            return
        request.start_stream()
        padding = {"padding": "x" * 20_000}
        for number in range(50):
            time.sleep(0.005)
            document = build.document(f"p{number:02}", version=100 + number, annotations=padding)
            sent.append(time.monotonic())
            request.event("ADDED", document)
        time.sleep(1)

    with following(answer) as one:
        one.wait(*(f"+p{number:02}" for number in range(50)))
    delays = [arrived - left for left, (_, arrived) in zip(sent, one.calls, strict=True)]
    assert statistics.median(delays) < 0.005


def test_a_watch_is_taken_up_where_a_bookmark_left_it():
    versions, done = [], threading.Event()

    def answer(request):
        if "watch" not in request.query:
            request.reply(200, page())
            return
        versions.append(request.query["resourceVersion"])
        request.start_stream()
        if len(versions) == 1:
            request.event("BOOKMARK", {"metadata": {"resourceVersion": "77"}})
            request.end_stream()
        else:
            done.set()
            time.sleep(0.2)
            request.end_stream()

    with following(answer):
        assert done.wait(5)
    assert versions[:2] == ["10", "77"]


@pytest.mark.parametrize("how", ["event", "status"])
def test_an_expired_version_leads_to_a_new_list_that_finds_what_is_gone(how):
    lists = []

    def answer(request):
        if "watch" not in request.query:
            lists.append(1)
            names = ("a", "b") if len(lists) == 1 else ("b", "c")
            request.reply(200, page(*(build.document(name) for name in names)))
        elif len(lists) == 1 and how == "event":
            request.start_stream()
            request.event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})
            request.end_stream()
        elif len(lists) == 1:
            request.reply(410, {"kind": "Status", "message": "too old resource version"})
        else:
            request.start_stream()
            time.sleep(1)

    with following(answer) as one:
        with one.news:
            assert one.news.wait_for(lambda: len(one.calls) >= 5, 5)
        assert {what for what, _ in one.calls[2:]} == {"-a", "=b", "+c"}


def test_a_connection_that_is_cut_is_taken_up_without_a_list():
    watches, lists = [], []

    def answer(request):
        if "watch" not in request.query:
            lists.append(1)
            request.reply(200, page())
            return
        watches.append(request.query["resourceVersion"])
        request.start_stream()
        if len(watches) == 1:
            request.event("ADDED", build.document("a", version=20))
            request.wfile.write(b"1000\r\nhalf a chu")
            request.cut()
        else:
            request.event("ADDED", build.document("b", version=21))
            time.sleep(1)

    with following(answer) as one:
        one.wait("+a", "+b")
    assert (watches[:2], len(lists)) == (["10", "20"], 1)


def test_garbage_leads_to_a_new_list(caplog):
    lists = []

    def answer(request):
        if "watch" not in request.query:
            lists.append(1)
            request.reply(200, page(*([build.document("a")] if len(lists) > 1 else [])))
            return
        request.start_stream()
        if len(lists) == 1:
            request.send(b"<html>proxy error</html>\n")
            request.end_stream()
        else:
            time.sleep(1)

    with following(answer) as one:
        one.wait("+a")
    assert "proxy error" in caplog.text


def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_pause(monkeypatch):
    monkeypatch.setattr(follow, "FIRST_RETRY_S", 0.2)
    monkeypatch.setattr(follow, "LAST_RETRY_S", 10.0)
    watches = []

    def answer(request):
        if "watch" not in request.query:
            request.reply(200, page())
            return
        watches.append(1)
        request.start_stream()
        request.end_stream()

    with following(answer):
        time.sleep(1.0)
    assert len(watches) <= 5


def test_a_server_that_is_away_is_waited_for(caplog):
    is_up = threading.Event()

    def answer(request):
        if not is_up.is_set():
            request.reply(503, {"kind": "Status", "message": "the server is starting"})
        elif "watch" not in request.query:
            request.reply(200, page(build.document("a")))
        else:
            request.start_stream()
            time.sleep(1)

    with following(answer) as one:
        time.sleep(0.1)
        assert not one.table.listed_once.is_set()
        is_up.set()
        one.wait("+a")
        assert one.restarts >= 1
    assert "the server is starting" in caplog.text


def test_a_kind_that_does_not_exist_yet_has_no_objects():
    exists = threading.Event()

    def answer(request):
        if not exists.is_set():
            request.reply(404, {"kind": "Status", "message": "no such resource"})
        elif "watch" not in request.query:
            request.reply(200, page(build.document("a")))
        else:
            request.start_stream()
            time.sleep(1)

    with following(answer) as one:
        assert one.table.listed_once.wait(5)
        exists.set()
        one.wait("+a")


def test_an_object_that_cannot_be_read_is_told_and_costs_the_others_nothing(caplog):
    bad = {"metadata": {"namespace": "ns", "name": "bad", "resourceVersion": "11"}}
    lists = []

    def answer(request):
        if "watch" not in request.query:
            lists.append(1)
            request.reply(200, page(bad, build.document("a")))
        else:
            request.start_stream()
            request.event("MODIFIED", bad)
            request.event("ADDED", build.document("b", version=12))
            time.sleep(1)

    with caplog.at_level(logging.ERROR), following(answer) as one:
        one.wait("+a", "+b")
    assert len(lists) == 1
    assert len([one for one in caplog.records if one.exc_info and "ns/bad" in one.getMessage()]) == 2


def test_an_object_that_cannot_be_read_and_is_deleted_is_gone():
    bad = {"metadata": {"namespace": "ns", "name": "a", "resourceVersion": "11"}}
    lists = []

    def answer(request):
        if "watch" not in request.query:
            lists.append(1)
            request.reply(200, page(*[build.document("a")] * (len(lists) == 1)))
        else:
            request.start_stream()
            if len(lists) == 1:
                request.event("DELETED", bad)
            time.sleep(1)

    with following(answer) as one:
        one.wait("+a", "-a")


@pytest.mark.parametrize("levels", [1_200, 9_000])
def test_an_object_that_is_nested_too_deeply_to_be_read_costs_the_others_nothing(levels):
    def deep(name: str, version: int) -> bytes:
        text = json.dumps(build.document(name, version=version, annotations={"x": "@"}))
        return text.encode().replace(b'"@"', b'[{"[":' * (levels // 2) + b"1" + b"}]" * (levels // 2))

    def answer(request):
        if "watch" not in request.query:
            items = b",".join((deep("a", 1), json.dumps(build.document("b")).encode()))
            request.reply(200, b'{"items": [%s], "metadata": {"resourceVersion": "10"}}' % items)
        else:
            request.start_stream()
            request.send(b'{"type": "ADDED", "object": %s}\n' % deep("c", 11))
            request.event("ADDED", build.document("d", version=12))
            time.sleep(1)

    with following(answer) as one:
        one.wait("+a", "+b", "+c", "+d")


# -- reads and writes -----------------------------------------------------------------------------------------------


def test_a_patch_goes_to_the_status_subresource_as_json_patch():
    requests = []

    def answer(request):
        requests.append((request.command, request.place, request.headers, request.body))
        request.reply(200, build.document(version=12))

    operations = [{"op": "test", "path": "/metadata/uid", "value": "uid-p"}]
    with http_server.serving(answer) as url:
        api = kube_of(url, api_key={"BearerToken": "Bearer secret"})
        assert api.patch_status(build.pod(), operations).resource_version == "12"
    ((method, place, headers, body),) = requests
    assert (method, place) == ("PATCH", "/api/v1/namespaces/ns/pods/p/status")
    assert headers["Content-Type"] == "application/json-patch+json"
    assert headers["Authorization"] == "Bearer secret"
    assert body == operations


def test_a_patch_is_spelled_as_the_api_server_spells_what_it_compares_it_with():
    """Its `test` compares bytes: another escape of the same text would be a conflict for ever."""
    bodies = []

    def answer(request):
        bodies.append(request.raw)
        request.reply(200, build.document())

    with http_server.serving(answer) as url:
        kube_of(url).patch_status(build.pod(), [{"op": "test", "path": "/x", "value": "<ä&\u2028>"}])
    assert bodies == ['[{"op":"test","path":"/x","value":"\\u003cä\\u0026\\u2028\\u003e"}]'.encode()]


@pytest.mark.parametrize(
    ("status", "raised"),
    [(404, Gone), (409, Conflict), (422, Conflict), (403, Unavailable), (429, Unavailable), (500, Unavailable)],
)
def test_the_servers_refusals_are_told_apart(status, raised):
    with (
        http_server.serving(lambda request: request.reply(status, {"message": "because"})) as url,
        pytest.raises(raised, match=f"{status} because"),
    ):
        kube_of(url).patch_status(build.pod(), [])


@pytest.mark.parametrize(
    ("status", "message", "raised"),
    [
        (409, "the object has been modified", Conflict),
        (422, "the server rejected our request due to an error in our request", Conflict),
        (422, 'admission webhook "x" denied the request: no such thing', Denied),
        (400, 'admission webhook "x" denied the request: no such thing', Denied),
        (403, "ValidatingAdmissionPolicy 'x' with binding 'y' denied request: no", Denied),
        (422, 'VirtualMachine.kubevirt.io "v" is invalid: spec.x: Required value', Denied),
        (403, 'User "x" cannot patch resource "virtualmachines"', Unavailable),
        (500, "failed calling webhook: connection refused", Unavailable),
        (404, "not found", Gone),
    ],
)
def test_what_admission_denies_is_told_from_what_can_be_tried_again(status, message, raised):
    with (
        http_server.serving(lambda request: request.reply(status, {"message": message})) as url,
        pytest.raises(raised, match=message[:20]),
    ):
        kube_of(url).write("vm", "PATCH", "/x", [], 5.0)


def test_a_write_has_its_callers_deadline():
    release = threading.Event()
    with http_server.serving(lambda request: release.wait(5)) as url:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            kube_of(url).write("vm", "PATCH", "/x", [], 0.1)
        assert time.monotonic() - started < 4
        release.set()


def test_an_answer_that_is_no_json_is_no_answer():
    with (
        http_server.serving(lambda request: request.reply(200, b"<html>")) as url,
        pytest.raises(Unavailable, match="GET /api"),
    ):
        kube_of(url).find(REF)


def test_nobody_listening_is_unavailable():
    with pytest.raises(Unavailable, match=r"refused|Failed"):
        kube_of("http://127.0.0.1:1").find(REF)


def test_a_server_that_never_answers_has_a_deadline(monkeypatch):
    monkeypatch.setattr(kube, "READ_S", 0.1)
    release = threading.Event()
    with http_server.serving(lambda request: release.wait(5)) as url:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            kube_of(url).find(REF)
        assert time.monotonic() - started < 2
        release.set()


def test_a_pod_that_is_not_there_is_not_found():
    with http_server.serving(lambda request: request.reply(404, {"message": "not found"})) as url:
        assert kube_of(url).find(REF) is None


def test_an_event_is_about_the_pod_and_says_who_tells_it():
    bodies = []

    def answer(request):
        bodies.append((request.place, request.body))
        request.reply(201, request.body)

    with http_server.serving(answer) as url:
        pod = build.pod("a" * 253)
        kube_of(url).tell(pod, Event("AddedInterface", "text", warning=False))
        kube_of(url).tell(pod, Event("InterfaceAddRejected", "text", warning=True))
    (place, first), (_, second) = bodies
    assert place == "/api/v1/namespaces/ns/events"
    assert (first["type"], second["type"]) == ("Normal", "Warning")
    assert (first["reason"], first["message"]) == ("AddedInterface", "text")
    assert first["involvedObject"]["uid"] == pod.api_uid
    assert first["source"] == {"component": "hotnic", "host": "node-1"}
    assert len(first["metadata"]["name"]) <= 253
    assert first["metadata"]["name"] != second["metadata"]["name"]


def test_an_event_that_the_server_refuses_is_lost_and_logged(caplog):
    with http_server.serving(lambda request: request.reply(404, {"message": "no such namespace"})) as url:
        kube_of(url).tell(build.pod(), Event("AddedInterface", "text", warning=False))
    assert "no such namespace" in caplog.text


def test_a_token_that_is_renewed_is_used_for_the_next_request():
    seen = []

    def answer(request):
        seen.append(request.headers["Authorization"])
        request.reply(404, {})

    tokens = iter(["Bearer one", "Bearer two"])
    with http_server.serving(answer) as url:
        api = kube_of(
            url,
            api_key={"BearerToken": ""},
            refresh_api_key_hook=lambda settings: settings.api_key.update(BearerToken=next(tokens)),
        )
        api.find(REF)
        api.find(REF)
    assert seen == ["Bearer one", "Bearer two"]


def test_a_kubeconfig_that_cannot_be_used_says_which(tmp_path):
    path = tmp_path / "config"
    path.write_text("apiVersion: v1\n")
    for kubeconfig in (str(path), str(tmp_path / "missing")):
        with pytest.raises(kube.ConfigurationError, match=kubeconfig):
            kube.configuration(kubeconfig)
