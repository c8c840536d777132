"""Distributed traces (OpenTelemetry), exported over OTLP; off unless an endpoint is set.

Everything but `otlp.py` can be imported without OpenTelemetry. While tracing is off there is no `Tracer`, and `otlp.py`
is never imported.
"""
