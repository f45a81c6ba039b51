"""All faults at all effects: `python -m tests.faults [STORY ...] [--most N]`. As root. Exit status 1 where one fails.

Without --most every call of every effect function is tried with every kind. It takes minutes for each story.
"""

import argparse
import sys
import time

from tests.faults.trials import examine
from tests.faults.worlds import STORIES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("story", nargs="*", choices=[*STORIES, []], metavar="STORY", help="default: all")
    parser.add_argument("--most", type=int, help="so many faults of each story; default: all")
    arguments = parser.parse_args()
    failures = []
    for name in arguments.story or STORIES:
        began = time.monotonic()
        report = examine(name, STORIES[name], arguments.most)
        print(f"== {name}, {time.monotonic() - began:.0f} s", *report.lines(), sep="\n", flush=True)
        print(*report.failures, sep="\n\n", flush=True)
        failures += report.failures
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
