"""Pure: what is in the image, as SPDX 2.3 JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """One package. `purl`: package-url.github.io; `checksum`: SHA-256 of its archive, if it is from one."""

    name: str
    version: str
    purl: str
    checksum: str = ""


def document(name: str, version: str, digest: str, parts: Iterable[Part], made_at: int) -> str:
    """Return the bill of materials of the image with that manifest digest."""
    created = datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    packages = [_package(part) for part in parts]
    root = {**_package(Part(name, version, f"pkg:oci/{name}@{digest}")), "SPDXID": "SPDXRef-image"}
    text = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}-{version}",
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{digest.removeprefix('sha256:')}",
        "creationInfo": {"created": created, "creators": ["Tool: hotnic-image"]},
        "packages": [root, *packages],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
            *(_relation("SPDXRef-image", "CONTAINS", one["SPDXID"]) for one in packages),
        ],
    }
    return json.dumps(text, indent=1) + "\n"


def _package(part: Part) -> dict[str, Any]:
    sums = [{"algorithm": "SHA256", "checksumValue": part.checksum}] if part.checksum else []
    kind = part.purl.removeprefix("pkg:").partition("/")[0]
    return {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{kind}-{part.name}"),
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "checksums": sums,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": part.purl}
        ],
    }


def _relation(one: str, kind: str, other: str) -> Mapping[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
