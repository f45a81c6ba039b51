"""Stories of the relay: what a user does to a VM, what KubeVirt and others do, what is written.

A cluster without a server, and as much of KubeVirt as copies interfaces between VM and instance; what is real runs in
e2e/relay and e2e/kubevirt.
"""

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from controller import macs, relay, vm_objects, workers
from controller.inventory import Inventory
from controller.model import Network
from controller.policy import Policy
from controller.reconcile import Conflict, Gone
from controller.relay import Denied, Relay
from controller.workers import Unavailable
from tests.controller import machines
from tests.controller.fake_cluster import patched
from tests.controller.machines import MAC, MANAGED, STATUS, WISH, link, lists, plugged

READY, REASON = "hotnic.dev/networks-ready", "hotnic.dev/networks-ready-reason"


class Cluster:
    """VMs and their instances as documents. `serves` is whom the watches tell."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._version = 100
        self.vms: dict[str, dict] = {}
        self.instances: dict[str, dict] = {}
        self.serves: list[Relay] = []
        self.patches: list[list] = []
        self.reads = 0
        self.events: list[tuple[str, str]] = []
        self.before_patch: Callable[[], None] = lambda: None
        self.admission: Callable[[dict], str] = lambda _: ""
        self.loses_answers = 0
        self.deadlines: list[float] = []

    # -- as the relay uses it

    def find_machine(self, namespace, name):
        with self._lock:
            self.reads += 1
            found = self.vms.get(name)
            return None if found is None else vm_objects.machine_from(found)

    def patch_machine(self, machine, operations, seconds):
        self.deadlines.append(seconds)
        self.before_patch()
        with self._lock:
            if machine.name not in self.vms:
                raise Gone(machine.name)
            self.patches.append(list(operations))
            old = self.vms[machine.name]
            new = patched(old, [one for one in operations if one["op"] != "remove"])
            for one in operations:
                if one["op"] == "remove":
                    new["metadata"]["annotations"].pop(one["path"].rpartition("/")[2].replace("~1", "/"))
            if cause := self.admission(new):
                raise Denied(f"422 admission webhook denied the request: {cause}")
            newer = self.put(new)
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unavailable("API server: connection reset")
        return newer

    def tell_of(self, about, event, seconds):
        self.events.append((event.reason, event.message))

    # -- as others do

    def put(self, document):
        with self._lock:
            name = document["metadata"]["name"]
            old = self.vms.get(name)
            self._version += 1
            document["metadata"]["resourceVersion"] = str(self._version)
            if old is not None and old["spec"] != document["spec"]:
                document["metadata"]["generation"] = old["metadata"]["generation"] + 1
            self.vms[name] = document
            machine = vm_objects.machine_from(copy.deepcopy(document))
        for one in self.serves:
            one.inventory.machines.change(machine)
        return machine

    def edit(self, name, change):
        with self._lock:
            document = copy.deepcopy(self.vms[name])
            change(document)
            return self.put(document)

    def annotate(self, wish, name="v"):
        def change(document):
            annotations = document["metadata"].setdefault("annotations", {})
            annotations.pop(WISH, None)
            annotations.update({} if wish is None else {WISH: wish})

        self.edit(name, change)

    def delete(self, name="v"):
        machine = vm_objects.machine_from(self.vms.pop(name))
        for one in self.serves:
            one.inventory.machines.delete(machine)

    def run(self, spec=None, *links, name="v", **parts):
        """Have the VM's instance run, by default as the VM's spec says."""
        spec = spec or copy.deepcopy(self.vms[name]["spec"]["template"]["spec"])
        self._version += 1
        self.instances[name] = machines.instance_document(spec, *links, name=name, version=self._version, **parts)
        for one in self.serves:
            one.inventory.instances.change(vm_objects.instance_from(self.instances[name]))

    def play(self, name="v", sources="domain, multus-status"):
        """Do what KubeVirt does: plug what is new, forget what is absent."""
        spec = copy.deepcopy(self.vms[name]["spec"]["template"]["spec"])
        interfaces = [one for one in spec["domain"]["devices"]["interfaces"] if one.get("state") != "absent"]
        names = {one["name"] for one in interfaces}
        spec["domain"]["devices"]["interfaces"] = interfaces
        spec["networks"] = [one for one in spec["networks"] if one["name"] in names]
        links = (link(one["name"], sources, one["macAddress"]) for one in interfaces if "macAddress" in one)
        self.run(spec, *links, name=name)

        def clear(document):
            document["spec"]["template"]["spec"] = copy.deepcopy(spec)

        if self.vms[name]["spec"]["template"]["spec"] != spec:
            self.edit(name, clear)

    # -- as users see it

    def annotations(self, name="v"):
        return self.vms[name]["metadata"].get("annotations", {})

    def ready(self, name="v"):
        annotations = self.annotations(name)
        return annotations.get(READY), annotations.get(REASON, "").partition(":")[0]

    def interfaces(self, name="v"):
        return {
            one["name"]: one for one in self.vms[name]["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]
        }

    def stages(self, name="v"):
        return {
            one["hotnic.dev/name"]: one["hotnic.dev/state"]
            for one in json.loads(self.annotations(name).get(STATUS, "[]"))
        }


class Lease:
    seconds = 10.0

    def remaining(self):
        return self.seconds


class Story:
    def __init__(self) -> None:
        self.cluster = Cluster()
        self.lease = Lease()
        self._running: list[Relay] = []

    def start(self, *networks: str) -> Relay:
        """Start a relay that knows nothing yet."""
        one = Relay(self.cluster, self.lease, Policy(), macs.parse(macs.DEFAULT_RANGE))
        one.inventory.networks.list([network(name) for name in networks or ("blue", "red")])
        one.inventory.migrations.list([])
        one.inventory.installations.list([])
        one.inventory.instances.list(
            [vm_objects.instance_from(document) for document in self.cluster.instances.values()]
        )
        one.inventory.machines.list(
            [vm_objects.machine_from(copy.deepcopy(document)) for document in self.cluster.vms.values()]
        )
        assert one.inventory.waiting_for() == ()
        self.cluster.serves.append(one)
        one.start()
        self._running.append(one)
        return one

    def stop(self) -> None:
        self.cluster.serves.clear()
        for one in self._running:
            assert one.dead() == ()
            one.close(2)
        self._running.clear()

    def rest(self) -> None:
        for _ in range(3):
            until(lambda: all(one.depth() == 0 for one in self._running))
            time.sleep(0.03)


def network(name):
    return Network("ns", name, f"uid-{name}", "1", "{}")


def migration(phase, name="m"):
    body = {"metadata": {"namespace": "ns", "name": name, "resourceVersion": str(time.monotonic_ns())},
            "spec": {"vmiName": "v"}, "status": {"phase": phase}}  # fmt: skip
    return vm_objects.migration_from(body)


def until(is_so: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.002)


@pytest.fixture
def story(monkeypatch) -> Iterator[Story]:
    monkeypatch.setattr(workers, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(workers, "LAST_RETRY_S", 0.05)
    one = Story()
    one.cluster.put(machines.document())
    one.cluster.run()
    yield one
    one.stop()


# -- plug and unplug ------------------------------------------------------------------------------------------------


def test_an_edit_becomes_an_interface_with_one_patch_and_no_read(story):
    story.start()
    story.cluster.annotate("blue@net1,red")
    until(lambda: story.cluster.ready() == ("False", "WaitingForKubeVirt"))
    story.rest()
    assert list(story.cluster.interfaces()) == ["default", "net1", "red-1"]
    assert story.cluster.annotations()[MANAGED] == "net1,red-1"
    assert (len(story.cluster.patches), story.cluster.reads, story.cluster.events) == (1, 0, [])
    story.cluster.play()
    until(lambda: story.cluster.ready() == ("True", "AllAttached"))
    story.rest()
    assert len(story.cluster.patches) == 2
    assert [reason for reason, _ in story.cluster.events] == ["AddedInterface"]


def test_plug_and_unplug_a_hundred_times_under_one_name(story):
    story.start()
    addresses = set()
    for _ in range(100):
        story.cluster.annotate("blue@net1")
        until(lambda: "net1" in story.cluster.interfaces() and "state" not in story.cluster.interfaces()["net1"])
        story.cluster.play()
        until(lambda: story.cluster.ready() == ("True", "AllAttached"))
        addresses.add(story.cluster.interfaces()["net1"]["macAddress"])
        story.cluster.annotate(None)
        until(lambda: story.cluster.interfaces()["net1"].get("state") == "absent")
        story.cluster.play()
        until(lambda: story.cluster.ready() == ("True", "NoNetworks"))
    assert len(addresses) == 1
    assert list(story.cluster.interfaces()) == ["default"]
    assert {MANAGED, STATUS} & story.cluster.annotations().keys() == set()


def test_a_replugged_name_waits_for_kubevirt(story):
    story.start()
    story.cluster.annotate("blue@net1")
    until(lambda: "net1" in story.cluster.interfaces())
    story.cluster.play()
    story.cluster.annotate("red@net1")
    until(lambda: story.cluster.stages() == {"net1": "Detaching"} and story.cluster.interfaces()["net1"].get("state"))
    story.rest()
    assert story.cluster.interfaces()["net1"]["state"] == "absent"
    before = story.cluster.interfaces()["net1"]["macAddress"]
    story.cluster.play()
    until(lambda: story.cluster.interfaces().get("net1", {}).get("macAddress") == before)
    until(
        lambda: story.cluster.vms["v"]["spec"]["template"]["spec"]["networks"][-1]["multus"]["networkName"] == "ns/red"
    )


def test_a_network_that_comes_late_is_waited_for(story):
    one = story.start("blue")
    story.cluster.annotate("red@net1")
    until(lambda: story.cluster.ready() == ("False", "NetworkNotFound"))
    story.rest()
    assert list(story.cluster.interfaces()) == ["default"]
    one.inventory.networks.change(network("red"))
    until(lambda: "net1" in story.cluster.interfaces())


def test_a_network_that_is_no_longer_asked_for_is_no_news_to_the_vm():
    touched: list[str] = []
    inventory = Inventory(Policy(), macs.parse("02:00:00:00:00:00/24"), touched.append)
    vm = machines.machine("red@net1")
    assert not inventory.world(vm).has_network("ns/red")
    inventory.networks.change(network("red"))
    assert touched == [vm.key]
    assert not inventory.world(vm).has_network("ns/blue")
    inventory.networks.delete(network("red"))
    assert touched == [vm.key]
    inventory.networks.change(network("blue"))
    assert touched == [vm.key] * 2
    inventory.forget(vm.key)
    inventory.networks.delete(network("blue"))
    assert touched == [vm.key] * 2


def test_a_migration_is_waited_for(story):
    one = story.start()
    one.inventory.migrations.change(migration("Running"))
    story.cluster.annotate("blue@net1")
    until(lambda: story.cluster.ready() == ("False", "MigrationInProgress"))
    story.rest()
    assert list(story.cluster.interfaces()) == ["default"]
    one.inventory.migrations.change(migration("Succeeded"))
    until(lambda: "net1" in story.cluster.interfaces())


def test_the_instances_own_word_for_a_migration_counts_too(story):
    story.start()
    story.cluster.run(migration={"startTimestamp": "2026-01-01T00:00:00Z"})
    story.cluster.annotate("blue@net1")
    until(lambda: story.cluster.ready() == ("False", "MigrationInProgress"))
    story.cluster.run(migration={"startTimestamp": "2026-01-01T00:00:00Z", "endTimestamp": "2026-01-01T00:01:00Z"})
    until(lambda: "net1" in story.cluster.interfaces())


def test_vms_that_ask_for_nothing_are_left_alone(story):
    story.start()
    for number in range(5):
        story.cluster.edit("v", lambda document, number=number: document["metadata"].update(labels={"n": str(number)}))
        story.cluster.run()
    story.rest()
    assert (story.cluster.patches, story.cluster.reads, story.cluster.events) == ([], 0, [])


def test_an_instance_that_is_not_the_vms_says_nothing_about_it(story):
    story.cluster.run(None, owner="another")
    story.start()
    story.cluster.annotate("blue@net1")
    until(lambda: story.cluster.ready() == ("False", "VMNotRunning"))


# -- others who write ------------------------------------------------------------------------------------------------


def test_a_foreign_edit_in_between_loses_nothing(story):
    story.start()
    edits = iter([("foreign1", "a"), ("foreign2", "b")])

    def meddle():
        if name := next(edits, (None,))[0]:
            story.cluster.edit("v", lambda document: append(document, name))

    story.cluster.before_patch = meddle
    story.cluster.annotate("blue@net1")
    until(lambda: "net1" in story.cluster.interfaces())
    story.rest()
    assert set(story.cluster.interfaces()) == {"default", "foreign1", "foreign2", "net1"}
    assert story.cluster.annotations()[MANAGED] == "net1"


def append(document, name):
    interface, source = plugged(name, mac=f"02:00:00:00:01:{name[-1]}0")
    spec = document["spec"]["template"]["spec"]
    spec["domain"]["devices"]["interfaces"].append(interface)
    spec["networks"].append(source)


def test_a_wish_that_is_taken_back_just_before_the_patch_is_not_made(story):
    story.start()
    story.cluster.before_patch = lambda: (
        setattr(story.cluster, "before_patch", lambda: None),
        story.cluster.annotate("red@net2"),
    )
    story.cluster.annotate("blue@net1")
    until(lambda: "net2" in story.cluster.interfaces())
    story.rest()
    assert "net1" not in story.cluster.interfaces()


def test_a_webhook_that_takes_a_change_back_is_asked_once_and_told_of(story):
    story.start()
    put = story.cluster.put

    def mutate(document):
        for one in document["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]:
            one.pop("state", None)
        return put(document)

    story.cluster.put = mutate
    story.cluster.annotate("blue@net1")
    until(lambda: "net1" in story.cluster.interfaces())
    story.rest()
    story.cluster.annotate(None)
    until(lambda: story.cluster.ready() == ("False", "Denied"))
    story.rest()
    unplugs = [one for one in story.cluster.patches if any('"state": "absent"' in json.dumps(op) for op in one)]
    assert len(unplugs) == 1
    assert "takes it back" in story.cluster.annotations()[REASON]


# -- denials --------------------------------------------------------------------------------------------------------


def no_net2(document):
    interfaces = document["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]
    return "no net2 here" if any(one["name"] == "net2" for one in interfaces) else ""


def test_one_elements_denial_is_its_own_is_told_and_not_asked_for_again(story):
    story.start()
    story.cluster.admission = no_net2
    story.cluster.annotate("blue@net1,blue@net2,blue@net3")
    until(lambda: {"net1", "net3"} <= story.cluster.interfaces().keys())
    until(lambda: story.cluster.ready() == ("False", "Denied"))
    story.rest()
    assert "no net2 here" in story.cluster.annotations()[REASON]
    assert [reason for reason, text in story.cluster.events if "no net2 here" in text] == ["InterfaceAddRejected"]
    asked = len(story.cluster.patches)
    story.cluster.run()
    story.cluster.run(lists(), link("default"))
    story.rest()
    denied = [
        one
        for one in story.cluster.patches[asked:]
        if "net2" in json.dumps([op for op in one if op["path"].endswith("interfaces")])
    ]
    assert denied == []
    story.cluster.admission = lambda _: ""
    story.cluster.edit("v", lambda document: document["spec"].update(runStrategy="Manual"))
    until(lambda: "net2" in story.cluster.interfaces())


def test_a_denial_for_a_snapshot_ends_with_the_snapshot(story):
    story.start()
    busy = {"snapshotInProgress": "s"}
    story.cluster.edit("v", lambda document: document["status"].update(busy))
    story.cluster.admission = lambda new: (
        "snapshot s" if new["status"].get("snapshotInProgress") and no_net2(new) else ""
    )
    story.cluster.annotate("blue@net2")
    until(lambda: story.cluster.ready() == ("False", "Denied"))
    story.rest()
    story.cluster.edit("v", lambda document: document["status"].pop("snapshotInProgress"))
    until(lambda: "net2" in story.cluster.interfaces())


def test_admission_is_asked_again_after_a_while(story, monkeypatch):
    monkeypatch.setattr(relay, "DENIED_S", 0.2)
    story.start()
    story.cluster.admission = no_net2
    story.cluster.annotate("blue@net2")
    until(lambda: story.cluster.ready() == ("False", "Denied"))
    story.cluster.admission = lambda _: ""
    until(lambda: "net2" in story.cluster.interfaces())


def test_a_vm_that_cannot_be_written_at_all_gets_an_event_and_then_peace(story):
    story.start()
    story.cluster.admission = lambda _: "this VM is invalid since the upgrade " + "x" * 5000
    story.cluster.annotate("blue@net1")
    until(lambda: story.cluster.events)
    story.rest()
    assert "since the upgrade" in story.cluster.events[0][1]
    assert len(story.cluster.events[0][1]) <= 1024
    asked = len(story.cluster.patches)
    story.cluster.run()
    story.rest()
    assert len(story.cluster.patches) == asked
    story.cluster.admission = lambda _: ""
    story.cluster.annotate("red@net1")
    until(lambda: "net1" in story.cluster.interfaces())
    assert len(story.cluster.events) == 1


# -- who leads ------------------------------------------------------------------------------------------------------


def test_without_the_lease_nothing_is_written_and_with_it_everything_is_made_up_for(story):
    story.lease.seconds = 0.0
    one = story.start()
    story.cluster.annotate("blue@net1")
    story.rest()
    assert story.cluster.patches == []
    story.lease.seconds = 3.0
    one.lead()
    until(lambda: "net1" in story.cluster.interfaces())
    assert set(story.cluster.deadlines) == {3.0}


def test_a_lease_that_ends_in_the_middle_ends_the_writing(story):
    story.start()
    story.cluster.before_patch = lambda: setattr(story.lease, "seconds", 0.0)
    story.cluster.annotate("blue@net1,green@net2")  # the second is an event
    until(lambda: "net1" in story.cluster.interfaces())
    story.rest()
    assert (len(story.cluster.patches), story.cluster.events) == (1, [])


def test_a_patch_of_the_past_does_nothing_when_somebody_else_has_led_since(story):
    """The old leader was stopped between its look at the lease and its write."""
    story.start()
    held, release = threading.Event(), threading.Event()

    def hold():
        story.cluster.before_patch = lambda: None
        held.set()
        assert release.wait(10)

    story.cluster.before_patch = hold
    story.cluster.annotate("blue@net1")
    assert held.wait(10)
    story.start()  # the new leader
    until(lambda: "net1" in story.cluster.interfaces())
    story.cluster.annotate(None)
    until(lambda: story.cluster.interfaces()["net1"].get("state") == "absent")
    story.lease.seconds = 0.0
    release.set()
    story.rest()
    assert story.cluster.interfaces()["net1"]["state"] == "absent"
    assert list(story.cluster.interfaces()) == ["default", "net1"]


def test_whoever_takes_over_goes_on_without_doing_or_telling_anything_twice(story):
    story.start()
    story.cluster.loses_answers = 1  # the patch is made, and the leader dies before it knows
    story.cluster.annotate("blue@net1,green@net2")
    until(lambda: "net1" in story.cluster.interfaces())
    story.stop()
    patches, events = len(story.cluster.patches), len(story.cluster.events)
    story.start()
    story.rest()
    assert (len(story.cluster.patches), len(story.cluster.events)) == (patches, events)
    story.cluster.annotate("blue@net1,blue")
    until(lambda: set(story.cluster.interfaces()) == {"default", "net1", "blue-1"})


def test_a_patch_whose_answer_is_lost_is_not_made_twice(story):
    story.start()
    story.cluster.loses_answers = 2
    story.cluster.annotate("blue@net1")
    until(lambda: story.cluster.ready() == ("False", "WaitingForKubeVirt"))
    story.rest()
    assert list(story.cluster.interfaces()) == ["default", "net1"]


# -- MACs -----------------------------------------------------------------------------------------------------------


def test_an_address_is_given_to_one_of_two_who_ask_at_once_and_then_to_the_other(story):
    for name in ("w", "x"):
        story.cluster.put(machines.document(name=name))
    story.start()
    wish = json.dumps([{"name": "blue", "interface": "net1", "mac": MAC}])
    threads = [threading.Thread(target=story.cluster.annotate, args=(wish, name)) for name in ("w", "x")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: {story.cluster.ready(name)[1] for name in ("w", "x")} == {"MacInUse", "VMNotRunning"})
    story.rest()
    first = "w" if "net1" in story.cluster.interfaces("w") else "x"
    other = "x" if first == "w" else "w"
    assert "net1" not in story.cluster.interfaces(other)
    story.cluster.delete(first)
    until(lambda: "net1" in story.cluster.interfaces(other))


def test_an_address_that_is_given_up_just_while_somebody_asks_for_it_is_not_missed(story, monkeypatch):
    story.cluster.put(machines.document(None, lists(plugged("x", mac=MAC)), name="w"))
    one = story.start()
    story.cluster.annotate(json.dumps([{"name": "blue", "interface": "net1", "mac": MAC}]))
    until(lambda: story.cluster.ready() == ("False", "MacInUse"))
    story.rest()
    planned = one.inventory.planned

    def give_up_first(machine, draft):
        if draft.missed and "w" in story.cluster.vms:
            one.inventory._waiting.clear()  # as before the first look
            story.cluster.delete("w")
        planned(machine, draft)

    monkeypatch.setattr(one.inventory, "planned", give_up_first)
    one.lead()
    until(lambda: "net1" in story.cluster.interfaces())


def test_addresses_of_others_are_passed_over(story):
    story.start()
    story.cluster.annotate("blue@net1")
    until(lambda: "net1" in story.cluster.interfaces())
    address = story.cluster.interfaces()["net1"]["macAddress"]
    story.stop()
    story.cluster.put(machines.document())  # back to the beginning, but somebody else has the address now
    story.cluster.put(machines.document(None, lists(plugged("x", mac=address.upper())), name="w"))
    story.start()
    story.cluster.annotate("blue@net1")
    until(lambda: "net1" in story.cluster.interfaces())
    assert story.cluster.interfaces()["net1"]["macAddress"] != address


# -- instances that stand alone -------------------------------------------------------------------------------------


def test_an_annotation_on_an_instance_without_a_vm_is_told_to_do_nothing_once(story):
    one = story.start()
    alone = machines.instance_document(name="alone", owner="", annotations={WISH: "blue"})
    for version in range(3):
        alone["metadata"]["resourceVersion"] = str(1000 + version)
        alone["status"]["phase"] = f"phase {version}"
        one.inventory.instances.change(vm_objects.instance_from(copy.deepcopy(alone)))
        story.rest()
    assert [reason for reason, _ in story.cluster.events] == ["Unsupported"]
    assert "VirtualMachine" in story.cluster.events[0][1]
    one.lead()
    story.rest()
    assert len(story.cluster.events) == 1
    assert story.cluster.patches == []


def test_an_instance_that_comes_back_is_told_again_and_nothing_is_kept_of_one_that_is_gone(story):
    one = story.start()
    alone = machines.instance_document(name="alone", owner="", annotations={WISH: "blue"})
    for _ in range(2):
        one.inventory.instances.change(vm_objects.instance_from(copy.deepcopy(alone)))
        story.rest()
        one.inventory.instances.delete(vm_objects.instance_from(copy.deepcopy(alone)))
        story.rest()
    assert [reason for reason, _ in story.cluster.events] == ["Unsupported"] * 2


def test_a_vm_that_is_deleted_is_left_to_kubevirt(story):
    story.start()
    story.cluster.edit("v", lambda document: document["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    story.cluster.annotate("blue@net1")
    story.rest()
    assert story.cluster.patches == []
    story.cluster.delete()
    story.rest()


def test_a_conflict_that_does_not_end_is_tried_again_later(story):
    story.start()
    tries = []

    def refuse():
        tries.append(1)
        if len(tries) <= relay.TRIES + 2:
            raise Conflict("somebody else")

    story.cluster.before_patch = refuse
    story.cluster.annotate("blue@net1")
    until(lambda: "net1" in story.cluster.interfaces())
    assert story.cluster.reads >= relay.TRIES
