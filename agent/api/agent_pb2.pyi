from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    PENDING: _ClassVar[State]
    ATTACHED: _ClassVar[State]
    REFUSED: _ClassVar[State]
    DETACHING: _ClassVar[State]
STATE_UNSPECIFIED: State
PENDING: State
ATTACHED: State
REFUSED: State
DETACHING: State

class Pod(_message.Message):
    __slots__ = ("uid", "namespace", "name")
    UID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    uid: str
    namespace: str
    name: str
    def __init__(self, uid: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("pod", "revision", "attachments", "keep", "ended", "vm", "kubevirt")
    POD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    VM_FIELD_NUMBER: _ClassVar[int]
    KUBEVIRT_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    revision: str
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    keep: _containers.RepeatedScalarFieldContainer[str]
    ended: bool
    vm: str
    kubevirt: bool
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., revision: _Optional[str] = ..., attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ..., keep: _Optional[_Iterable[str]] = ..., ended: _Optional[bool] = ..., vm: _Optional[str] = ..., kubevirt: _Optional[bool] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Attachment(_message.Message):
    __slots__ = ("element", "config", "nad_uid", "nad_resource_version", "hold")
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    NAD_UID_FIELD_NUMBER: _ClassVar[int]
    NAD_RESOURCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    element: str
    config: str
    nad_uid: str
    nad_resource_version: str
    hold: Hold
    def __init__(self, element: _Optional[str] = ..., config: _Optional[str] = ..., nad_uid: _Optional[str] = ..., nad_resource_version: _Optional[str] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("state", "reason", "message")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    state: State
    reason: str
    message: str
    def __init__(self, state: _Optional[_Union[State, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class AttachmentOutcome(_message.Message):
    __slots__ = ("position", "state", "network", "interface", "result", "reason", "message", "attempts", "guest")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    GUEST_FIELD_NUMBER: _ClassVar[int]
    position: int
    state: State
    network: str
    interface: str
    result: str
    reason: str
    message: str
    attempts: int
    guest: Guest
    def __init__(self, position: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., network: _Optional[str] = ..., interface: _Optional[str] = ..., result: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., attempts: _Optional[int] = ..., guest: _Optional[_Union[Guest, _Mapping]] = ...) -> None: ...

class Guest(_message.Message):
    __slots__ = ("state", "interface", "mac", "addresses", "port", "evidence")
    STATE_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    state: str
    interface: str
    mac: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    port: str
    evidence: str
    def __init__(self, state: _Optional[str] = ..., interface: _Optional[str] = ..., mac: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., port: _Optional[str] = ..., evidence: _Optional[str] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("pod", "revision", "settled", "attachments", "released", "forgotten", "synced", "sandbox")
    POD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    revision: str
    settled: bool
    attachments: _containers.RepeatedCompositeFieldContainer[AttachmentOutcome]
    released: _containers.RepeatedScalarFieldContainer[str]
    forgotten: bool
    synced: bool
    sandbox: str
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., revision: _Optional[str] = ..., settled: _Optional[bool] = ..., attachments: _Optional[_Iterable[_Union[AttachmentOutcome, _Mapping]]] = ..., released: _Optional[_Iterable[str]] = ..., forgotten: _Optional[bool] = ..., synced: _Optional[bool] = ..., sandbox: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class SetUnderlayRequest(_message.Message):
    __slots__ = ("address", "peers")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    address: str
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, address: _Optional[str] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("node", "address")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class SetUnderlayResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("ready", "waiting_for", "version")
    READY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    version: str
    def __init__(self, ready: _Optional[bool] = ..., waiting_for: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ...) -> None: ...
