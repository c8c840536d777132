"""Tests that start further stacks beside the one that the others share: `make test-compose T=tests/compose/alone`."""
