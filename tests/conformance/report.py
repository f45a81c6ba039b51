"""The scorecard as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.conformance.case import Level
from tests.conformance.suite import Judgement, Verdict, by_item, overall, sums

_MARKS = {Judgement.PASS: "pass", Judgement.FAIL: "FAIL", Judgement.NOT_APPLICABLE: "n/a ", Judgement.ERROR: "ERR "}
_LEVELS = {
    Level.MUST: "CNI 1.1.0 'must'",
    Level.SHOULD: "CNI 1.1.0 'should'",
    Level.FIELD: "field experience (no word of the specification demands it)",
}


def line(found: Sequence[Verdict]) -> str:
    """Return one item's line: over all its versions, which are named where they differ."""
    item, judgement = found[0].item, overall(found)
    worst = [one for one in found if one.judgement is judgement]
    where = f" [{', '.join(one.version for one in worst)}]" if 0 < len(worst) < len(found) else ""
    why = f" ({worst[0].evidence.splitlines()[0][:120]})" if judgement is Judgement.NOT_APPLICABLE else ""
    return f"{_MARKS[judgement]}  {item.number:>4} {item.level.value:<6} {item.title}{where}{why}"


def scorecard(plugin: str, verdicts: Sequence[Verdict], notes: Sequence[str]) -> str:
    """Return the evidence for all that failed, and the sums."""
    return "\n".join([*_failures(verdicts), "", f"Scorecard: {plugin}", *_sums(verdicts), *(f"  {n}" for n in notes)])


def _sums(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for one in sums(verdicts):
        yield f"  {one.passed:>3} of {one.applicable:>3}  {_LEVELS[one.level]}"


def _failures(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for found in by_item(verdicts).values():
        bad = [one for one in found if one.judgement in (Judgement.FAIL, Judgement.ERROR)]
        if bad:
            yield f"\n{line(found)}\n     says: {bad[0].item.section}; seen in version {bad[0].version}:"
            yield from (f"     {text}" for text in bad[0].evidence.splitlines())
