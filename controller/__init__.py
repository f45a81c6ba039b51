"""The controller: knows the Kubernetes API and the agent's API, holds no privileges on the node.

From the outside in:

    __main__                        arguments, wiring, signals
    kube, agents, metrics           the API server, the node agent, Prometheus
    reconcile, workers, known       one pass over one pod; who runs passes; what is known now
    report, patch                   what to tell the user, and how it is written
    desired, policy                 what a pod should have
    watch, workqueue                the watch protocol and the queue, without sockets, threads and clocks
    model                           vocabulary
"""
