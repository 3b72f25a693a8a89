"""Who may do what: hosts, origins, passwords, tokens, headers, addresses of files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi", reason="the app's packages are not installed")

from app_help import judge_all

from truecue.app import security
from truecue.app.security import FORM, LARGEST, Gate
from truecue.errors import ConfigError

if TYPE_CHECKING:
    from app_help import Person

    from truecue.app.source import Source


class _Code(HTMLParser):
    """Finds what a strict policy forbids: code and styles that stand in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.forms: list[dict[str, Any]] = []
        self.tokens = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "style" or (tag == "script" and "src" not in values):
            self.found.append(tag)
        self.found += [name for name in values if name == "style" or name.startswith("on")]
        if tag in {"script", "link", "img"}:
            address = values.get("src") or values.get("href") or ""
            self.found += [] if address.startswith("/") else [address]
        if tag == "form" and values.get("method") == "post":
            self.forms.append(values)
        self.tokens += tag == "input" and values.get("name") == "token"


def pages(source: Source) -> list[str]:
    f = source.audit.features(0)[0].feature
    return ["/classes", "/class/0", f"/class/0?by={f}", f"/class/0/feature/{f}", f"/judge/0/{f}",
            "/judge", "/agreement", "/bias", "/models", "/repair", "/labels", "/cues",
            "/directions", "/login", "/nowhere"]  # fmt: skip


def test_pages_hold_no_code_and_say_so(source: Source, judge: Callable[..., Person]) -> None:
    judge_all(source, lambda c, _: "background" if c % 2 else "main_object")
    source.measure()
    ada = judge("Ada")
    for address in pages(source):
        answer = ada.get(address)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        parser = _Code()
        parser.feed(answer.text)
        assert parser.found == [], address
        assert parser.tokens == len(parser.forms), address
    for address in ("/static/app.js", "/image/train/0", "/plot/gaps.svg?split=test"):
        assert ada.get(address).headers["x-content-type-options"] == "nosniff"


def writes(source: Source) -> list[tuple[str, dict[str, Any]]]:
    """Everything that can be written, as a person would."""
    f = source.audit.features(0)[0].feature
    return [
        (f"/judge/0/{f}", {"answer": "background", "confidence": "3", "reason": "why"}),
        ("/who", {"name": "Eve"}), ("/rows", {"original": "1"}), ("/undo", {}), ("/measure", {}),
        ("/gold", {"c": 0, "f": f, "answer": "background"}), ("/gold/remove", {"c": 0, "f": f}),
        ("/labels", {"split": "test", "image": 0, "finding": "fine"}),
        ("/directions", {"k": 0, "answer": "core"}), ("/directions/undo", {}),
        ("/login", {"password": "x"}),
    ]  # fmt: skip


def test_every_write_needs_the_token_of_its_browser(
    source: Source, judge: Callable[..., Person]
) -> None:
    judge_all(source, lambda *_: "main_object", "Grace")
    source.verdicts.set_gold(0, source.audit.features(0)[0].feature, "main_object")
    before = source.verdicts.all(), source.gaps(), source.gold()
    ada, eve = judge("Grace"), judge("Eve")
    known = {route.path for route in ada.app.routes if "POST" in getattr(route, "methods", ())}
    tried = {re.sub(r"^/judge/.*", "/judge/{c:int}/{f:int}", path) for path, _ in writes(source)}
    assert known == tried | {"/verdicts"}
    for token in ("", "0" * 64, eve.token):
        for path, values in writes(source):
            assert ada.post(path, **values, token=token).status_code == 403, path
        sent = ada.http.post("/verdicts", data={"token": token}, files={"file": ("a.csv", "x")})
        assert sent.status_code == 403
    assert (source.verdicts.all(), source.gaps(), source.gold()) == before


def test_an_answer_without_a_valid_token_is_given_back(
    source: Source, judge: Callable[..., Person]
) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    page = ada.answer(0, f, reason="an hour of thought", token="of an earlier start")
    assert page.status_code == 403
    assert "an hour of thought</textarea>" in page.text
    assert "submit it again" in page.text
    token = re.search(
        r'data-answer[^>]*><input type="hidden" name="token" value="(\w+)"', page.text
    )
    assert token is not None
    assert ada.answer(0, f, token=token[1]).status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "",
                                  "192.168.0.7:8000", "evil@[::1", "0.0.0.0",
                                  "127.0.0.1/login?", "localhost#", "me@localhost",
                                  "localhost:x", "[::1"])  # fmt: skip
def test_other_names_of_this_machine_are_refused(judge: Callable[..., Person], host: str) -> None:
    ada = judge()
    for address in ("/classes", "/classes.json", "/image/train/0", "/static/app.css"):
        assert ada.get(address, headers={"host": host}).status_code == 421
    for fine in ("127.0.0.1:8000", "localhost:1234", "[::1]:8000", "LOCALHOST"):
        assert ada.get("/classes", headers={"host": fine}).status_code == 200


