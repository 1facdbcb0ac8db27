"""`python docs/screenshots.py [FOLDER]`: pictures of the page (docs/page.md), of a carrier that runs and has traffic.

A shop in a shared cluster: a shadow of three pods, the laptops of john, jane and mia, a database behind a TCP port, a TLS front. All of it
is on free ports of the loopback interface, in this process but for proxy, driver and browser. Needs `chromium` and `chromedriver`.
FOLDER: where the pictures go (docs/pictures); `--png`: as PNG, which every tool can show.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from carrier.cli.demo_stage import free_ports

HERE = Path(__file__).parent
SIZES = {400: 820, 1024: 760, 1920: 1080}
"""Width -> height, in pixels."""
PATHS = ["/", "/api/cart", "/api/cart/7", "/api/users/1", "/static/app.js", "/api/orders?page=2", "/search?q=teapot", "/api/cart/7/items"]
WARM = 14.0
"""Seconds of traffic before the pictures."""


class Shop:
    """Who answers, who asks, and the proxy between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.web, self.db, self.front, self.admin, *self.pods = free_ports(10)
        self.john, self.jane, self.mia = self.pods[3:6]
        self.servers: list[Any] = []
        self.open: list[asyncio.StreamWriter] = []
        self.process: subprocess.Popen[bytes] | None = None

    def config(self) -> dict[str, Any]:
        ca = trustme.CA()
        pem = self.folder / "shop.pem"
        ca.issue_cert("shop.example", not_after=datetime.now(UTC) + timedelta(days=12)).private_key_and_cert_chain_pem.write_to_path(
            str(pem)
        )
        shadow = {"destination": "shadow"}
        return {
            "clusters": [
                {
                    "name": "shadow",
                    "spec": {"protocol": "HTTP", "port": 80},
                    "endpoints": [{"spec": {"address": "127.0.0.1", "port": port}} for port in self.pods[:3]],
                },
                {"name": "postgres", "spec": {"protocol": "Echo"}},
            ],
            "listeners": [
                {
                    "name": "web",
                    "spec": {"protocol": "HTTP", "port": self.web, "address": "127.0.0.1"},
                    "rules": [
                        {"name": "beta", "match": {"matchHeader": {"name": "x-beta", "value": "1"}}, "action": {"route": shadow}},
                        {"name": "everybody", "action": {"route": shadow}},
                    ],
                },
                {
                    "name": "front",
                    "spec": {
                        "protocol": "HTTP",
                        "port": self.front,
                        "address": "127.0.0.1",
                        "tls": {"certificate": str(pem), "key": str(pem)},
                    },
                    "rules": [{"name": "tls-everybody", "action": {"route": shadow}}],
                },
                {
                    "name": "db",
                    "spec": {"protocol": "TCP", "port": self.db, "address": "127.0.0.1"},
                    "rules": [{"name": "database", "action": {"route": {"destination": "postgres"}}}],
                },
            ],
        }

    async def set_up(self) -> None:
        for port in (*self.pods[:3], self.john, self.jane):
            self.servers.append(await asyncio.start_server(serve, "127.0.0.1", port))
        file = self.folder / "shop.json"
        file.write_text(json.dumps(self.config()))
        command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin", f"127.0.0.1:{self.admin}", "--admin-socket", "off"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with contextlib.suppress(OSError):
                await self.api("GET", "healthz", raw=True)
                break
            await asyncio.sleep(0.1)
        await self.bridge("john", [{"matchHeader": {"name": "x-user", "value": "john"}}], self.john)
        cart = [{"matchPath": {"path": "/api/cart", "type": "prefix"}}, {"matchHeader": {"name": "x-user", "value": "jane"}}]
        await self.bridge("jane", cart, self.jane)
        await self.bridge("mia", [{"matchCookie": {"name": "user", "value": "mia"}}], self.mia)  # whose laptop is away
        await self.bridge("john-too", [{"matchHeader": {"name": "x-user", "value": "john"}}], self.john)  # is refused
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.db)
            writer.write(b"select 1;" * random.randint(3, 900))
            self.open.append(writer)
        for user in ("john", "nobody"):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.web)
            lines = "GET /chat HTTP/1.1\r\nhost: shop.example\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
            writer.write((lines + f"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-user: {user}\r\n\r\n").encode())
            await reader.read(100)
            writer.write(b"\x81\x85\0\0\0\0hello" * random.randint(10, 90))
            self.open.append(writer)

    async def bridge(self, name: str, match: Any, port: int) -> None:
        body = {"listener": "web", "user": name.partition("-")[0], "match": match, "endpoint": f"127.0.0.1:{port}", "expires": "8h"}
        await self.api("PUT", f"api/v1/bridges/{name}", body)

    async def api(self, method: str, path: str, body: Any = None, raw: bool = False) -> Any:
        def ask() -> Any:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.admin}/{path}", data, {"content-type": "application/json"}, method=method
            )
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=5) as answer:
                return answer.read() if raw else json.load(answer)
            return None

        return await asyncio.to_thread(ask)

    async def traffic(self) -> None:
        """Some forty requests a second, over a few connections that stay."""
        await asyncio.gather(*(self.visitor(i) for i in range(8)))

    async def visitor(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.web)
        while True:
            user, cookie = random.choice([("john", ""), ("jane", ""), ("", ""), ("", ""), ("Jane", ""), ("", "user=mia; lang=en")])
            path = random.choice(PATHS)
            method = "POST" if path == "/api/cart" and random.random() < 0.5 else "GET"
            lines = [f"{method} {path} HTTP/1.1", f"host: shop.example:{self.web}", "user-agent: Mozilla/5.0", "content-length: 0"]
            lines += [f"x-user: {user}"] * bool(user) + [f"cookie: {cookie}"] * bool(cookie)
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = await reader.readuntil(b"\r\n\r\n")
            size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
            await reader.readexactly(size)
            await asyncio.sleep(random.uniform(0.05, 0.35))

    def tear_down(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(15)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A workload: most of its answers are fine."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"upgrade: websocket" in head.lower():
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n")
                writer.write(b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" + b"\x81\x05world" * 200)
                await asyncio.sleep(600)
            await asyncio.sleep(random.expovariate(120) + (0.2 if random.random() < 0.01 else 0))
            status = random.choices(["200 OK", "304 Not Modified", "404 Not Found", "500 Internal Server Error"], [90, 6, 3, 1])[0]
            body = b"" if status.startswith("304") else b"x" * random.randint(80, 4000)
            length = b"" if status.startswith("304") else b"content-length: %d\r\n" % len(body)
            writer.write(b"HTTP/1.1 %b\r\n%b\r\n" % (status.encode(), length) + body)


@contextlib.contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Camera:
    """Pictures of one page."""

    def __init__(self, driver: webdriver.Chrome, folder: Path, png: bool) -> None:
        self.driver = driver
        self.folder = folder
        self.format = "png" if png else "webp"

    def look(self, width: int, theme: str, height: int = 0) -> None:
        screen = {"width": width, "height": height or SIZES[width], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": "reduce"}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)

    def take(self, name: str) -> None:
        time.sleep(0.4)
        asked = {"format": self.format} | ({"quality": 82} if self.format == "webp" else {})
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        path = self.folder / f"{name}.{self.format}"
        path.write_bytes(base64.b64decode(found["data"]))
        print(f"{path}: {path.stat().st_size:,} bytes")

    def view(self, name: str) -> None:
        self.driver.execute_script("location.hash = arguments[0]; delete document.body.dataset.why", name)

    def click(self, selector: str) -> None:
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def fill(self, selector: str, text: str) -> None:
        field = self.driver.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        field.send_keys(text)

    def choose(self, said: str) -> None:
        """A click on the first request in whose line this is said."""
        script = (
            "return [...document.querySelectorAll('#v-requests .grid-row')].find(r => !r.hidden && r.textContent.includes(arguments[0]))"
        )
        WebDriverWait(self.driver, 20).until(lambda d: d.execute_script(script, said))
        self.driver.execute_script(f"(() => {{ {script} }})().click()".replace("arguments[0]", json.dumps(said)))
        WebDriverWait(self.driver, 10).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".about .why-rules"))


def pictures(shop: Shop, folder: Path, png: bool) -> None:
    with browser() as driver:
        camera = Camera(driver, folder, png)
        camera.look(1920, "dark")
        driver.get(f"http://127.0.0.1:{shop.admin}/")
        time.sleep(WARM)
        driver.execute_script("const me = document.querySelector('#me'); me.value = 'john'; me.dispatchEvent(new Event('change'))")
        camera.fill("#filter", "user:jane")
        camera.fill("#filter", " ")
        camera.click("#v-requests .filter button")
        time.sleep(1)
        camera.choose("/api/cart")
        for theme in ("dark", "light"):
            camera.look(1920, theme)
            camera.take(f"page-1920-{theme}")
        for theme in ("light", "dark"):
            camera.look(1024, theme)
            camera.view("requests")
            camera.take(f"page-1024-{theme}")
            camera.click("#open-why")
            camera.take(f"why-1024-{theme}")
            camera.view("sessions")
            time.sleep(1)
            camera.take(f"sessions-1024-{theme}")
            camera.view("configuration")
            time.sleep(1)
            camera.take(f"configuration-1024-{theme}")
            camera.view("certificates")
            camera.take(f"certificates-1024-{theme}")
            camera.view("requests")
            conflict(camera, theme)
            camera.look(400, theme)
            camera.take(f"requests-400-{theme}")
            camera.view("rules")
            camera.take(f"rules-400-{theme}")
            camera.click("#open-why")
            camera.take(f"why-400-{theme}")
            camera.view("requests")


def conflict(camera: Camera, theme: str) -> None:
    """A bridge that is in the way of another is refused."""
    camera.click("#v-rules header button")
    inputs = camera.driver.find_elements(By.CSS_SELECTOR, "dialog .two .field input")
    for field in inputs:
        field.clear()
        field.send_keys("ann")
    condition = camera.driver.find_elements(By.CSS_SELECTOR, "dialog .condition input")
    condition[0].send_keys("x-user")
    condition[1].send_keys("john")
    camera.fill("dialog input[placeholder='10.0.0.9:8000']", "10.0.0.9:8000")
    camera.click("dialog button[type=submit]")
    time.sleep(0.7)
    camera.take(f"conflict-1024-{theme}")
    camera.click("dialog .cancel")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=HERE / "pictures", type=Path)
    parser.add_argument("--png", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    random.seed(7)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        shop = Shop(Path(folder))
        try:
            await shop.set_up()
            traffic = asyncio.ensure_future(shop.traffic())
            await asyncio.to_thread(pictures, shop, options.folder, options.png)
            traffic.cancel()
        finally:
            shop.tear_down()


if __name__ == "__main__":
    asyncio.run(main())
