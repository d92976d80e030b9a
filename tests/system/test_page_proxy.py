"""The page behind nginx and Caddy, with kept and rewritten Host, with and without a path prefix."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_page import INFO, live
from tests.support.pages import TOKEN, Dashboard, new_context, opened, shows, stamped
from tests.support.pipelines import PATIENCE_S, wait_until
from tests.support.publisher import Publisher, health
from tools.browser import CHROMIUM
from tools.ports import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CADDY = shutil.which("caddy")
PREFIX = "/emotion"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
    pytest.mark.xdist_group("chromium"),
]


def nginx(folder: Path, port: int, page: int, *, prefix: str, strip: bool, keep_host: bool) -> Any:
    """nginx's command; `strip` removes the prefix from the path."""
    if NGINX is None:
        pytest.skip("needs nginx: apt-get install nginx-light")
    config = folder / "nginx.conf"
    host = "proxy_set_header Host $http_host;" if keep_host else ""
    config.write_text(
        f"""daemon off; pid {folder}/nginx.pid; error_log stderr;
        {"user root;" if os.getuid() == 0 else ""}
        events {{}}
        http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
          fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
          server {{ listen 127.0.0.1:{port};
            location {prefix}/ {{ {host}
              proxy_pass http://127.0.0.1:{page}{"/" if strip else ""}; }} }} }}"""
    )
    return [NGINX, "-c", str(config), "-e", "stderr"]


def caddy(folder: Path, port: int, page: int, *, prefix: str, strip: bool, keep_host: bool) -> Any:
    """Caddy's command; `strip` removes the prefix from the path."""
    if CADDY is None:
        pytest.skip("needs Caddy: apt-get install caddy")
    config = folder / "Caddyfile"
    handle = "handle_path" if strip else "handle"
    body = f"reverse_proxy 127.0.0.1:{page}"
    if not keep_host:
        body += " {\n header_up Host {upstream_hostport}\n }"
    site = f"{handle} {prefix}/* {{\n {body}\n }}" if prefix else body
    config.write_text(
        f"{{\n admin off\n auto_https off\n storage file_system {folder}\n}}\n"
        f"http://box.localhost:{port} {{\n {site}\n}}\n"
    )
    return [CADDY, "run", "--config", str(config), "--adapter", "caddyfile"]


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: accepts(port) or process.poll() is not None, "the proxy")
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.costly_cases
@pytest.mark.parametrize("keep_host", [True, False], ids=["host-kept", "host-rewritten"])
@pytest.mark.parametrize(
    ("prefix", "strip"),
    [("", False), (PREFIX, True), (PREFIX, False)],
    ids=["root", "strip", "keep"],
)
@pytest.mark.parametrize("proxy", [nginx, caddy], ids=["nginx", "caddy"])
def test_the_page_is_live_behind_a_proxy(
    chromium: Any,
    publisher: tuple[Publisher, str],
    tmp_path: Path,
    proxy: Callable[..., Any],
    prefix: str,
    strip: bool,
    keep_host: bool,
) -> None:
    port, page_port = free_port(), free_port()
    command = proxy(tmp_path, port, page_port, prefix=prefix, strip=strip, keep_host=keep_host)
    url = f"http://box.localhost:{port}{prefix}"
    server = Dashboard(publisher[1], f"--base-url={url}", port=page_port)
    try:
        publisher[0].wait_for()
        publisher[0].send(INFO)
        publisher[0].send(stamped(health()))
        with (
            publisher[0].repeating_health(),
            running(command, port),
            opened(chromium, f"{url}/") as page,
        ):
            publisher[0].send(live(0))
            shows(page, "#emotion", "sad")
            page.locator("#pill:not([data-state=waiting])").wait_for()
            # Programs use the same address; an event stream is not held back by the proxy.
            local = url.replace("box.localhost", "127.0.0.1")  # only browsers resolve the name
            asked = urllib.request.Request(
                f"{local}/api/v1/events", headers={"Host": f"box.localhost:{port}"}
            )
            with urllib.request.urlopen(asked, timeout=PATIENCE_S) as response:
                assert any(b"event: state" in response.readline() for _ in range(5))
    finally:
        assert server.end() == 0


def test_the_token_is_asked_for_behind_a_proxy(
    chromium: Any, publisher: tuple[Publisher, str], tmp_path: Path
) -> None:
    port, page_port = free_port(), free_port()
    command = nginx(tmp_path, port, page_port, prefix=PREFIX, strip=True, keep_host=False)
    url = f"http://box.localhost:{port}{PREFIX}/"
    server = Dashboard(
        publisher[1],
        f"--base-url={url}",
        port=page_port,
        token=TOKEN,
    )
    try:
        with running(command, port):
            space = new_context(chromium)
            page = space.new_page()
            page.goto(url)
            shows(page, "h1", "Access token")
            page.fill("#token", TOKEN)
            page.click("button")
            page.locator("#pill").wait_for()
            assert page.url == url
            assert [cookie["path"] for cookie in space.cookies()] == [f"{PREFIX}/"]
            space.close()
    finally:
        assert server.end() == 0
