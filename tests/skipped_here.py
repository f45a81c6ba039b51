"""A plugin of pytest: `pytest -p tests.skipped_here` keeps only the tests that this kernel cannot run.

These are what `make test-kernel` runs elsewhere: each test runs in one of the two places, none is skipped in both.
"""

import pytest

from tests import kernel_features


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skipped = {item: None for item in items if kernel_features.lacking(item)}
    config.hook.pytest_deselected(items=[item for item in items if item not in skipped])
    items[:] = skipped
