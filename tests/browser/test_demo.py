"""The demo application in a real browser: everything a new user does there."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import APIResponse, Browser, Locator, Page, Route, expect

from tests.browser.conftest import PATIENCE, WIDTHS, Look, visiting
from tests.services import wait_until

# Needs a program of the system, as the tests with databases do.
pytestmark = pytest.mark.services

EMAIL = "ada@example.com"
PASSWORD = "violet otters juggle quietly"
OTHER_PASSWORD = "seven green lanterns hum"
REUSE = "Somebody else used a copy of your cookie"


def status(page: Page) -> Locator:
    """The line in the header that says who is signed in."""
    return page.locator("header").get_by_role("status")


def heading(page: Page) -> Locator:
    """What the page is about now."""
    return page.get_by_role("heading", level=1)


def decisions(page: Page) -> Locator:
    """What the server decided, newest first."""
    return page.get_by_role("log").get_by_role("listitem")


def device_list(page: Page) -> Locator:
    """The user's sessions."""
    return page.get_by_role("region", name="Where you are signed in").get_by_role("listitem")


def fill_in(page: Page, password: str = PASSWORD) -> None:
    """Fill in the form that is there."""
    page.get_by_label("E-mail").fill(EMAIL)
    page.get_by_label("Password", exact=True).fill(password)


def sign_up(page: Page) -> None:
    """Sign up, as the first visitor."""
    fill_in(page)
    page.get_by_role("button", name="Sign up").click()
    expect(status(page)).to_have_text(f"Signed in as {EMAIL}")


def log_in(page: Page, password: str = PASSWORD) -> None:
    """Log in, from whichever form is there."""
    known = page.get_by_role("button", name="I have an account")
    expect(page.get_by_label("E-mail")).to_be_visible()
    if known.is_visible():
        known.click()
    fill_in(page, password)
    page.get_by_role("button", name="Log in").click()


def refresh_until(page: Page, wanted: str) -> None:
    """Refresh until the server decides so: that is a matter of when it is asked."""
    refresh, outcome = page.get_by_role("button", name="Refresh now"), page.get_by_test_id("outcome")
    deadline = time.monotonic() + PATIENCE
    while outcome.text_content() != wanted:
        assert time.monotonic() < deadline
        refresh.click()
        expect(refresh).to_have_attribute("aria-busy", "false")


def signed_in(page: Page) -> None:
    """The page shows the user."""
    expect(status(page)).to_have_text(f"Signed in as {EMAIL}")


@pytest.mark.parametrize("width", WIDTHS)
def test_tour_at_a_width_ends_where_it_began(browser: Browser, demo_url: str, look: Look, width: str) -> None:
    """Sign up, refresh, notes, many requests, reload, second tab, log out in one, log in: each shows what happened."""
    with visiting(browser, demo_url, width) as (context, page, _):
        expect(status(page)).to_have_text("Not signed in")
        look(page, "welcome-light" if width == "desktop" else "")
        sign_up(page)
        expect(decisions(page).filter(has_text="signed up")).to_have_count(1)
        expect(page.get_by_role("timer", name="Access token")).to_have_text(re.compile(r"^\d+ s"))

        refresh = page.get_by_role("button", name="Refresh now")
        refresh.click()
        expect(page.get_by_test_id("outcome")).to_have_text("rotate")
        refresh_until(page, "early")

        expect(page.get_by_text("No notes yet.")).to_be_visible()
        page.get_by_label("A note").fill("Water the otters")
        page.get_by_role("button", name="Keep it").click()
        expect(page.get_by_role("listitem").filter(has_text="Water the otters")).to_be_visible()

        page.get_by_role("button", name="Send 10 requests").click()
        counts = page.get_by_role("region", name="10 requests at once").get_by_role("definition")
        expect(counts).to_have_text(["10", "1", "10"])

        expect(page.get_by_role("region", name="Your profile")).to_contain_text(EMAIL)
        expect(device_list(page)).to_have_count(1)
        expect(device_list(page)).to_contain_text("this device")
        look(page, "session-light" if width == "desktop" else "phone-dark")

        page.reload()
        signed_in(page)
        with context.expect_page() as opened:
            page.get_by_role("link", name="Open a second tab").click()
        second = opened.value
        signed_in(second)
        second.locator("header").get_by_role("button", name="Log out").click()
        expect(heading(second)).to_have_text("You logged out")
        expect(heading(page)).to_have_text("You logged out in another tab")
        expect(heading(page)).to_be_focused()
        # The page shows it at once; the server's answer, which takes the cookie, follows.
        lasting = {"__Host-kt_device", "__Host-kt_demo_viewer"}
        wait_until(lambda: {cookie["name"] for cookie in context.cookies()} == lasting, PATIENCE, "the cookies to go")
        look(page)

        log_in(page)
        signed_in(page)
        signed_in(second)


