"""A server whose latency is known, to check the load client with: known_delay.py PORT DELAY_MS STALL_MS

Every answer leaves DELAY_MS after its request came. In every second the server stands still for STALL_MS, so with arrivals
at a constant rate one request in 1000 / STALL_MS comes during it, and waits for what is left of it.
"""
import asyncio
import sys
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: 2\r\n\r\nok"


class Client(asyncio.Protocol):
    def __init__(self, loop, delay_s):
        self.loop, self.delay_s, self.transport = loop, delay_s, None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data.endswith(b"\r\n\r\n"):
            self.loop.call_later(self.delay_s, self.transport.write, ANSWER)


async def main(port, delay_s, stall_s):
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Client(loop, delay_s), "127.0.0.1", port)
    while True:
        await asyncio.sleep(1 - stall_s)
        time.sleep(stall_s)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1e3, float(sys.argv[3]) / 1e3))
