"""Settings of the authorization service."""

from pydantic import Field

from libs.settings import Settings


class AuthorizationSettings(Settings):
    """What the authorization service needs beside the common settings."""

    oauth_error_status: int | None = Field(
        None, ge=400, le=499, description="One status for every OAuth error (403: as Tyk); unset: as RFC 6749 says."
    )
