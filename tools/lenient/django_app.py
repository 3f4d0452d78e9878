"""Django with the settings that `startproject` writes, a WSGI application.

Its routes are `path()`, or `re_path()` with `^…$` when LENIENT_REGEX is set.
"""

import os
from collections.abc import Callable

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no use",  # noqa: S106 - nothing is signed
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
)


def served(**names: str) -> Callable[..., HttpResponse]:
    """Return a view that replies with its name, one of *names*, by method."""

    def view(request: HttpRequest, **_parts: str) -> HttpResponse:
        method = "GET" if request.method == "HEAD" else request.method
        if method not in names:
            return HttpResponse(status=405)
        return HttpResponse(names[method], headers={"X-Handler": names[method]})

    return view


admin = served(GET="admin", POST="POST admin", DELETE="DELETE admin")
if "LENIENT_REGEX" in os.environ:
    urlpatterns = [
        re_path(r"^admin$", admin),
        re_path(r"^admin/users$", served(GET="users")),
        re_path(r"^panel/$", served(GET="panel")),
        re_path(r"^secret$", served(GET="secret")),
        re_path(r"^orders/(?P<id>[^/]+)/refund$", served(GET="refund")),
        re_path(r"^v1/things:lock$", served(GET="lock")),
    ]
else:
    urlpatterns = [
        path("admin", admin),
        path("admin/users", served(GET="users")),
        path("panel/", served(GET="panel")),
        path("secret", served(GET="secret")),
        path("orders/<str:id>/refund", served(GET="refund")),
        path("v1/things:lock", served(GET="lock")),
    ]
app = get_wsgi_application()
