"""The two ends of the agent's API as other versions speak it, made from the descriptions of their messages.

`api/NAME.json` is the description of a version (google.protobuf.FileDescriptorProto): `first` the first one that was
ever in use, and each release. With a release comes its file, and none is changed afterwards.
"""

import json
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from agent.api import agent_pb2

FOLDER = Path(__file__).parent / "api"
RECORDED = tuple(sorted(path.stem for path in FOLDER.iterdir()))
LATER = 1000  # number of what comes in a later version
SERVICE = "hotnic.agent.v1.Agent"


def recorded(name: str) -> descriptor_pb2.FileDescriptorProto:
    """Return the description of an older version."""
    document = json.loads((FOLDER / f"{name}.json").read_text())
    return json_format.ParseDict(document, descriptor_pb2.FileDescriptorProto())


def present() -> descriptor_pb2.FileDescriptorProto:
    """Return the description of this version."""
    found = descriptor_pb2.FileDescriptorProto()
    agent_pb2.DESCRIPTOR.CopyToProto(found)
    return found


def next_one() -> descriptor_pb2.FileDescriptorProto:
    """Return the description of a later version, which has one more of everything."""
    later = present()
    for message in later.message_type:
        message.field.add(
            name="later",
            number=LATER,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    for enum in later.enum_type:
        enum.value.add(name=f"{enum.name.upper()}_LATER", number=LATER)
    return later


class Version:
    """The messages of one version, and its ends of the wire."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(file)
        self.methods = self._pool.FindServiceByName(SERVICE).methods_by_name

    def message(self, name: str, /, **values: Any) -> Any:
        return self._class(f"hotnic.agent.v1.{name}")(**values)

    def call(self, channel: grpc.Channel, method: str, request: Any, timeout: float = 10) -> Any:
        """Call as this version's controller does; return the answer, of a stream the iterator."""
        found = self.methods[method]
        kind = channel.unary_stream if found.server_streaming else channel.unary_unary
        reader = self._class(found.output_type.full_name)
        wire = kind(f"/{SERVICE}/{method}", type(request).SerializeToString, reader.FromString)
        return wire(request, timeout=timeout)

    def serve(self, endpoint: str, answers: Mapping[str, Callable[[Any, Any], Any]]) -> grpc.Server:
        """Serve as this version's agent does; a call that it has not is unknown to it."""
        handlers = {name: self._handler(name, answer) for name, answer in answers.items() if name in self.methods}
        server = grpc.server(futures.ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_insecure_port(endpoint)
        server.start()
        return server

    def _handler(self, name: str, answer: Callable[[Any, Any], Any]) -> grpc.RpcMethodHandler:
        found = self.methods[name]
        reader = self._class(found.input_type.full_name)
        kind = grpc.unary_stream_rpc_method_handler if found.server_streaming else grpc.unary_unary_rpc_method_handler
        return kind(answer, reader.FromString, lambda message: message.SerializeToString())

    def _class(self, full_name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(full_name))