def test_first_paint_of_a_reload_shows_no_signed_out_page(browser: Browser, demo_url: str) -> None:
    """While the refresh of a reload is held back nothing says that nobody is signed in; a visitor asks nothing."""
    with visiting(browser, demo_url) as (_, page, _watch):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        expect(status(page)).to_have_text("Not signed in")
        assert f"{demo_url}/auth/refresh" not in asked
        sign_up(page)
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/auth/refresh", hold)
        with page.expect_request("**/auth/refresh"):
            page.reload()
        expect(heading(page)).to_have_text("One moment")
        expect(page.get_by_label("E-mail")).to_have_count(0)
        held[0].continue_()
        signed_in(page)


def test_page_says_that_the_browser_has_kept_no_cookies(browser: Browser, demo_url: str) -> None:
    """As Safari keeps none that is `Secure` of http://localhost: who signs up there is told, and not signed out by surprise."""
    with visiting(browser, demo_url) as (context, page, _watch):

        def without_cookies(route: Route) -> None:
            answer = route.fetch()
            # The driver itself has put them into the jar.
            context.clear_cookies()
            rest = {name: value for name, value in answer.headers.items() if name != "set-cookie"}
            route.fulfill(response=answer, headers=rest)

        told = page.get_by_role("alert").filter(has_text="has not kept the cookies")
        page.route("**/auth/signup", without_cookies)
        sign_up(page)
        expect(told).to_be_visible()
        page.reload()
        expect(status(page)).to_have_text("Not signed in")
        page.unroute_all()
        log_in(page)
        signed_in(page)
        expect(told).to_have_count(0)


