"""`keyturn users set-password`: an administrator's help for whoever has forgotten the password."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from keyturn.runtime import Keyturn
from tests.attacks.support import PASSWORD, Browser
from tests.cli.conftest import Command, node_of

EMAIL = "ada@example.com"
NEW = "violet otters juggle quietly"


def visit(command: Command, browser: Browser, visit: Callable[[Keyturn], Awaitable[None]]) -> None:
    """Have a browser visit a node over the command's database, which another one may have served before."""

    async def work() -> None:
        async with node_of(command) as node:
            browser.application = node.asgi
            await visit(node)

    asyncio.run(work())


def set_password(command: Command, who: str, password: str = NEW, status: int = 0) -> str:
    """Set a password that stands on standard input."""
    return command.run("users", "set-password", who, "--password-stdin", stdin=f"{password}\n", status=status)


def test_password_is_set_and_everything_of_the_old_one_has_ended(command: Command) -> None:
    """The session, its access token and the old password; the reason is that of a change. The new password signs in."""
    browser = Browser(None, email=EMAIL)

    async def sign_up(_: Keyturn) -> None:
        assert (await browser.sign_up()).status == 201

    async def come_back(node: Keyturn) -> None:
        assert (await browser.me()).code == "invalid_token"
        assert (await browser.refresh()).code == "session_ended:password_changed"
        assert (await browser.log_in()).code == "invalid_credentials"
        browser.password = NEW
        assert (await browser.log_in()).status == 200
        assert browser.user_id == user_id

    visit(command, browser, sign_up)
    user_id = browser.user_id
    assert set_password(command, EMAIL.upper()) == f"set the password of {user_id}\n"
    visit(command, browser, come_back)
    assert NEW not in set_password(command, user_id)
    assert command.json("sessions", "list", EMAIL) == []


def test_password_that_is_refused(command: Command) -> None:
    """By the rules for a new user; then nothing has changed, and nobody is signed out."""
    browser = Browser(None, email=EMAIL)

    async def sign_up(_: Keyturn) -> None:
        assert (await browser.sign_up(name="Ada of Lovelace Hall")).status == 201

    async def go_on(_: Keyturn) -> None:
        assert (await browser.me()).status == 200
        assert (await browser.log_in()).status == 200

    visit(command, browser, sign_up)
    utf_16 = NEW.encode("utf-16-le").decode()
    for password in ("", "short", "passwordpassword", "ada@example.com 1", "ada of lovelace hall", utf_16):
        assert "keyturn: invalid_request: The password" in set_password(command, EMAIL, password, status=1)
    assert "no_password" in command.run("users", "set-password", EMAIL, status=1)
    for nobody in ("nobody", "eve@example.com"):
        assert f"not_found: there is no user {nobody}" in set_password(command, nobody, status=1)
    visit(command, browser, go_on)


def test_file_that_begins_with_a_byte_order_mark(command: Command) -> None:
    """As some editors write it: it is no part of the password."""
    browser = Browser(None, email=EMAIL)
    command.run("users", "create", EMAIL, "--password-stdin", stdin=f"\ufeff{NEW}\r\n")

    async def sign_in(_: Keyturn) -> None:
        browser.password = NEW
        assert (await browser.log_in()).status == 200

    visit(command, browser, sign_in)


def test_user_who_is_disabled_stays_so(command: Command) -> None:
    """A new password opens no account that somebody has closed."""
    browser = Browser(None, email=EMAIL)
    command.run("users", "create", EMAIL, "--password-stdin", stdin=f"{PASSWORD}\n")
    command.run("users", "disable", EMAIL)
    set_password(command, EMAIL)

    async def try_it(_: Keyturn) -> None:
        browser.password = NEW
        assert (await browser.log_in()).code == "invalid_credentials"

    visit(command, browser, try_it)


@pytest.mark.parametrize("word", ["unlock", "disabled"])
def test_help_says_what_it_leaves(sqlite_command: Command, word: str) -> None:
    """Who is kept out by something else finds there what to do."""
    assert word in sqlite_command.run("users", "set-password", "--help")
