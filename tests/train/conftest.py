"""Whole runs on a tiny dataset."""

from tests.distributed.corpus import corpus as corpus  # a fixture