def test_page_confirms_a_child_when_the_settle_time_has_passed(browser: Browser, demo_url: str) -> None:
    """A refresh right away is `early`; once the settle time has passed the same cookie is confirmed."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        refresh = page.get_by_role("button", name="Refresh now")
        outcome = page.get_by_test_id("outcome")
        refresh.click()
        expect(outcome).to_have_text("rotate")
        expect(page.get_by_test_id("generation")).to_have_text("0")
        refresh_until(page, "confirm")
        expect(page.get_by_test_id("generation")).to_have_text("1")


@pytest.mark.waits
def test_thief_with_a_copied_cookie_ends_the_session_in_every_tab(browser: Browser, demo_url: str, look: Look) -> None:
    """Once owner and thief have both gone on, all tabs say why the session ended, and the list shows both."""
    with visiting(browser, demo_url) as (context, page, _):
        sign_up(page)
        second = context.new_page()
        second.goto(demo_url)
        signed_in(second)
        page.bring_to_front()
        page.get_by_role("button", name="Copy my cookie").click()
        expect(decisions(page).filter(has_text="the thief").first).to_be_visible()
        expect(heading(page)).to_have_text(REUSE, timeout=60_000)
        expect(heading(second)).to_have_text(REUSE)
        expect(decisions(page).filter(has_text="reuse").first).to_be_visible()
        look(page, "thief-light")
        page.set_viewport_size({"width": WIDTHS["phone"][0], "height": WIDTHS["phone"][1]})
        look(page)
        log_in(page)
        signed_in(page)
        signed_in(second)


@pytest.mark.waits
def test_idle_dialog_keeps_or_ends_the_session(browser: Browser, impatient_demo_url: str, look: Look) -> None:
    """Without activity every tab asks; one answer in any of them counts for all, and none ends the session."""
    patience = 60_000
    with visiting(browser, impatient_demo_url) as (context, page, _):
        sign_up(page)
        second = context.new_page()
        second.goto(impatient_demo_url)
        signed_in(second)
        page.bring_to_front()
        refresh = page.get_by_role("button", name="Refresh now")
        refresh.focus()
        dialogs = [tab.get_by_role("alertdialog", name="Are you still there?") for tab in (page, second)]
        dialog = dialogs[0]
        stay = dialog.get_by_role("button", name="Stay signed in")

        for asked in dialogs:
            expect(asked).to_be_visible(timeout=patience)
        expect(stay).to_be_focused()
        expect(dialog.get_by_role("timer")).to_have_text(re.compile(r"^\d+ s$"))
        look(page, "idle-dark")
        page.keyboard.press("Tab")
        expect(dialog.get_by_role("button", name="Log out now")).to_be_focused()
        with page.expect_response("**/auth/refresh") as refreshed:
            stay.click()
        assert refreshed.value.request.post_data_json == {"idle_seconds": 0}
        for asked in dialogs:
            expect(asked).to_be_hidden()
        expect(refresh).to_be_focused()

        expect(dialog).to_be_visible(timeout=patience)
        second.bring_to_front()
        second.keyboard.press("Escape")
        for asked in dialogs:
            expect(asked).to_be_hidden()
        signed_in(page)

        for tab in (page, second):
            expect(heading(tab)).to_have_text("You were away for too long", timeout=patience)


def test_session_of_another_browser_is_listed_and_can_be_ended(browser: Browser, demo_url: str) -> None:
    """The list names both; ending the other one signs it out with the reason, and leaves this one."""
    with visiting(browser, demo_url) as (_, here, _watch):
        sign_up(here)
        with visiting(browser, demo_url, "phone") as (_other, there, _also):
            there.get_by_label("Name of this device").fill("Ada's phone")
            log_in(there)
            signed_in(there)
            expect(device_list(there)).to_have_count(2)
            here.get_by_role("button", name="Refresh now").click()
            here.get_by_role("button", name="End the session on Ada's phone").click()
            expect(device_list(here)).to_have_count(1)
            there.get_by_role("button", name="Refresh now").click()
            expect(heading(there)).to_have_text("This session was ended from another device")
        signed_in(here)


def test_list_that_was_asked_for_before_a_session_ended_does_not_bring_it_back(browser: Browser, demo_url: str) -> None:
    """Of two answers the one that was asked for last counts, whichever comes last."""
    with visiting(browser, demo_url) as (_, here, _watch), visiting(browser, demo_url) as (_other, there, _also):
        sign_up(here)
        log_in(there)
        signed_in(there)
        here.get_by_role("button", name="Refresh now").click()
        expect(device_list(here)).to_have_count(2)
        held: list[tuple[Route, APIResponse]] = []
        here.route("**/auth/sessions", lambda route: held.append((route, route.fetch())), times=1)
        here.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        while not held:
            here.wait_for_timeout(10)
        device_list(here).filter(has_not_text="this device").get_by_role("button").click()
        expect(device_list(here)).to_have_count(1)
        [(route, answer)] = held
        route.fulfill(response=answer)
        here.evaluate("new Promise((done) => setTimeout(done, 200))")
        expect(device_list(here)).to_have_count(1)


def test_end_all_others_and_log_out_everywhere_end_what_they_say(browser: Browser, demo_url: str) -> None:
    """The first leaves this browser alone, the second leaves none."""
    with visiting(browser, demo_url) as (_, here, _watch):
        sign_up(here)
        with visiting(browser, demo_url) as (_other, there, _also):
            log_in(there)
            signed_in(there)
            here.get_by_role("button", name="End all others").click()
            expect(here.get_by_text("All other sessions have ended.")).to_be_visible()
            there.get_by_role("button", name="Refresh now").click()
            expect(heading(there)).to_have_text("This session was ended from another device")
            log_in(there)
            signed_in(there)
            # The page says so before the server does.
            with there.expect_response("**/auth/logout"):
                there.get_by_role("button", name="Log out everywhere").click()
            expect(heading(there)).to_have_text("You logged out")
        here.get_by_role("button", name="Refresh now").click()
        expect(status(here)).to_have_text("Not signed in")
        expect(heading(here)).to_have_text("You logged out")


def test_password_change_counts_at_the_next_login(browser: Browser, demo_url: str, look: Look) -> None:
    """The session that changed it lives on; the old password is refused and the new one accepted."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        page.get_by_label("Current password").fill(OTHER_PASSWORD)
        page.get_by_label("New password").fill(OTHER_PASSWORD)
        page.get_by_role("button", name="Change it").click()
        expect(page.get_by_role("alert").filter(has_text="not right")).to_be_visible()
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_role("button", name="Change it").click()
        expect(page.get_by_text("Changed. All other sessions have ended.")).to_be_visible()
        page.reload()
        signed_in(page)
        page.locator("header").get_by_role("button", name="Log out").click()
        log_in(page)
        expect(page.get_by_role("alert").filter(has_text="not right")).to_be_visible()
        look(page)
        log_in(page, OTHER_PASSWORD)
        signed_in(page)


