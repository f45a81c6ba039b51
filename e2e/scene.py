"""What goes on in a lane that is about to be broken: hotnic runs, a pod has networks. `python -m e2e.scene`, in a lane.

It prints one line when all of it is there, and then stays until it is ended.
"""

import signal

from e2e import networks
from e2e.cluster import Cluster
from e2e.pods import Api
from e2e.product import Product

THERE = "the scene is set"


def main() -> None:
    """Set the scene and wait for the end."""
    cluster = Cluster.from_environment()
    product = Product(cluster)
    product.install()
    product.start()
    namespace = Api(cluster).namespace("scene")
    namespace.network("blue", networks.native("br-blue"))
    namespace.network("ref", networks.reference_bridge("br-ref", "10.91.0.0/24", ipMasq=True, isGateway=True))
    pod = namespace.pod("a", "blue,ref")
    pod.wait_ready("net1", "net2")
    assert cluster.nodes[0].exec(["nft", "list", "ruleset"]).stdout
    print(THERE, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
