"""A load test of a small shop: customers log in, think and look into their cart, as coroutines."""

import http.server
import json
import os
import threading

import procession
from procession.load import feed, load, step, think

CUSTOMERS = [{"name": "ann"}, {"name": "bob"}, {"name": "cid"}]


async def shop(http, customer=feed(CUSTOMERS)):
    with step("login"):
        token = (await http.post("/login", json=customer)).expect(status=200).json("token")
    await think(0.001, 0.003)
    cart = await http.get("/cart", headers={"X-Token": token})
    assert cart.text == customer["name"]


class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        customer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(json.dumps({"token": customer["name"]}))

    def do_GET(self) -> None:
        self.answer(self.headers["X-Token"])

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(ports):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    ports.send(server.server_address[1])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The example ends the server by closing its end.
    ports.poll(None)
    os._exit(0)


if __name__ == "__main__":
    ours, theirs = procession.Pipe()
    server = procession.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    result = load(shop, users=4, iterations=100, url=url, slo=["errors<1%"])
    print(f"{result.iterations} customers, {result.requests} requests, {result.failed_requests} failed")
    print("steps:", ", ".join(sorted(result.steps)))
    server.terminate()
    server.join()
