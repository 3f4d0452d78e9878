"""edge. Endpoints of users and of the emailpassword recipe.

Source: core protocol CDI 5.4, email/password and users.
"""

from __future__ import annotations

import base64
from typing import Final

from gateway.dev.core.accounts import AccountInfo, Kind, Recipe, Taken, normalised_email
from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, failed, ok
from gateway.dev.core.email_tokens import Purpose
from gateway.dev.core.http import Refusal
from gateway.dev.core.jws import JsonObject
from gateway.dev.core.passwords import SALT_BYTES, hash_password, is_password
from gateway.dev.core.settings import PUBLIC
from gateway.dev.core.users import Search

_DEFAULT_PAGE: Final = 100
_LARGEST_PAGE: Final = 500


async def sign_up(call: Call) -> JsonObject:
    """Create a user with e-mail and password."""
    email = normalised_email(call.body.text("email"))
    password_hash = await hashed(call, call.body.text("password"))
    try:
        user_id = call.app.users.add(
            call.tenant_id,
            Recipe.EMAIL_PASSWORD,
            AccountInfo(email=email),
            password_hash=password_hash,
        )
    except Taken:
        return failed("EMAIL_ALREADY_EXISTS_ERROR")
    return signed_in(call, user_id)


async def sign_in(call: Call) -> JsonObject:
    """Sign in with e-mail and password. An unknown e-mail is the same failure."""
    email = normalised_email(call.body.text("email"))
    password = call.body.text("password")
    user_id = call.app.users.find(
        call.tenant_id, Recipe.EMAIL_PASSWORD, Kind.EMAIL, email
    )
    stored = None if user_id is None else call.app.users.password_hash(user_id)
    if user_id is None or stored is None:
        return failed("WRONG_CREDENTIALS_ERROR")
    if not await is_password(password, stored=stored):
        return failed("WRONG_CREDENTIALS_ERROR")
    return signed_in(call, user_id)


def signed_in(call: Call, user_id: str, **more: object) -> JsonObject:
    """Record the user as active; return the answer to a successful sign-in."""
    call.app.users.seen(user_id)
    return ok(user=call.app.users.view(user_id), recipeUserId=user_id, **more)


async def update(call: Call) -> JsonObject:
    """Change e-mail, password or both of an emailpassword user."""
    user_id = call.body.text("recipeUserId")
    email = call.body.text_or_none("email")
    password = call.body.text_or_none("password")
    if email is None and password is None:
        raise Refusal(400, "You need to provide either email or password.")
    password_hash = None if password is None else await hashed(call, password)
    users = call.app.users
    if users.recipe_of(user_id) is not Recipe.EMAIL_PASSWORD:
        return failed("UNKNOWN_USER_ID_ERROR")
    try:
        if email is not None:
            users.set_contact(user_id, email=normalised_email(email), phone=None)
    except Taken:
        return failed("EMAIL_ALREADY_EXISTS_ERROR")
    if password_hash is not None:
        users.set_password_hash(user_id, password_hash)
    return ok()


async def create_reset_token(call: Call) -> JsonObject:
    """Return a token for a link to the address; it proves that the user reads it."""
    user_id = call.body.text("userId")
    email = call.body.text("email")
    if not call.app.users.exists(user_id):
        return failed("UNKNOWN_USER_ID_ERROR")
    token = call.app.email_tokens.issue(Purpose.RESET, call.tenant_id, user_id, email)
    return ok(token=token)


async def consume_reset_token(call: Call) -> JsonObject:
    """Consume a reset token. `update` changes the password."""
    token = call.body.text("token")
    proof = call.app.email_tokens.reset(call.tenant_id, token)
    if proof is None:
        return failed("RESET_PASSWORD_INVALID_TOKEN_ERROR")
    return ok(userId=proof.user_id, email=proof.email)


async def get_user(call: Call) -> JsonObject:
    """Return a user."""
    user_id = call.query.text("userId")
    view = call.app.users.view(user_id)
    return failed("UNKNOWN_USER_ID_ERROR") if view is None else ok(user=view)


async def by_account_info(call: Call) -> JsonObject:
    """List the users with an address, number or third-party account."""
    union = call.query.text("doUnionOfAccountInfo")
    if union not in ("true", "false"):
        raise Refusal(
            400, "Field name 'doUnionOfAccountInfo' should be either 'true' or 'false'"
        )
    email = call.query.text_or_none("email")
    third_party_id = call.query.text_or_none("thirdPartyId")
    third_party_user_id = call.query.text_or_none("thirdPartyUserId")
    if (third_party_id is None) != (third_party_user_id is None):
        raise Refusal(
            400, "If 'thirdPartyId' is provided, 'thirdPartyUserId' is needed too"
        )
    no_match = union == "false" and call.query.text_or_none("webauthnCredentialId")
    if no_match:
        # All values must match, but no user of this core has a WebAuthn credential.
        return ok(users=[])
    info = AccountInfo(
        email=None if email is None else normalised_email(email),
        phone=call.query.text_or_none("phoneNumber"),
        third_party_id=third_party_id,
        third_party_user_id=third_party_user_id,
    )
    users = call.app.users.by_account_info(call.tenant_id, info, union=union == "true")
    return ok(users=users)


