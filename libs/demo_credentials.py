"""The credentials of the demo data, which everybody knows who has read the documentation."""

CLIENT_ID = "demo-client"
CLIENT_SECRET = "demo-secret-for-this-machine"  # noqa: S105 - printed by `make run`, for one's own machine
USERNAME = "alice"
PASSWORD = "correct horse battery staple"  # noqa: S105 - as above
