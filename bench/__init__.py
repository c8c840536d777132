"""The benchmark: ratios against a bare aiohttp handler in the same run, never absolute promises."""
