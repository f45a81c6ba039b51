"""The controller: knows the Kubernetes API and the agent's API, holds no privileges on the node.

From the outside in:

    __main__, cluster             wiring: of the node role, of the cluster role
    kube, kubevirt                the API server, and KubeVirt's objects in it
    agents, metrics               the node agent, Prometheus
    reconcile, follow             one pass over one pod; list and watch for ever
    relay, leader                 one pass over one virtual machine; who may
    inventory, macs               what there is, and whom news concerns; which addresses are whose
    workers, known, dialogue      who runs passes; what the API server and the agent said last
    report, patch                 pure: what to tell the user, and how it is written
    desired, policy               pure: what a pod should have
    relay_wishes, relay_plan      pure: what a virtual machine should have, and the change of its spec
    relay_status, relay_patch     pure: what to tell of it, and how both are written
    watch, workqueue              pure: the watch protocol, the queue
    vm_objects                    pure: KubeVirt's objects as vocabulary
    model, vms                    vocabulary
"""
