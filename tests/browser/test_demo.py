"""The demo page in a real browser: everything a new user does there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import WIDTHS, visiting

# Needs a program of the system, as the tests with databases do.
pytestmark = pytest.mark.services

EMAIL = "ada@example.com"
PASSWORD = "violet otters juggle quietly"
OTHER_PASSWORD = "seven green lanterns hum"


def sign_up(page: Page, email: str = EMAIL) -> None:
    """Fill in the form and sign up."""
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    expect(page.locator("#who")).to_have_text(f"Signed in as {email}")


def log_in(page: Page, password: str = PASSWORD) -> None:
    """Fill in the form and log in."""
    page.get_by_label("E-mail").fill(EMAIL)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Log in").click()


def picture(page: Page, name: str) -> None:
    """Keep a screenshot where KEYTURN_SCREENSHOTS says."""
    directory = os.environ.get("KEYTURN_SCREENSHOTS")
    if directory:
        page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("width", WIDTHS)
def test_page_at_a_width_takes_a_user_from_sign_up_to_logout(browser: Browser, demo_url: str, width: str) -> None:
    """Sign up, refresh, reload, look at the devices, log out, log in; each step shows what the server decided."""
    with visiting(browser, demo_url, width) as (context, page, _):
        expect(page.locator("#who")).to_have_text("Not signed in")
        picture(page, f"{width}-anonymous")
        sign_up(page)
        decisions = page.locator("#decisions")
        expect(decisions).to_contain_text("signed_up")
        expect(page.locator("#devices li")).to_have_count(1)
        expect(page.locator("#devices")).to_contain_text("this device")
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#outcome")).to_have_text("rotate")
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#outcome")).to_have_text("early")
        expect(page.locator("#countdown")).to_have_text(re.compile(r"^\d+ s$"))
        page.get_by_role("button", name="Who am I?").click()
        expect(page.locator("#answers")).to_contain_text("GET /auth/me")
        picture(page, f"{width}-session")
        page.reload()
        expect(page.locator("#who")).to_have_text(f"Signed in as {EMAIL}")
        page.get_by_role("button", name="Log out", exact=True).click()
        expect(page.locator("#who")).to_have_text("Not signed in")
        assert {cookie["name"] for cookie in context.cookies()} == {"__Host-kt_device", "__Host-kt_demo_viewer"}
        log_in(page)
        expect(page.locator("#who")).to_have_text(f"Signed in as {EMAIL}")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0


def test_page_confirms_a_child_when_the_settle_time_has_passed(browser: Browser, demo_url: str) -> None:
    """A refresh right away is `early`; once the settle time has passed the same cookie is confirmed."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#outcome")).to_have_text("rotate")
        expect(page.locator("#generation")).to_have_text("0")
        button = page.get_by_role("button", name="Refresh")
        for _ in range(40):
            button.click()
            expect(button).to_be_enabled()
            if page.locator("#outcome").text_content() != "early":
                break
            page.wait_for_timeout(500)
        expect(page.locator("#outcome")).to_have_text("confirm")
        expect(page.locator("#generation")).to_have_text("1")


def test_session_of_another_browser_is_listed_and_can_be_ended(browser: Browser, demo_url: str) -> None:
    """The device list names both; ending the other one signs it out with the reason, and leaves this one."""
    with visiting(browser, demo_url) as (_, here, _watch):
        sign_up(here)
        with visiting(browser, demo_url, "phone") as (_other, there, _also):
            log_in(there)
            expect(there.locator("#devices li")).to_have_count(2)
            here.get_by_role("button", name="Refresh").click()
            other = here.locator("#devices li").filter(has_not_text="this device")
            other.get_by_role("button", name="End").click()
            expect(here.locator("#devices li")).to_have_count(1)
            there.get_by_role("button", name="Refresh").click()
            expect(there.locator("#ended")).to_contain_text("(revoked)")
        here.get_by_role("button", name="Refresh").click()
        expect(here.locator("#who")).to_have_text(f"Signed in as {EMAIL}")


