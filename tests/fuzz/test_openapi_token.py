"""Fuzzes the token service by its OpenAPI document."""

from contracts.operations import Operation, Service
from tests.fuzz.operations import each_operation, fuzz
from tests.fuzz.running import Running


@each_operation(Service.TOKEN)
def test_every_response_is_as_described(running: Running, operation: Operation) -> None:
    """Status, content type, headers and body match the document; no 5xx, and no unexpected error in the log."""
    fuzz(running, operation, 50)
