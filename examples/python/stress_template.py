"""A stress test in two functions: two named processes send requests to a web server, each in its own way.

The functions are yours to replace: another protocol, another interface, another mix of requests. To be of use
everywhere, the program brings the server with it: one on loopback, in a process of its own, which ends by itself after
so many requests or seconds. Give a URL to test another server:

    python stress_template.py http://localhost:8000/
"""

import http.client
import http.server
import sys
import time
import urllib.parse
import urllib.request

import procession as mp

STRESS_SECONDS = 2.0
SERVER_MAX_SECONDS = 30.0
SERVER_MAX_REQUESTS = 100_000
REPLY_TIMEOUT_SECONDS = 5.0
PAGE = b"<!doctype html><title>Hello</title><p>Hello from a small server on loopback."


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the same page."""

    protocol_version = "HTTP/1.1"
    timeout = REPLY_TIMEOUT_SECONDS
    disable_nagle_algorithm = True  # Head and body go out in two writes; the second shall not wait for the first's ACK.
    answered = 0

    def do_GET(self):
        Page.answered += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format, *args):
        pass


def serve(port_sender):
    """Answers requests on a free port of loopback, which it sends to its starter."""
    deadline = time.monotonic() + SERVER_MAX_SECONDS
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        server.daemon_threads = True
        server.timeout = 0.2
        port_sender.send(server.server_port)
        while time.monotonic() < deadline and Page.answered < SERVER_MAX_REQUESTS:
            server.handle_request()


def report(requests, begin, page):
    seconds = time.perf_counter() - begin
    name = mp.current_process().name
    print(f"{name}: {requests} requests in {seconds:.1f} s, {requests / seconds:.0f}/s: {page[:20]}", flush=True)


def visit(url):
    """A user who opens a new connection for each page."""
    requests, page, begin = 0, b"", time.perf_counter()
    while time.perf_counter() - begin < STRESS_SECONDS:
        with urllib.request.urlopen(url, timeout=REPLY_TIMEOUT_SECONDS) as response:
            page = response.read()
        requests += 1
    report(requests, begin, page)


def stay(url):
    """A user who keeps one connection open."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=REPLY_TIMEOUT_SECONDS)
    requests, page, begin = 0, b"", time.perf_counter()
    while time.perf_counter() - begin < STRESS_SECONDS:
        connection.request("GET", address.path or "/")
        page = connection.getresponse().read()
        requests += 1
    connection.close()
    report(requests, begin, page)


def stress(url):
    users = [
        mp.Process(target=visit, args=(url,), name="visitor"),
        mp.Process(target=stay, args=(url,), name="resident"),
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    print("done, exit codes:", {user.name: user.exitcode for user in users})
    return all(user.exitcode == 0 for user in users)


def main():
    if len(sys.argv) > 1:
        return 0 if stress(sys.argv[1]) else 1

    port_receiver, port_sender = mp.Pipe(duplex=False)
    server = mp.Process(target=serve, args=(port_sender,), name="server", daemon=True)
    server.start()
    port_sender.close()
    try:
        if not port_receiver.poll(SERVER_MAX_SECONDS):
            raise SystemExit("the server did not start")
        return 0 if stress(f"http://127.0.0.1:{port_receiver.recv()}/") else 1
    finally:
        port_receiver.close()
        server.terminate()
        server.join()


if __name__ == "__main__":
    sys.exit(main())
