"""Settings of the authorization service."""

from pydantic import Field

from libs.settings import OAuthErrorStatus, Settings, TykGatewayApi


class AuthorizationSettings(Settings):
    """The authorization service's own settings, in addition to the common ones."""

    oauth_error_status: OAuthErrorStatus = Field(
        None, description="403: every OAuth error has this status, as in Tyk; unset: as RFC 6749 says."
    )
    tyk_gateway_api: TykGatewayApi = False