async def list_users(call: Call) -> JsonObject:
    """Return a page of a tenant's users: of all, or of those that a search finds."""
    order = call.query.text_or_none("timeJoinedOrder") or "ASC"
    if order not in ("ASC", "DESC"):
        raise Refusal(400, "timeJoinedOrder can be either ASC OR DESC")
    limit = call.query.integer_or_none("limit")
    if limit is None:
        limit = _DEFAULT_PAGE
    if not 0 < limit <= _LARGEST_PAGE:
        raise Refusal(400, f"limit must be between 1 and {_LARGEST_PAGE}")
    token = call.query.text_or_none("paginationToken")
    start = None if token is None else _page_start(token)
    recipes = _recipes(call)
    search = Search(
        emails=_tags(call, "email"),
        phones=_tags(call, "phone"),
        providers=_tags(call, "provider"),
    )
    page = call.app.users.page(
        call.tenant_id,
        recipes=recipes,
        oldest_first=order == "ASC",
        limit=limit,
        start=start,
        search=search,
    )
    answer = ok(users=page.users)
    if page.next_start is not None:
        user_id, joined_ms = page.next_start
        text = f"{user_id};{joined_ms}"
        answer["nextPaginationToken"] = base64.b64encode(text.encode()).decode()
    return answer


async def count_users(call: Call) -> JsonObject:
    """Count the users of a tenant, or of the app with `includeAllTenants`."""
    recipes = _recipes(call)
    everywhere = call.query.flag_or("includeAllTenants", False)
    if everywhere and call.tenant_id != PUBLIC:
        raise Refusal(403, "Only public tenantId can call this app specific API")
    counted = call.app.users.count(
        None if everywhere else call.tenant_id, recipes=recipes
    )
    return ok(count=counted)


async def count_active(call: Call) -> JsonObject:
    """Count the users active since a time in ms."""
    since_ms = call.query.integer_or_none("since")
    if since_ms is None:
        raise Refusal(400, "Field name 'since' is missing in GET request")
    if since_ms < 0:
        raise Refusal(400, "'since' parameter must be >= 0")
    return ok(count=call.app.users.count_active(since_ms))


async def remove_user(call: Call) -> JsonObject:
    """Delete a user and all of its data. An unknown id isn't an error."""
    call.body.flag_or("removeAllLinkedAccounts", True)
    user_id = call.body.text("userId")
    call.app.users.remove(user_id)
    return ok()


async def hashed(call: Call, password: str) -> str:
    """Return the hash of a new password, at the cost that the core is set to.

    Raises:
        Refusal: 400, it is empty.
    """
    if not password:
        raise Refusal(400, "Password cannot be an empty string")
    app = call.app
    salt = app.rng.randbytes(SALT_BYTES)
    return await hash_password(password, salt=salt, cost=app.hashing_cost)


def _recipes(call: Call) -> list[Recipe]:
    names = call.query.text_or_none("includeRecipeIds")
    if names is None:
        return []
    try:
        return [Recipe(name) for name in names.split(",")]
    except ValueError as exc:
        raise Refusal(400, f"Unknown recipe ID: {names}") from exc


def _tags(call: Call, name: str) -> tuple[str, ...]:
    """Return the values of a search, which are separated by `;`."""
    texts = (call.query.text_or_none(name) or "").split(";")
    return tuple(tag for text in texts if (tag := text.strip().lower()))


def _page_start(token: str) -> tuple[str, int]:
    try:
        user_id, joined_ms = base64.b64decode(token, validate=True).decode().split(";")
        return user_id, int(joined_ms)
    except ValueError as exc:
        raise Refusal(400, "invalid pagination token") from exc


ENDPOINTS: Final = (
    Endpoint(method="POST", path="/recipe/signup", handler=sign_up),
    Endpoint(method="POST", path="/recipe/signin", handler=sign_in),
    Endpoint(method="PUT", path="/recipe/user", handler=update, scope=Scope.APP),
    Endpoint(
        method="POST",
        path="/recipe/user/password/reset/token",
        handler=create_reset_token,
    ),
    Endpoint(
        method="POST",
        path="/recipe/user/password/reset/token/consume",
        handler=consume_reset_token,
    ),
    Endpoint(method="GET", path="/user/id", handler=get_user, scope=Scope.APP),
    Endpoint(method="POST", path="/user/remove", handler=remove_user, scope=Scope.APP),
    Endpoint(method="GET", path="/users/by-accountinfo", handler=by_account_info),
    Endpoint(method="GET", path="/users", handler=list_users),
    Endpoint(method="GET", path="/users/count", handler=count_users),
    Endpoint(
        method="GET", path="/users/count/active", handler=count_active, scope=Scope.APP
    ),
)
