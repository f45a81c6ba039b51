"""Where inputs are. `corpus` and `found` are in the tree, and replayed by test_corpus.py."""

from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"  # a few for each target, which together reach what all others reached
FOUND = HERE / "found"  # every one that ever broke something
WORK = HERE.parents[1] / ".fuzz"  # of the machine
FINDINGS = WORK / "findings"
