"""The gateway service, whatever it is asked: no surprise, and every answer as its OpenAPI document says."""

from contracts.http import Operation, Service
from tests.fuzz.operations import each_operation, fuzz
from tests.fuzz.running import Running


@each_operation(Service.GATEWAY)
def test_every_answer_is_as_described(running: Running, operation: Operation) -> None:
    """Status, content type, headers and body; no 5xx, and no line in the log about what nobody foresaw."""
    fuzz(running, operation, 25)
