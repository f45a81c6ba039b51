"""The node agent: knows the kernel and the container runtime, never the Kubernetes API.

From the outside in (see the import contracts in pyproject.toml):

    __main__, standalone                       wiring: of the daemon, of one call without it
    grpc_server, cni_server, cni_connection    the two doors: controller and CNI executable
    doctor                                     what is wrong with a node: a command of its own
    audit                                      what is left of anybody's dead containers: the same
    engine, calls                              one pass over one pod; one call of a runtime
    collect                                    garbage collection by the plugins of a network
    sweep, claims                              what nobody tells us; what a runtime attached for us
    attach, chain, device, sandboxes           one attachment, a network's plugins, our own devices, whose sandbox
    progress, outcomes, retries, workers,
    locks, gates                               how a pass goes, who is told, when again, side by side
    journal, formats, netlink, rtnl, netns, delegate,
    descendants, cri, cache, confdir           one module per outside world
    plan, adopt, bridge, network, codec        pure decisions
    model, api                                 vocabulary
"""
