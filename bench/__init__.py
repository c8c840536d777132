"""Benchmarks. Results are ratios against a bare aiohttp handler measured in the same run, never absolute rates.

Each module has a `measure(testbed)` that returns its report; `__main__` lists the modules.
"""
