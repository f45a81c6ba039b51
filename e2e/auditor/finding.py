"""One difference between two of: the kernel, the stores of addresses, the journal, the API."""

from dataclasses import dataclass

LEAK = "leak"
LIE = "lie"
LACK = "lack"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """`kind`: LEAK (is there, for nobody), LIE (is told, and is not so), LACK (is wanted and possible, and not there).

    `what`: of which kind the thing is, one word; `where`: which one it is; `why`: in which way it differs.
    """

    kind: str
    what: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what} {self.where}: {self.why}"
