"""The app of the tests on a node: says who answers, which version, in which pod; at 9090, too, and to datagrams at 5300, or at the port
that it is given: `app.py [ADDRESS:PORT[-LAST] [WHO]]`."""

import json
import os
import signal
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WHERE = sys.argv[1] if len(sys.argv) > 1 else ":8080"
WHO = sys.argv[2] if len(sys.argv) > 2 else "app"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = {"who": WHO, "version": os.environ.get("VERSION", ""), "pod": socket.gethostname(), "path": self.path}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def datagrams(where: tuple[str, int]) -> None:
    """Say who answers, to whom it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(where)
        while True:
            data, sender = peer.recvfrom(2048)
            peer.sendto(WHO.encode() + b" " + data, sender)


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def server_bind(self) -> None:  # that of HTTPServer asks name servers who it is, which takes seconds where none knows
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container has to say that it wants to end
host, _, port = WHERE.rpartition(":")
port, _, last = port.partition("-")
for more in range(int(port) + 1, int(last or port) + 1):
    threading.Thread(target=Server((host, more), Handler).serve_forever, daemon=True).start()
if len(sys.argv) < 2:
    threading.Thread(target=Server(("", 9090), Handler).serve_forever, daemon=True).start()
threading.Thread(target=datagrams, args=((host, 5300 if len(sys.argv) < 2 else int(port)),), daemon=True).start()
Server((host, int(port)), Handler).serve_forever()
