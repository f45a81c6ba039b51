"""`python -m e2e.auditor`: look once, and tell."""

import sys

from e2e.auditor.auditor import Auditor
from e2e.cluster import Cluster
from e2e.pods import Api


def main() -> int:
    cluster = Cluster.from_environment()
    api = Api(cluster)
    found = [(node.name, one) for node in cluster.nodes for one in Auditor(node, api).findings()]
    print("\n".join(f"{name}: {one}" for name, one in found) or "nothing to find")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
