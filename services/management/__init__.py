"""The Dashboard API: APIs, client apps, policies, resource owners, operators."""
