"""The management API (Tyk's Dashboard API): APIs, client apps, policies, users, operators, audit log, analytics."""
