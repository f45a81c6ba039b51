"""The lane's certificates: made by the openssl executable, for this lane only, gone with it.

Rule 1: one CA for the cluster, one more for the aggregator's front proxy, as Kubernetes wants it.
Rule 2: subjects are Kubernetes user and group names; nothing but those decides what RBAC grants.
"""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CONFIG = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A folder with a CA in it, which issues into that folder."""

    folder: Path
    name: str

    @property
    def pair(self) -> Pair:
        """The CA's own certificate and key."""
        return _pair(self.folder, self.name)

    def create(self) -> "Authority":
        """Make the CA."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "openssl.cnf").write_text(_CONFIG)
        usage = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
        _request(self.folder, self.pair, f"/CN={self.name}", usage, ())
        return self

    def issue(self, name: str, user: str, group: str = "", hosts: Sequence[str] = ()) -> Pair:
        """Issue a certificate for `user` in `group`, which also serves as `hosts` (IP addresses and names)."""
        pair = _pair(self.folder, name)
        extensions = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=clientAuth,serverAuth"]
        if hosts:
            extensions.append("subjectAltName=" + ",".join(map(_alternative, hosts)))
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        signer = ("-CA", str(self.pair.cert), "-CAkey", str(self.pair.key))
        _request(self.folder, pair, subject, extensions, signer)
        return pair


def _pair(folder: Path, name: str) -> Pair:
    return Pair(folder / f"{name}.crt", folder / f"{name}.key")


def _alternative(host: str) -> str:
    return f"IP:{host}" if host[0].isdigit() else f"DNS:{host}"


def _request(folder: Path, pair: Pair, subject: str, extensions: Sequence[str], signer: Sequence[str]) -> None:
    options = [option for extension in extensions for option in ("-addext", extension)]
    _openssl(
        "req", "-x509", "-config", str(folder / "openssl.cnf"), "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:P-256", "-nodes", "-days", "3650", "-subj", subject, "-keyout", str(pair.key),
        "-out", str(pair.cert), *options, *signer,
    )  # fmt: skip


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"openssl {' '.join(arguments)}: {done.stderr}")


def signing_key(path: Path) -> Path:
    """Make the key that signs ServiceAccount tokens, with its public half in `path`.pub."""
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path))
    _openssl("pkey", "-in", str(path), "-pubout", "-out", f"{path}.pub")
    return path


def kubeconfig(path: Path, server: str, authority: Path, user: dict[str, str]) -> Path:
    """Write a kubeconfig with one context; `user` is as kubeconfig's own `user` is."""
    ca = base64.b64encode(authority.read_bytes()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "lane", "cluster": {"server": server, "certificate-authority-data": ca}}],
                "users": [{"name": "lane", "user": user}],
                "contexts": [{"name": "lane", "context": {"cluster": "lane", "user": "lane"}}],
                "current-context": "lane",
            },
            indent=1,
        )
    )
    return path


def certificate_user(pair: Pair) -> dict[str, str]:
    """Return the kubeconfig user that presents `pair`."""
    fields = {"client-certificate-data": pair.cert, "client-key-data": pair.key}
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in fields.items()}
