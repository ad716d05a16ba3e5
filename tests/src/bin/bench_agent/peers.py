"""Programs for comparison, and what they talk to; one subcommand each."""

import argparse
import asyncio
import http.client
import json
import signal
import sys
import time


def heartbeat(arguments):
    """An agent as fleets begin with: every 30 seconds it tells a WebSocket how the machine is."""
    import psutil
    from websockets.asyncio.client import connect

    def status():
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        return {
            "type": "heartbeat",
            "deviceId": "bench-01",
            "timestamp": int(time.time() * 1000),
            "status": {
                "cpu": psutil.cpu_percent(),
                "memory": memory.percent,
                "disk": disk.percent,
                "uptime": int(time.time() - psutil.boot_time()),
                "load": psutil.getloadavg(),
            },
        }

    async def run():
        async for connection in connect(f"ws://{arguments.host}:3002/?deviceId=bench-01"):
            print("connected", flush=True)
            try:
                while True:
                    await connection.send(json.dumps(status()))
                    await asyncio.sleep(30)
            except OSError:
                continue

    asyncio.run(run())


def hub(arguments):
    """Takes what such agents tell."""
    from websockets.asyncio.server import serve

    async def handler(connection):
        async for _ in connection:
            pass

    async def run():
        async with serve(handler, "0.0.0.0", 3002):
            print("ready", flush=True)
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


def scrape(arguments):
    """Asks for metrics as Prometheus does: every 15 seconds, compressed, over one connection."""
    connection = http.client.HTTPConnection(arguments.host, 9100, timeout=10)
    headers = {"Accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "Accept-Encoding": "gzip", "User-Agent": "Prometheus"}
    while True:
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        length = len(answer.read())
        if answer.status != 200 or length < 1_000:
            sys.exit(f"expected metrics, got status {answer.status} and {length} bytes")
        print("scraped", flush=True)
        time.sleep(15)


def main():
    kinds = [heartbeat, hub, scrape]
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=[kind.__name__ for kind in kinds])
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    next(kind for kind in kinds if kind.__name__ == arguments.kind)(arguments)


main()
