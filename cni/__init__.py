"""The written standards as code, and the executable that a container runtime calls. Standard library only.

errors, version, request, result   the CNI specification 0.3.0 - 1.1.0
multinet, selection, status        the NPWG multi-network specification 1.3
names, fields, jsontext            what both say about names, addresses and JSON
wire, forward, native/, build,
__main__                           the executable `hotnic`: how it reaches the agent, in two forms; how they are made

This package imports nothing here: the executable's start-up time is a runtime's waiting time.
"""
