# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The page in the browser: rerun's web viewer, served locally on one port.

rerun's own page requests fonts, examples, version information and telemetry from other hosts. This
server is a proxy in front of it. It forbids other hosts with a Content-Security-Policy, and
forwards the data stream, so that one port is enough (also for ``ssh -L``).
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote

from aliked_ros.errors import AlikedError, ConfigurationError
from aliked_ros.system.packages import require

if TYPE_CHECKING:
    import rerun as rr

DEFAULT_PORT = 9090
_HOST = "127.0.0.1"
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_ELSEWHERE = re.compile(rb"<link[^>]*https://[^>]*>")  # fonts from another host
_DATA = "/rerun.sdk_comms."  # paths of the data stream
_BLOCK = 1 << 16  # bytes forwarded at a time
_TIMEOUT = 10.0  # seconds for rerun's server to answer


class PortError(AlikedError):
    """The page's port cannot be used."""


def default_port() -> int:
    """The default port, or a free one if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, DEFAULT_PORT))
        except OSError:
            return _free_port()
        return DEFAULT_PORT


def has_display() -> bool:
    """Whether a browser can be opened; not over ssh, where it would be a text browser."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def require_viewer() -> None:
    """Raise BackendError, with what to install, if the viewer is missing."""
    require("the page", "view", "rerun")


class PageServer:
    """Serves what is logged to a stream; ``url`` is where."""

    def __init__(
        self, stream: rr.RecordingStream, port: int, memory_limit: str, newest_first: bool
    ) -> None:
        """Start serving.

        port: of the page; 0 = any free port.
        memory_limit: of data kept for browsers that connect later, such as 1GB; oldest dropped.
        newest_first: send current data before history to a browser that connects later.

        Raises PortError if the port is taken, ConfigurationError for an invalid limit.
        """
        import rerun as rr

        try:
            self._server = _Server((_HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise PortError(
                f"port {port} cannot be used ({error}); end the program that uses it, or choose "
                "another one with --port."
            ) from error
        self._server.data_port = _free_port()
        self._server.viewer_port = _free_port()
        try:
            stream.serve_grpc(
                grpc_port=self._server.data_port,
                server_memory_limit=memory_limit,
                newest_first=newest_first,
            )
        except RuntimeError as error:
            self._server.server_close()
            raise ConfigurationError(
                f"the memory limit is {memory_limit!r}; give one such as 500MB or 2GB ({error})."
            ) from error
        rr.serve_web_viewer(web_port=self._server.viewer_port, open_browser=False)
        self.url = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="page", daemon=True).start()

    def close(self) -> None:
        """Stop serving the page; the stream's own server ends with the stream."""
        self._server.shutdown()
        self._server.server_close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


class _Server(ThreadingHTTPServer):
    """The server with the ports of rerun's."""

    daemon_threads = True
    data_port: int
    viewer_port: int


class _Handler(BaseHTTPRequestHandler):
    """Forwards a request to rerun's page server or data server."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/" and self._is_ours():
            self.send_response(302)
            host = self.headers.get("Host", f"localhost:{self.server.server_port}")
            data = quote(f"rerun+http://{host}/proxy", safe=":/")
            self.send_header("Location", f"/?url={data}&persist=0&hide_welcome_screen=1")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._forward()

    def do_POST(self) -> None:
        self._forward()

    def do_OPTIONS(self) -> None:
        self._forward()

    def log_message(self, *_: object) -> None:
        """Do not log requests."""

    def _is_ours(self) -> bool:
        """Whether the requesting page, if any, is this one."""
        origin = self.headers.get("Origin")
        return origin is None or origin.partition("://")[2] == self.headers.get("Host")

    def _forward(self) -> None:
        if not self._is_ours():
            self.send_error(403, "Requests from other pages are refused.")
            return
        is_data = self.path.startswith(_DATA)
        port = self.server.data_port if is_data else self.server.viewer_port
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        skipped = {"host", "origin", "connection", "accept-encoding", "content-length"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
        connection = HTTPConnection(_HOST, port, timeout=_TIMEOUT)
        self.close_connection = True
        try:
            connection.request(self.command, self.path, body, headers)
            assert connection.sock is not None
            answer = connection.getresponse()
            connection.sock.settimeout(None)  # silence is not the end
            if answer.getheader("Content-Type", "").startswith("text/html"):
                self._send_page(_ELSEWHERE.sub(b"", answer.read()))
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")  # marks the end of the answer
            self.end_headers()
            while block := answer.read1(_BLOCK):
                self.wfile.write(block)
        except (OSError, HTTPException):  # the browser or the stream is gone
            pass
        finally:
            connection.close()

    def _send_page(self, page: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        self.wfile.write(page)
