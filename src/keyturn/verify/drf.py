"""Access tokens in Django REST framework: authentication, permissions and answers.

    REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyturn.verify.drf.TokenAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "EXCEPTION_HANDLER": "keyturn.verify.drf.exception_handler",
    }

    class Notes(APIView):
        permission_classes = [requires("notes")]

The setting `KEYTURN` says where tokens are checked: see `keyturn.verify.django`.

Owns: the translation to REST framework. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from django.contrib.auth import get_user_model
from django.db import router
from django.http import HttpResponse
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from keyturn.core.errors import InvalidToken, Refused
from keyturn.core.model import Principal
from keyturn.verify.django import answer_refusal, identified
from keyturn.verify.django_users import can_be_id
from keyturn.verify.guard import Requirement
from keyturn.verify.threaded import environ_values
from keyturn.wire import is_for_others, problem

__all__ = [
    "PrincipalRefused",
    "TokenAuthentication",
    "TokenUser",
    "UserAuthentication",
    "exception_handler",
    "requires",
]

_CHALLENGE: Final = 'Bearer error="invalid_token"'


class PrincipalRefused(APIException):
    """A request without a valid access token, or without something its view needs."""

    def __init__(self, refused: Refused) -> None:
        """Keep status and headers where REST framework's own exception handler finds them, too."""
        super().__init__(refused.title, refused.code)
        self.refused: Final = refused
        self.status_code = refused.status
        headers = dict(problem(refused, "").headers)
        self.auth_header: Final = headers.get(b"www-authenticate", b"").decode("ascii")
        wait = headers.get(b"retry-after")
        self.wait: Final = None if wait is None else int(wait)


@dataclass(frozen=True, slots=True)
class TokenUser:
    """`request.user` of a request with a valid token, in a service without a user table of its own.

    It has no rights by Django's tables, which REST framework's `IsAdminUser` and `DjangoModelPermissions` ask for: see `requires`.
    """

    principal: Principal
    is_authenticated: ClassVar = True
    is_anonymous: ClassVar = False
    is_active: ClassVar = True
    is_staff: ClassVar = False
    is_superuser: ClassVar = False

    @property
    def pk(self) -> str:
        """The user id; throttles count by it."""
        return self.principal.user_id

    @property
    def id(self) -> str:
        """The user id."""
        return self.principal.user_id

    def get_username(self) -> str:
        """Return the user id; a token holds no name."""
        return self.principal.user_id

    __str__ = get_username

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """Say no."""
        return False

    def has_perms(self, perm_list: Iterable[str], obj: object = None) -> bool:
        """Say no."""
        return False


class TokenAuthentication(BaseAuthentication):
    """Find out who a request acts as: `request.auth` is the principal, `request.user` a TokenUser."""

    def authenticate(self, request: Request) -> tuple[Any, Principal] | None:
        """Return user and principal; None without an Authorization header of our scheme, so that another class may try.

        Raises: PrincipalRefused: the header holds no token to believe, or nobody can tell.
        """
        if is_for_others(environ_values(request.META, "HTTP_AUTHORIZATION")):
            return None
        try:
            principal = identified(request._request).demand()  # noqa: SLF001 - the request this one wraps; there is no other way
            return self.user_of(principal), principal
        except Refused as refused:
            raise PrincipalRefused(refused) from None

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401; without one REST framework answers 403."""
        return _CHALLENGE

    def user_of(self, principal: Principal) -> Any:
        """Return what becomes `request.user`."""
        return TokenUser(principal)


class UserAuthentication(TokenAuthentication):
    """Find the project's own user: for a node in this process whose users are `DjangoUserDirectory`."""

    def user_of(self, principal: Principal) -> Any:
        """Read the user. Raises: InvalidToken: not there, or not active."""
        model, user_id = get_user_model(), principal.user_id
        if can_be_id(model, user_id):
            users = model._default_manager  # noqa: SLF001 - documented
            # Where the project's routers read from a replica, it may lack whoever has just signed up.
            for asked in (users, users.using(router.db_for_write(model))):
                user = asked.filter(pk=user_id).first()
                # Not in the query: not every model has the column.
                if user is not None and user.is_active:
                    return user
        raise InvalidToken("user_gone")


def requires(*scopes: str, max_age: int | None = None, amr: Sequence[str] = ()) -> type[BasePermission]:
    """Return a permission class: a valid token with these scopes, and the sign-in that the view needs.

    Args:
        scopes: every one must be granted; none: any valid token.
        max_age, amr: as in `Requirement`.
    """
    requirement = Requirement(scopes, max_age, amr)

    class TokenPermission(BasePermission):
        def has_permission(self, request: Request, view: object) -> bool:
            # Who has come in by another authentication class has no scopes of ours.
            if not isinstance(request.auth, Principal):
                return False
            try:
                # By what was found out, which in a test is who was set by `force_authenticate`.
                identified(request._request)._replace(principal=request.auth).demand(requirement)  # noqa: SLF001 - as above
            except Refused as refused:
                raise PrincipalRefused(refused) from None
            return True

    return TokenPermission


def exception_handler(fault: Exception, context: Mapping[str, Any]) -> Response | HttpResponse | None:
    """Answer refusals with the same problem document as everywhere; everything else as REST framework does."""
    # Not above: REST framework's views import the authentication classes of the settings, and with them this file.
    from rest_framework.views import exception_handler as default_exception_handler
    from rest_framework.views import set_rollback

    request = context["request"]._request  # noqa: SLF001 - as above
    if isinstance(fault, NotAuthenticated) and getattr(fault, "auth_header", None) == _CHALLENGE:
        fault = PrincipalRefused(InvalidToken("authorization_header"))
    if isinstance(fault, PrincipalRefused):
        set_rollback()
        return answer_refusal(request, fault.refused)
    return default_exception_handler(fault, dict(context))
