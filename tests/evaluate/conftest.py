"""A tiny prepared dataset."""

from tests.distributed.corpus import corpus as corpus  # a fixture
