"""What a node's components are configured with.

Rule 1: which container runtime there is, and how that is configured, is told by `runtimes.py`.
Rule 2: nothing needs a capability that a plain container lacks, nor version 2 of cgroups (`failCgroupV1: false`).
Rule 3: limits that would make a busy test machine look ill (evictions, image clean-up, event limits, pauses before a
        container is started again) are off.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from e2e import components


def files(folder: Path, pod_subnet: str, cri_socket: str, credentials: components.Credentials) -> Mapping[str, str]:
    """Return the text of every file of a node, by its path below the node's `folder`."""
    kubelet = _kubelet(folder, cri_socket, credentials)
    return {
        "kubelet.yaml": yaml.safe_dump(kubelet),
        "resolv.conf": "",
        "root/etc-cni/net.d/10-lane.conflist": json.dumps(_primary_network(pod_subnet), indent=1),
    }


def _primary_network(pod_subnet: str) -> object:
    ipam = {"type": "host-local", "ranges": [[{"subnet": pod_subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": "lane", "plugins": [bridge]}


def _kubelet(folder: Path, cri_socket: str, credentials: components.Credentials) -> object:
    certificates = credentials.folder / f"{folder.name}-serving"
    never = {f"{what}.available": "0%" for what in ("memory", "nodefs", "imagefs")}
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(credentials.authority.pair.cert)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": ["10.96.0.10"],  # nobody answers there; without it every pod gets a warning event
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{cri_socket}",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},  # tests kill the same container again and again
        "enforceNodeAllocatable": [],
        "eventBurst": 1000,
        "eventRecordQPS": 500,
        "evictionHard": never,
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "kubeAPIBurst": 500,
        "kubeAPIQPS": 250,
        "makeIPTablesUtilChains": False,
        "maxPods": 200,
        "oomScoreAdj": 0,
        "registerNode": True,
        "resolvConf": str(folder / "resolv.conf"),
        "rotateCertificates": False,
        "serializeImagePulls": False,
        "tlsCertFile": f"{certificates}.crt",
        "tlsPrivateKeyFile": f"{certificates}.key",
    }