def test_password_fields_leave_room_for_a_password_manager(browser: Browser, demo_url: str) -> None:
    """Each hides what is typed, says which password it is for, and may be pasted into."""
    paste = "field => field.dispatchEvent(new ClipboardEvent('paste', { bubbles: true, cancelable: true }))"
    with visiting(browser, demo_url) as (_, page, _watch):

        def judge(label: str, purpose: str) -> None:
            field = page.get_by_label(label, exact=True)
            expect(field).to_have_attribute("type", "password")
            expect(field).to_have_attribute("autocomplete", purpose)
            assert field.evaluate(paste)

        judge("Password", "new-password")
        page.get_by_role("button", name="I have an account").click()
        judge("Password", "current-password")
        page.get_by_role("button", name="I am new here").click()
        sign_up(page)
        judge("Current password", "current-password")
        judge("New password", "new-password")


def test_remembered_session_has_a_cookie_that_outlives_the_browser(browser: Browser, demo_url: str) -> None:
    """With the box ticked the cookie has an end of its own; without it the cookie goes with the browser."""
    with visiting(browser, demo_url) as (context, page, _):
        sign_up(page)
        ends = {cookie["name"]: cookie["expires"] for cookie in context.cookies()}
        assert ends["__Host-kt_refresh"] == -1
        page.locator("header").get_by_role("button", name="Log out").click()
        page.get_by_label("Remember me").check()
        log_in(page)
        signed_in(page)
        ends = {cookie["name"]: cookie["expires"] for cookie in context.cookies()}
        assert ends["__Host-kt_refresh"] > page.evaluate("Date.now() / 1000 + 20 * 86400")


def test_server_that_is_out_of_order_keeps_the_session(browser: Browser, demo_url: str, look: Look) -> None:
    """A refresh that gets 503 shows as a fault, signs nobody out, and is over when the server is back."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        problem = '{"code": "unavailable"}'
        page.route(
            "**/auth/refresh",
            lambda route: route.fulfill(status=503, content_type="application/problem+json", body=problem),
        )
        page.get_by_role("button", name="Refresh now").click()
        expect(status(page)).to_contain_text("the session is kept")
        look(page)
        page.unroute("**/auth/refresh")
        page.evaluate("window.dispatchEvent(new Event('online'))")
        page.get_by_role("button", name="Refresh now").click()
        signed_in(page)


def test_two_tabs_that_refresh_at_once_both_stay_signed_in(browser: Browser, demo_url: str) -> None:
    """Tabs share the cookie and race; nobody is signed out, and both see all decisions."""
    with visiting(browser, demo_url) as (context, first, _watch):
        sign_up(first)
        second = context.new_page()
        second.goto(demo_url)
        signed_in(second)
        tabs = (first, second)
        for _ in range(5):
            for tab in tabs:
                tab.get_by_role("button", name="Refresh now").dispatch_event("click")
        for tab in tabs:
            expect(tab.get_by_role("button", name="Refresh now")).to_have_attribute("aria-busy", "false")
            signed_in(tab)
            expect(decisions(tab).filter(has_text="reuse")).to_have_count(0)


def test_decisions_of_another_browser_are_never_shown(browser: Browser, demo_url: str) -> None:
    """What happens in one browser does not show in the list of another."""
    with visiting(browser, demo_url) as (_, here, _watch):
        sign_up(here)
        expect(decisions(here).filter(has_text="signed up")).to_have_count(1)
        with visiting(browser, demo_url) as (_other, there, _also):
            expect(status(there)).to_have_text("Not signed in")
            expect(there.get_by_text("Nothing yet.")).to_be_visible()


def test_page_is_usable_by_keyboard_alone(browser: Browser, demo_url: str) -> None:
    """Tab reaches the fields in order, Enter signs up, and the focus goes where the page goes on."""
    with visiting(browser, demo_url) as (_, page, _watch):
        page.get_by_label("E-mail").focus()
        page.keyboard.type(EMAIL)
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        signed_in(page)
        expect(heading(page)).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Refresh now")).to_be_focused()


def test_no_credential_is_within_reach_of_a_script(browser: Browser, demo_url: str) -> None:
    """Neither storage nor readable cookies nor the window hold a token of either kind."""
    with visiting(browser, demo_url) as (_, page, _watch):
        sign_up(page)
        found = page.evaluate(
            """() => {
                const texts = [document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)]
                for (const name of Object.getOwnPropertyNames(window)) {
                    try { texts.push(JSON.stringify(window[name]) ?? '') } catch {}
                }
                return texts.filter(text => /eyJ[\\w-]+\\.eyJ|kt_rt_/.test(text))
            }"""
        )
        assert found == []