def test_end_all_others_and_log_out_everywhere_end_what_they_say(browser: Browser, demo_url: str) -> None:
    """The first leaves this browser alone, the second leaves none."""
    with visiting(browser, demo_url) as (_, here, _watch):
        sign_up(here)
        with visiting(browser, demo_url) as (_other, there, _also):
            log_in(there)
            expect(there.locator("#who")).to_have_text(f"Signed in as {EMAIL}")
            here.get_by_role("button", name="End all others").click()
            expect(here.locator("#answers")).to_contain_text("DELETE /auth/sessions 204")
            there.get_by_role("button", name="Refresh").click()
            expect(there.locator("#ended")).to_contain_text("(revoked)")
            log_in(there)
            expect(there.locator("#who")).to_have_text(f"Signed in as {EMAIL}")
            there.get_by_role("button", name="Log out everywhere").click()
            expect(there.locator("#who")).to_have_text("Not signed in")
        here.get_by_role("button", name="Refresh").click()
        expect(here.locator("#ended")).to_contain_text("(logout)")


def test_password_change_counts_at_the_next_login(browser: Browser, demo_url: str) -> None:
    """The session that changed it lives on; the old password is refused and the new one accepted."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        page.get_by_text("Change the password").click()
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_label("New password").fill(OTHER_PASSWORD)
        page.get_by_role("button", name="Change it, and end all other sessions").click()
        expect(page.locator("#decisions")).to_contain_text("password_changed")
        page.get_by_role("button", name="Log out", exact=True).click()
        log_in(page)
        expect(page.locator("#ended")).to_contain_text("invalid_credentials")
        log_in(page, OTHER_PASSWORD)
        expect(page.locator("#who")).to_have_text(f"Signed in as {EMAIL}")


def test_two_tabs_that_refresh_at_once_both_stay_signed_in(browser: Browser, demo_url: str) -> None:
    """Tabs share the cookie and race; nobody is signed out, and both see all decisions."""
    with visiting(browser, demo_url) as (context, first, _watch):
        sign_up(first)
        second = context.new_page()
        second.goto(demo_url)
        expect(second.locator("#who")).to_have_text(f"Signed in as {EMAIL}")
        for _ in range(5):
            for tab in (first, second):
                tab.locator("#refresh").dispatch_event("click")
        for tab in (first, second):
            expect(tab.locator("#refresh")).to_be_enabled()
            expect(tab.locator("#who")).to_have_text(f"Signed in as {EMAIL}")
            expect(tab.locator("#decisions")).not_to_contain_text("reuse")


def test_thief_with_a_copied_cookie_is_detected_and_ends_the_session(browser: Browser, demo_url: str) -> None:
    """Once owner and thief have both gone on, the session ends with its reason, and the list shows both."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        page.get_by_role("button", name="Play the thief").click()
        expect(page.locator("#decisions li.thief").first).to_be_visible()
        expect(page.locator("#ended")).to_contain_text("(reuse_detected)", timeout=60_000)
        expect(page.locator("#decisions")).to_contain_text("reuse_detected")
        picture(page, "thief")


def test_decisions_of_another_browser_are_never_shown(browser: Browser, demo_url: str) -> None:
    """What happens in one browser does not show in the list of another."""
    with visiting(browser, demo_url) as (_, here, _watch):
        sign_up(here)
        expect(here.locator("#decisions")).to_contain_text("signed_up")
        with visiting(browser, demo_url) as (_other, there, _also):
            expect(there.locator("#who")).to_have_text("Not signed in")
            expect(there.locator("#decisions li")).to_have_count(0)


def test_page_is_usable_by_keyboard_and_names_every_control(browser: Browser, demo_url: str) -> None:
    """Tab reaches the fields in order, Enter logs in, and no control is without a name."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        page.get_by_role("button", name="Log out", exact=True).click()
        expect(page.locator("#who")).to_have_text("Not signed in")
        page.get_by_label("E-mail").focus()
        page.keyboard.type(EMAIL)
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.locator("#who")).to_have_text(f"Signed in as {EMAIL}")
        nameless = page.evaluate(
            "[...document.querySelectorAll('button,input:not([hidden])')].filter("
            "e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert nameless == []
