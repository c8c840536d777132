"""The benchmark: ratios against a bare aiohttp handler in the same run, never absolute promises.

Each measurement is a module with a `measure(ground)` that returns its report; `__main__` has the list of them.
"""
