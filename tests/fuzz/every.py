"""All targets, by name."""

from tests.fuzz import cluster, configurations, machines, node, standards, switches
from tests.fuzz.target import TABLE

MODULES = (standards, configurations, node, machines, cluster, switches)
TARGETS = TABLE.targets
