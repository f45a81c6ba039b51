"""A bounded soak; `make soak` runs one for as long as asked. The seed stays, so that one commit has one verdict."""

import pytest

from e2e.soak import plan
from e2e.soak.run import Soak

pytestmark = pytest.mark.lane

SEED, SECONDS, KILLS = 6, 40, 16


def test_random_trouble_and_kills_leave_nothing_and_nothing_untrue(cluster, api, node, product, capsys):
    with capsys.disabled():
        soak = Soak(SEED, cluster, api, node, product, print)
        soak.run(plan.phases(SEED, SECONDS, KILLS))
    assert soak.kills == KILLS
    assert sum(soak.done.values()) > 50
    assert not [line for line in soak.log if "unforeseen" in line]