def test_a_write_from_another_site_is_refused(source: Source, judge: Callable[..., Person]) -> None:
    ada, f = judge("Ada"), source.audit.features(0)[0].feature
    values = {"answer": "background", "confidence": "3", "reason": "why", "token": ada.token}
    for origin, code in (("http://evil.example", 403), ("null", 403), ("http://[", 403),
                         ("http://127.0.0.1:9", 403), ("http://127.0.0.1:8000", 303)):  # fmt: skip
        headers = {"origin": origin, "host": "127.0.0.1:8000"}
        sent = ada.http.post(f"/judge/0/{f}", data=values, headers=headers, follow_redirects=False)
        assert sent.status_code == code, origin


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_machines_need_a_password(host: str) -> None:
    with pytest.raises(ConfigError, match="give --password"):
        Gate(host)
    assert Gate(host, "secret").host == host
    with pytest.raises(ConfigError, match="is empty"):
        Gate(host, "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_needs_none(host: str) -> None:
    assert Gate(host).password is None


def test_open_servers_go_by_their_own_names_and_addresses() -> None:
    gate = Gate("0.0.0.0", "secret")
    assert gate.knows_host("192.168.1.5:8000")
    assert gate.knows_host("[fe80::1]:8000")
    assert not gate.knows_host("evil.example")
    assert Gate("gpu.example.org", "secret").knows_host("gpu.example.org:8000")


def test_nothing_is_shown_without_the_password(
    source: Source, judge: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "PATIENCE", 0.0)
    ada = judge(host="0.0.0.0", password="open sesame")
    for address in [*pages(source)[:5], "/image/train/0", "/openapi.json", "/verdicts.csv"]:
        answer = ada.get(address, follow_redirects=False)
        assert answer.status_code in (303, 401), address
        assert source.classes[1] not in answer.text or len(answer.text) < 200
    page = ada.get("/classes")
    assert page.url.path == "/login"
    assert source.audit.folder.name not in page.text
    token = re.search(r'name="token" value="(\w+)"', page.text)
    assert token is not None
    wrong = ada.post("/login", password="sesame", token=token[1])
    assert wrong.status_code == 401
    assert "That is not the password" in wrong.text
    assert ada.get("/classes").url.path == "/login"
    assert ada.post("/login", password="open sesame", token=token[1]).status_code == 303
    assert ada.get("/classes").url.path == "/classes"
    ada.http.cookies.clear()
    for given, code in ((("me", "open sesame"), 200), (("me", "sesame"), 401)):
        assert ada.get("/classes.json", auth=given).status_code == code
    bad = {"authorization": "Basic ???"}
    assert ada.get("/classes.json", headers=bad).status_code == 401


@pytest.mark.parametrize("address", [
    "/image/train/-1", "/image/train/400", "/image/train/99999999999999999999", "/image/nope/0",
    "/image/train/../../audit.json", "/image/..%2f..%2faudit.json", "/image/train/0x1",
    "/image/train/%2e%2e%2faudit.json", "/static/../server.py", "/static/%2e%2e/server.py",
    "/static/..%5cserver.py", "/picture/heat/0/99999/0", "/picture/steal/0/0/0", "/crop/test/0",
    "/plot/nothing.svg", "/plot/..%2faudit.svg", "/class/0/feature/1e3",
])  # fmt: skip
def test_addresses_lead_to_nothing_else(judge: Callable[..., Person], address: str) -> None:
    answer = judge("Ada").get(address)
    assert answer.status_code in (404, 422), address
    assert "run.toml" not in answer.text
    assert "def make_app" not in answer.text


def test_maps_are_made_of_shown_images_only(source: Source, judge: Callable[..., Person]) -> None:
    f = source.audit.features(0)[0].feature
    shown = source.shown(0, f)
    other = next(i for i in range(400) if i not in (*shown.top, *shown.least))
    assert judge("Ada").get(f"/picture/heat/0/{f}/{other}").status_code == 404
    assert judge("Ada").get(f"/picture/amplified/0/{f}/{shown.least[0]}").status_code == 404


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example", ""])
def test_forms_lead_back_to_this_app(judge: Callable[..., Person], back: str) -> None:
    assert judge("Ada").post("/rows", back=back).headers["location"] in ("/classes", "/judge")


async def _asked(app: Any, path: str, *headers: tuple[bytes, bytes]) -> tuple[int, bytes]:
    """One GET past the client, which would mend its headers; status and body."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
             "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
             "root_path": "", "headers": list(headers), "client": ("10.0.0.9", 1),
             "server": ("127.0.0.1", 8000)}  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


def test_the_host_cannot_stand_for_the_path(
    judge: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from starlette.requests import Request

    ada = judge(host="0.0.0.0", password="open sesame")
    for host in (b"127.0.0.1/login?", b"127.0.0.1/static/?", b"10.0.0.1/login#"):
        status, body = asyncio.run(_asked(ada.app, "/classes.json", (b"host", host)))
        assert status == 421, host
        assert b"rows" not in body
    # whatever a version of Starlette makes of the two
    monkeypatch.setattr(Request, "url", property(lambda _: type("", (), {"path": "/login"})()))
    status, body = asyncio.run(_asked(ada.app, "/classes.json", (b"host", b"127.0.0.1")))
    assert (status, b"rows" in body) == (401, False)


def test_wrong_passwords_cost_time(
    judge: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(security, "sleep", sleep)
    ada = judge(host="0.0.0.0", password="open sesame")
    for given, code in (("sesame", 401), ("open", 401), ("open sesame", 200)):
        assert ada.get("/classes.json", auth=("me", given)).status_code == code
    assert waited == [security.PATIENCE] * 2


def test_what_is_no_password_is_a_wrong_one(
    judge: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setattr(security, "PATIENCE", 0)
    ada = judge(password="open sesame")
    for given in ("Basic \u00e9", "Basic a", "Basic /w==", "Basic", "Bearer x"):
        headers = ((b"host", b"127.0.0.1"), (b"authorization", given.encode("latin-1")))
        status, _ = asyncio.run(_asked(ada.app, "/classes.json", *headers))
        assert status == 401, given


def test_a_name_server_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(security.socket, "getfqdn", lambda: asked.append(1) or "gpu.example.org")
    security._own_names.cache_clear()
    try:
        gate = Gate("0.0.0.0", "secret")
        assert all(gate.knows_host("gpu.example.org") for _ in range(9))
        assert not gate.knows_host("evil.example")
        assert gate.knows_host("10.0.0.1")
    finally:
        security._own_names.cache_clear()
    assert len(asked) == 1


def test_odd_numbers_in_addresses_are_no_errors(judge: Callable[..., Person]) -> None:
    ada = judge()
    for read in ("²", "9" * 5000, "-1", "٣"):
        page = ada.get("/classes", params={"read": read})
        assert page.status_code == 200
        assert "answers were read" not in page.text


@pytest.mark.parametrize("length", [30, 900, 5000])
def test_numbers_of_any_length_in_paths_are_no_errors(
    judge: Callable[..., Person], length: int
) -> None:
    ada, number = judge("Ada"), "9" * length
    for path in (
        f"/class/{number}", f"/class/0/feature/{number}", f"/judge/0/{number}",
        f"/image/test/{number}", f"/crop/test/{number}", f"/picture/top/0/{number}/1",
        f"/picture/direction/0/{number}", f"/plot/direction/{number}/0",
    ):  # fmt: skip
        assert ada.get(path).status_code in ((404, 422) if length < 1000 else (414,)), path
    assert ada.post(f"/judge/0/{number}", answer="background").status_code in (414, 422)


def test_requests_have_a_size(judge: Callable[..., Person]) -> None:
    ada = judge("Ada")
    for address, most in (("/verdicts", LARGEST), ("/undo", FORM), ("/login", FORM)):
        headers = {"content-length": str(most + 1)}
        assert ada.http.post(address, headers=headers).status_code == 413
    assert ada.post("/undo", reason="x" * (FORM - 1000)).status_code == 303
    assert ada.http.post("/undo", content=iter([b"token=1"])).status_code == 411
    both = {"content-length": "1", "transfer-encoding": "chunked"}
    assert ada.http.post("/undo", content=iter([b"token=1"]), headers=both).status_code == 411


def test_cookies_cannot_be_read_by_scripts_or_sent_by_other_sites(
    judge: Callable[..., Person],
) -> None:
    ada = judge()
    sent = [ada.get("/classes"), ada.post("/who", name='Ada"; Path=/x; é')]
    for answer in sent:
        said = answer.headers["set-cookie"]
        assert "HttpOnly; SameSite=Strict" in said
        assert said.count("Path=") == 1
    assert "Ada&#34;; Path=/x; é" in ada.get("/agreement").text


def test_htmx_is_the_file_that_its_note_describes() -> None:
    folder = Path(security.__file__).parent / "static"
    note = (folder / "VENDORED.md").read_text(encoding="utf-8")
    digest = hashlib.sha256((folder / "htmx.min.js").read_bytes()).hexdigest()
    assert digest in note
    assert "2.0.11" in note
    assert (folder / "htmx.LICENSE").is_file()
