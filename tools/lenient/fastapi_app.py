"""FastAPI with its defaults, an ASGI application; Starlette does its routing."""

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()


def served(name: str) -> Callable[[], PlainTextResponse]:
    """Return a handler that replies with its name."""

    def handler() -> PlainTextResponse:
        return PlainTextResponse(name, headers={"X-Handler": name})

    return handler


app.get("/admin")(served("admin"))
app.post("/admin")(served("POST admin"))
app.delete("/admin")(served("DELETE admin"))
app.get("/admin/users")(served("users"))
app.get("/panel/")(served("panel"))
app.get("/secret")(served("secret"))
app.get("/orders/{id}/refund")(served("refund"))
app.get("/v1/things:lock")(served("lock"))
