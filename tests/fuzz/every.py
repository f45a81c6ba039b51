"""All targets, by name."""

from tests.fuzz import cluster, configurations, machines, node, standards
from tests.fuzz.target import TABLE

MODULES = (standards, configurations, node, machines, cluster)
TARGETS = TABLE.targets
