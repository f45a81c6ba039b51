"""The controller: knows the Kubernetes API and the agent's API, holds no privileges on the node.

From the outside in:

    __main__                      wiring
    kube, agents, metrics         the API server, the node agent, Prometheus
    reconcile, follow             one pass over one pod; list and watch for ever
    workers, known, dialogue      who runs passes; what the API server and the agent said last
    report, patch                 pure: what to tell the user, and how it is written
    desired, policy               pure: what a pod should have
    watch, workqueue              pure: the watch protocol, the queue
    model                         vocabulary
"""
