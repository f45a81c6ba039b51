"""The node agent: privileged, knows the kernel and the container runtime, never the Kubernetes API.

From the outside in (see the import contracts in pyproject.toml):

    __main__                                   wiring
    grpc_server, cni_server                    the two doors: controller and CNI executable
    engine                                     one pass over one pod: read, plan, do, read again
    attach, device, sandboxes                  use cases: one attachment, our own device kinds, whose sandbox
    chain, delegate, cache, confdir, cri,
    netlink, journal, outcomes                 one module per outside world
    plan, adopt, bridge, network               pure decisions
    netns, model                               vocabulary
"""
