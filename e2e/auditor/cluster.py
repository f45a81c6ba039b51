"""Asks the API what it knows of a node's pods, as an administrator."""

from kubernetes import client

from e2e.auditor import seen
from e2e.pods import Api


def ask(api: Api, node_name: str) -> seen.Cluster:
    """Return what it says. Raises what the client raises while the API server is away."""
    pods = api.call("list_pod_for_all_namespaces", field_selector=f"spec.nodeName={node_name}")["items"]
    custom = client.CustomObjectsApi(api.core.api_client)
    networks = custom.list_cluster_custom_object(
        "k8s.cni.cncf.io", "v1", "network-attachment-definitions", _request_timeout=20
    )
    nodes = api.call("list_node")["items"]
    return seen.Cluster(
        pods=tuple(pods),
        networks={
            f"{one['metadata']['namespace']}/{one['metadata']['name']}": one.get("spec", {}).get("config", "")
            for one in networks["items"]
        },
        nodes=frozenset(
            address["address"]
            for one in nodes
            for address in one["status"].get("addresses", ())
            if address["type"] == "InternalIP"
        ),
    )
