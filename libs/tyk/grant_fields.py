"""Which field of a definition enables a grant, as the reference and the refusal of a grant say it."""

from collections.abc import Mapping

from contracts.apis import DefinitionFormat, GrantType

FLOWS: Mapping[str, GrantType] = {
    "authorizationCode": GrantType.AUTHORIZATION_CODE,
    "clientCredentials": GrantType.CLIENT_CREDENTIALS,
    "password": GrantType.PASSWORD,
}
"""The OpenAPI flow that enables a grant. Tyk Classic names grant types directly."""


def enabling_field(grant_type: GrantType, language: DefinitionFormat) -> str:
    """The field of a definition that enables the grant; only characters of an error_description (RFC 6749 §5.2)."""
    if language is DefinitionFormat.CLASSIC:
        text, types = f"oauth_meta.allowed_access_types with {grant_type}", "oauth_meta.allowed_authorize_types"
    elif grant_type is GrantType.REFRESH_TOKEN:
        return "refreshToken: true of the API's security scheme"
    else:
        flow = next(flow for flow, enabled in FLOWS.items() if enabled is grant_type)
        text, types = f"flows.{flow} of the API's security scheme", "allowedAuthorizeTypes"
    return f"{text}, and {types} with code" if grant_type is GrantType.AUTHORIZATION_CODE else text


def not_offered(grant_type: str, language: DefinitionFormat) -> str:
    """Why this grant type is refused, with the field of the API's definition that would enable it."""
    if grant_type not in [*GrantType]:
        return f"there is no such grant_type here; there are {', '.join(GrantType)}"
    field = enabling_field(GrantType(grant_type), language)
    return f"this API does not offer {grant_type}; its definition enables it by {field}"
