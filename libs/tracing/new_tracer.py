"""Creates the tracer of a process, if one is wanted."""

from libs.tracing.spans import Tracer
from libs.tracing.trace_settings import TraceSettings


def new_tracer(settings: TraceSettings | None, service: str) -> Tracer | None:
    """The tracer, not yet opened; None where tracing is off. Raises WrongSetting."""
    if settings is None:
        return None
    from libs.tracing.otlp import OtlpTracer  # the SDK takes time and memory, so it is imported only where it is used

    return OtlpTracer(settings, service)
