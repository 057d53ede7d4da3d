"""The pages in a real browser that reaches nothing but the server."""

import json
import time

import pytest

from tests.support import browser
from tests.support.serving import PATIENCE_S


@pytest.fixture(scope="module")
def chromium():
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.Browser() as running:
        yield running


def wait_for(page, expression):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := page.value(expression):
            return value
        time.sleep(0.05)
    raise AssertionError((expression, page.errors, page.value("document.body.innerText")))


def opened(chromium, server, path, width=1200):
    page = chromium.open(f"http://127.0.0.1:{server.port}{path}", width)
    wait_for(page, "document.body.dataset.ready === 'true'")
    return page


def test_a_person_asks_and_sees_what_the_server_answers_programs(chromium, server, tiny_model):
    page = opened(chromium, server, "/")
    version = tiny_model.version
    names = page.value("[...document.querySelectorAll('#fields input')].map(input => input.dataset.column)")
    assert names == [column.name for column in version.preprocessing.columns]
    example = version.preprocessing.example()
    page.value("""document.querySelector("input[data-column=int_0]").value = "2.5" """)
    page.value("document.querySelector('button[type=submit]').click()")
    shown = wait_for(page, "document.querySelector('#answer strong')?.textContent")
    _, content = server.predict({"rows": [example | {"int_0": 2.5}]})
    assert float(shown) == content["probabilities"]["label"][0]
    assert page.errors == []
    assert {address.split("/", 3)[2] for address in page.requests if not address.startswith("data:")} == {
        f"127.0.0.1:{server.port}"
    }


def test_a_mistake_is_shown_at_its_field_and_can_be_mended(chromium, server):
    page = opened(chromium, server, "/", width=400)
    field = "document.querySelector('input[data-column=cat_0]')"
    page.value(f"{field}.value = '99999999999999999999'")
    page.value("document.querySelector('button[type=submit]').click()")
    wait_for(page, f"{field}.getAttribute('aria-invalid') === 'true'")
    told = page.value(f"{field}.nextElementSibling.textContent")
    assert "99999999999999999999 is outside of its table" in told  # as it was typed, not as JavaScript would round it
    assert "give a whole number from 0 to 39" in told
    assert page.value("document.querySelectorAll('[aria-invalid=true]').length") == 1
    page.value(f"{field}.value = '<img src=x onerror=alert(1)>'")
    page.value("document.querySelector('button[type=submit]').click()")
    wait_for(page, f"{field}.nextElementSibling.textContent.includes('<img')")
    page.value("document.getElementById('reset').click()")
    page.value("document.querySelector('button[type=submit]').click()")
    wait_for(page, "document.querySelector('#answer strong')?.textContent")
    assert page.value("document.querySelectorAll('[aria-invalid=true]').length") == 0
    assert page.value("document.documentElement.scrollWidth") <= 400


def test_the_page_for_programs_shows_every_address_and_a_command_that_works(chromium, server):
    page = opened(chromium, server, "/docs")
    text = page.value("document.body.innerText")
    for path in json.loads(server.ask("GET", "/openapi.json")[2])["paths"]:
        assert path in text
    command = page.value("document.querySelector('pre').textContent")
    body = command.partition(" -d '")[2].removesuffix("'")
    assert server.predict(json.loads(body))[0] == 200
    assert page.errors == []


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_may_load_nothing_from_elsewhere(server, path):
    status, headers, content = server.ask("GET", path)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"http://" not in content
    assert b"https://" not in content
