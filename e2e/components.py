"""The control plane of a lane: which components run, and with which flags.

Rule 1: the API server answers on the `kubernetes` Service's own address, so no kube-proxy is needed.
Rule 2: everything that decides what a client may do is on, as on a production cluster: TLS, RBAC, the Node
        authorizer, ServiceAccount admission, aggregation.
Rule 3: only durability is given up (etcd does not fsync): a lane never outlives its machine.
"""

import http.client
import json
import ssl
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from e2e import build, namespaces, pki
from e2e.services import Service

SERVICE_IP = "10.96.0.1"
LANE_IP = "172.30.0.1"
POD_NETWORK = "10.244.0.0/16"
SERVER = f"https://{SERVICE_IP}:443"
_HOSTS = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", SERVICE_IP, LANE_IP)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The folder with the lane's certificates and kubeconfigs."""

    folder: Path

    @property
    def authority(self) -> pki.Authority:
        """The cluster's CA."""
        return pki.Authority(self.folder, "ca")

    def config(self, name: str) -> Path:
        """Return where the kubeconfig `name` is."""
        return self.folder / f"{name}.kubeconfig"

    def user(self, name: str, user: str, group: str = "") -> Path:
        """Issue a client certificate and write the kubeconfig `name` that uses it."""
        credentials = pki.certificate_user(self.authority.issue(name, user, group))
        return pki.kubeconfig(self.config(name), SERVER, self.authority.pair.cert, credentials)

    def create(self) -> None:
        """Make the CAs and everything that the control plane itself needs."""
        ca = self.authority.create()
        ca.issue("apiserver", "kube-apiserver", hosts=_HOSTS)
        ca.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
        pki.Authority(self.folder, "front-proxy-ca").create().issue("front-proxy-client", "front-proxy-client")
        pki.signing_key(self.folder / "sa.key")
        self.user("admin", "kubernetes-admin", "system:masters")
        self.user("controller-manager", "system:kube-controller-manager")
        self.user("scheduler", "system:kube-scheduler")


def etcd() -> Service:
    """Return etcd, reachable inside the lane only."""
    return Service(
        "etcd",
        (
            build.component("etcd"),
            f"--data-dir={namespaces.STATE}/etcd",
            "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--logger=zap",
            "--log-level=warn",
        ),
    )


def apiserver(credentials: Credentials) -> Service:
    """Return the API server."""
    pki_folder = credentials.folder
    return Service(
        "kube-apiserver",
        (
            build.component("kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=443",
            f"--advertise-address={LANE_IP}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={pki_folder}/ca.crt",
            f"--tls-cert-file={pki_folder}/apiserver.crt",
            f"--tls-private-key-file={pki_folder}/apiserver.key",
            f"--kubelet-certificate-authority={pki_folder}/ca.crt",
            f"--kubelet-client-certificate={pki_folder}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={pki_folder}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={pki_folder}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={pki_folder}/front-proxy-client.crt",
            f"--proxy-client-key-file={pki_folder}/front-proxy-client.key",
            "--enable-aggregator-routing=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki_folder}/sa.key.pub",
            f"--service-account-signing-key-file={pki_folder}/sa.key",
            "--shutdown-delay-duration=0s",
        ),
    )


def controller_manager(credentials: Credentials) -> Service:
    """Return the controller manager."""
    config, pki_folder = credentials.config("controller-manager"), credentials.folder
    return Service(
        "kube-controller-manager",
        (
            build.component("kube-controller-manager"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--kube-api-qps=500",  # at the default of 20 its start alone takes 5 s
            "--kube-api-burst=1000",
            f"--root-ca-file={pki_folder}/ca.crt",
            f"--service-account-private-key-file={pki_folder}/sa.key",
            f"--cluster-signing-cert-file={pki_folder}/ca.crt",
            f"--cluster-signing-key-file={pki_folder}/ca.key",
            f"--requestheader-client-ca-file={pki_folder}/front-proxy-ca.crt",
        ),
    )


def scheduler(credentials: Credentials) -> Service:
    """Return the scheduler."""
    config = credentials.config("scheduler")
    return Service(
        "kube-scheduler",
        (
            build.component("kube-scheduler"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--leader-elect=false",
        ),
    )


@dataclass(frozen=True, slots=True)
class Api:
    """The few reads that bringing a lane up needs, as the administrator."""

    credentials: Credentials

    def get(self, path: str) -> tuple[int, bytes]:
        """GET `path`; status 0 where nobody answers."""
        folder = self.credentials.folder
        try:
            context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
            with closing(http.client.HTTPSConnection(SERVICE_IP, 443, timeout=5, context=context)) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""

    def is_ready(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.get("/readyz")[0] == 200

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        return self.get(path)[0] == 200

    def is_node_ready(self, name: str) -> bool:
        """Whether pods can be scheduled to the node: its kubelet said so and the taint is gone."""
        status, body = self.get(f"/api/v1/nodes/{name}")
        if status != 200:
            return False
        node = json.loads(body)
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))
        return ready and not node["spec"].get("taints")
