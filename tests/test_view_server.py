"""The viewer's server: whom it answers, what it serves, how it starts and ends."""

from __future__ import annotations

import contextlib
import gc
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import weightlapse as wl
from weightlapse.errors import InvalidArgument, NotARecording
from weightlapse.view.answers import Answers
from weightlapse.view.serve import Viewer, is_loopback
from weightlapse.view.wire import Cancelled


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "run"
    with wl.watch({"W": np.zeros((3, 4), np.float32)}, path) as rec:
        for step in range(5):
            rec.step({"W": np.full((3, 4), step, np.float32)}, loss=float(step))
    return path


@pytest.fixture(scope="module")
def viewer(recording: Path) -> Iterator[Viewer]:
    with Viewer([recording]) as viewer:
        yield viewer


@pytest.fixture
def client(viewer: Viewer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=viewer.url) as client:
        yield client


def test_the_page_and_its_data_come_from_here(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert 'data-wl-state="loading"' in page.text
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not asset.startswith("data:"):
            assert client.get("/" + asset).status_code == 200
    runs = client.get("/api/manifest").json()["runs"]
    assert [t["name"] for t in runs[0]["tensors"]] == ["W"]
    assert runs[0]["frames"] == 6


def test_every_answer_has_a_strict_policy_and_none_opens_to_other_origins(client: httpx.Client) -> None:
    for path in ("/", "/app.js", "/api/manifest", "/api/plane?tensor=nope&frame=0", "/nothing"):
        for headers in ({}, {"Origin": "http://evil.example"}):
            answer = client.get(path, headers=headers)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "*" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
def test_own_names_are_answered(client: httpx.Client, viewer: Viewer, name: str) -> None:
    assert client.get("/api/manifest", headers={"Host": f"{name}:{viewer.port}"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "",
        "[::2]:{port}",
        "localhost:",
    ],
)
def test_foreign_names_are_refused(client: httpx.Client, viewer: Viewer, host: str) -> None:
    for path in ("/", "/api/manifest", "/app.js"):
        assert client.get(path, headers={"Host": host.format(port=viewer.port)}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_other_origins_are_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.get("/api/manifest", headers=headers).status_code == 403


def test_a_link_from_elsewhere_opens_the_page_alone(client: httpx.Client) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.get("/api/manifest", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/api/../../etc/passwd",
        "/app.js/../../../etc/passwd",
        "//etc/passwd",
        "/..\\..\\etc\\passwd",
        "/manifest.json",
        "/page/index.html",
        "/api/plane/../../x",
        "/%00",
        "/api/%2e%2e%2f",
    ],
)
def test_paths_that_leave_are_refused(viewer: Viewer, recording: Path, path: str) -> None:
    # a raw request: clients would tidy the path
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=5) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{viewer.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
    assert int(answer.split()[1]) in (400, 403, 404), answer[:100]
    assert "root:" not in answer


def test_only_reading_is_served(client: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, "/api/manifest").status_code == 405


def test_bad_questions_are_answered_in_words(client: httpx.Client) -> None:
    answer = client.get("/api/plane", params={"tensor": "V", "frame": "0"})
    assert answer.status_code == 400
    assert "'V'" in answer.text
    assert client.get("/api/rm").status_code in (400, 404)


def test_another_host_needs_the_token(recording: Path) -> None:
    with Viewer([recording], host="0.0.0.0") as viewer:
        assert viewer.token is not None
        base = f"http://127.0.0.1:{viewer.port}"
        assert httpx.get(f"{base}/").status_code == 403
        assert httpx.get(f"{base}/api/manifest").status_code == 403
        assert httpx.get(f"{base}/?token=guess").status_code == 403
        with httpx.Client(base_url=base, follow_redirects=True) as friend:
            entered = friend.get(f"/?token={viewer.token}")
            assert entered.status_code == 200
            assert viewer.token not in str(entered.url)
            assert friend.get("/api/manifest").status_code == 200
        assert httpx.get(f"{base}/api/manifest", cookies={"weightlapse-token": "guess"}).status_code == 403


def test_loopback_is_known() -> None:
    assert [
        is_loopback(h) for h in ("127.0.0.1", "127.8.8.8", "::1", "localhost", "0.0.0.0", "192.168.1.5", "example.com")
    ] == [True] * 4 + [False] * 3


def test_a_taken_port_is_said(viewer: Viewer, recording: Path) -> None:
    with pytest.raises(InvalidArgument, match=str(viewer.port)):
        Viewer([recording], port=viewer.port)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARecording):
        Viewer([tmp_path])


def program(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "weightlapse", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_prints_its_address_and_ends_well(recording: Path, number: signal.Signals) -> None:
    with program("view", recording, "--port", "0", "--no-browser") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", line)
        assert httpx.get(line.strip()).status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_program_refuses_in_one_line(tmp_path: Path) -> None:
    with program("view", tmp_path, "--no-browser") as process:
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert out == ""
    assert len(err.strip().splitlines()) == 1


def test_show_serves_in_the_background(recording: Path) -> None:
    viewer: Any = wl.show(recording, block=False, open_browser=False)
    assert httpx.get(viewer.url).status_code == 200
    viewer.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(viewer.url)


def test_the_end_of_the_server_ends_what_is_under_way(recording: Path) -> None:
    """A question that takes long looks at ``cancel``; a server that is told to end must not wait for it to finish by itself."""
    began, seen = threading.Event(), threading.Event()

    def long(query: Any, cancel: Any) -> tuple[str, bytes]:
        began.set()
        for _ in range(1000):
            if cancel.is_set():
                seen.set()
                raise Cancelled
            time.sleep(0.02)
        return "text/plain", b""

    viewer = Viewer([recording])
    answers = next(v for v in gc.get_objects() if isinstance(v, Answers) and v.subjects is viewer.subjects)
    answers.words["curve"] = long
    viewer.start()

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(viewer.url + "api/curve", timeout=30)

    asking = threading.Thread(target=ask)
    asking.start()
    assert began.wait(10)
    viewer.close()
    assert seen.wait(5)
    asking.join(10)


def test_the_end_of_the_program_does_not_wait_for_the_doctor(recording: Path) -> None:
    """The doctor reads everything and cannot be stopped; the program is over all the same."""
    code = (
        "import sys, time\nimport weightlapse.view.extras as extras\nextras.findings = lambda subject: time.sleep(60)\n"
        "from weightlapse.cli import main\nmain(['view', sys.argv[1], '--port', '0', '--no-browser'])"
    )
    command = [sys.executable, "-c", code, str(recording)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(url + "api/findings", timeout=1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=15)
    assert (process.returncode, out, err) == (0, "", "")
