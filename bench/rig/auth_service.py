"""The usual service behind nginx `auth_request`: FastAPI with the SDK.

Run by uvicorn in the rivals' own environment; CORE names the core.
"""

from __future__ import annotations

import os

from fastapi import Depends, FastAPI, Response
from supertokens_python import InputAppInfo, SupertokensConfig, init
from supertokens_python.framework.fastapi import get_middleware
from supertokens_python.recipe import emailpassword, session, userroles
from supertokens_python.recipe.session import SessionContainer
from supertokens_python.recipe.session.framework.fastapi import verify_session

_ORIGIN = "http://localhost:8000"

init(
    app_info=InputAppInfo(app_name="bench", api_domain=_ORIGIN, website_domain=_ORIGIN),
    supertokens_config=SupertokensConfig(connection_uri=os.environ["CORE"]),
    framework="fastapi",
    recipe_list=[emailpassword.init(), userroles.init(), session.init()],
    mode="asgi",
)
app = FastAPI()
app.add_middleware(get_middleware())  # type: ignore[no-untyped-call] # the SDK's

_SESSION = Depends(verify_session())


@app.get("/verify")
async def verify(session: SessionContainer = _SESSION) -> Response:
    """Return 200 with the user's id in a field that nginx copies."""
    return Response(headers={"X-User-Id": session.get_user_id()})
