"""A soak: `python -m e2e.lane run -- python -m e2e.soak --seconds 600 --seed 7 --kills 200`.

The seed is that of the plan (e2e.soak.plan); `--plan` prints it, and does nothing. Seconds are those of churn: what it
takes to become quiet after each phase comes on top.
"""

import argparse
import sys
import time

from e2e.cluster import Cluster
from e2e.pods import Api
from e2e.product import Product
from e2e.progress import say
from e2e.soak import plan
from e2e.soak.run import Failed, Soak


def main() -> int:
    """Run it; exit status 1 where it found something."""
    parser = argparse.ArgumentParser(prog="python -m e2e.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of churn")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--kills", type=int, default=None, help="of agent and controller; default: one in 2 s")
    parser.add_argument("--plan", action="store_true", help="print the plan")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int(time.time())
    kills = arguments.kills if arguments.kills is not None else int(arguments.seconds / 2)
    phases = plan.phases(seed, arguments.seconds, kills)
    if arguments.plan:
        for phase in phases:
            for track, actions in phase.tracks.items():
                print(*(f"{phase.number:3} {track:10} {action}" for action in actions), sep="\n")
        return 0
    say(f"a soak of {arguments.seconds:.0f} s with {kills} kills; seed {seed}")
    return _run(seed, phases)


def _run(seed: int, phases: tuple[plan.Phase, ...]) -> int:
    cluster = Cluster.from_environment()
    product = Product(cluster, ("--delegate-timeout", "5"))
    product.install()
    product.start()
    soak = Soak(seed, cluster, Api(cluster), cluster.nodes[0], product, say)
    begun = time.monotonic()
    try:
        soak.run(phases)
    except Failed as problem:
        print(problem)
        return 1
    finally:
        print(soak.summary())
        print(f"{time.monotonic() - begun:.0f} s in all", flush=True)
        product.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
