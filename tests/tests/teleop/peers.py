"""The real programs' side of teleoperation, one subcommand each. Says on stdout, as JSON lines, when it did what:
`{"did": "first", "at": milliseconds since the epoch}`; and once a second, while something really goes through, how much
did so far: `{"did": "work", "at": …, "count": pictures, requests, frames or bytes}`."""

import argparse
import asyncio
import base64
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid

FRAME = base64.b64encode(os.urandom(15_000)).decode()
JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def did(what, **more):
    print(json.dumps({"did": what, "at": int(time.time() * 1000)} | more), flush=True)


class Work:
    """What went through: whoever says nothing of it was dead."""

    def __init__(self):
        self.count, self.said, self.lock = 0, 0.0, threading.Lock()

    def __call__(self, count=1):
        with self.lock:
            self.count += count
            if count and time.monotonic() - self.said >= 1:
                self.said = time.monotonic()
                did("work", count=self.count)


work = Work()


def command(count):
    """As lerobot's LeKiwiClient words it: nine floats, sent even with no key pressed."""
    frame = {f"arm_{joint}.pos": 0.1 * (count % 10) for joint in JOINTS}
    return json.dumps(frame | {"x.vel": 0.0, "y.vel": 0.0, "theta.vel": 0.0})


def ended():
    """Set by SIGTERM, so that connections are closed as programs close them."""
    stop = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stop.set())
    return stop


def zmq_socket(kind, conflate=True):
    import zmq

    made = zmq.Context.instance().socket(getattr(zmq, kind))
    if conflate:
        made.setsockopt(zmq.CONFLATE, 1)
    made.setsockopt(zmq.LINGER, 0)
    return made


def lerobot_host(arguments):
    """`lekiwi_host.py`: commands in on 5555, observations out on 5556, at 30 Hz."""
    import zmq

    stop = ended()
    commands, observations = zmq_socket("PULL"), zmq_socket("PUSH")
    commands.bind("tcp://*:5555")
    observations.bind("tcp://*:5556")
    did("ready")
    while not stop.wait(1 / 30):
        try:
            commands.recv_string(zmq.NOBLOCK)
        except zmq.Again:
            pass
        try:
            observations.send_string(json.dumps({"arm": 0.1, "front": FRAME}), flags=zmq.NOBLOCK)
            work()
        except zmq.Again:
            pass


def lerobot_client(arguments):
    """`lekiwi_client.py`: pushes commands, and pulls observations."""
    import zmq

    stop = ended()
    commands, observations = zmq_socket("PUSH"), zmq_socket("PULL")
    commands.connect(f"tcp://{arguments.host}:5555")
    if not arguments.blind:
        observations.connect(f"tcp://{arguments.host}:5556")
    count, until = 0, time.monotonic() + arguments.seconds
    did("connected")
    while not stop.wait(1 / (arguments.rate or 30)):
        if arguments.rate and time.monotonic() < until:
            commands.send_string(command(count))
            did("first" if count == 0 else "sent")
            count += 1
        elif count > 0 and not arguments.stay:
            break
        try:
            observations.recv_string(zmq.NOBLOCK)
            work()
        except zmq.Again:
            pass
    commands.close()
    observations.close()
    did("closed")


def camera(arguments):
    """`image_server.py`: pictures go out on 5555."""
    stop = ended()
    pictures = zmq_socket("PUB", conflate=False)
    pictures.bind("tcp://*:5555")
    did("ready")
    while not stop.wait(1 / 30):
        pictures.send_string(json.dumps({"timestamps": {}, "images": {"front": FRAME}}))
        work()


def viewer(arguments):
    """Whoever reads these pictures."""
    import zmq

    stop = ended()
    pictures = zmq_socket("SUB")
    pictures.setsockopt_string(zmq.SUBSCRIBE, "")
    pictures.connect(f"tcp://{arguments.host}:5555")
    did("connected")
    while not stop.wait(1 / 30):
        try:
            pictures.recv_string(zmq.NOBLOCK)
            work()
        except zmq.Again:
            pass


def websocket_server(arguments):
    """Takes what comes, and tells everybody ten times a second how the robot is."""
    from websockets.asyncio.server import broadcast, serve

    open_connections = set()

    async def handler(connection):
        open_connections.add(connection)
        try:
            async for _ in connection:
                pass
        finally:
            open_connections.discard(connection)

    async def run():
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        async with serve(handler, "0.0.0.0", 8442):
            did("ready")
            while not stop.is_set():
                broadcast(open_connections, json.dumps({"battery": 0.9, "pose": [0.0] * 20}))
                work(len(open_connections))
                await asyncio.sleep(0.1)

    asyncio.run(run())


def websocket_client(arguments):
    """A headset, one frame of controllers per rendered picture; with no rate a dashboard, which says nothing."""
    from websockets.asyncio.client import connect

    async def run():
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        async with connect(f"ws://{arguments.host}:8442") as connection:
            did("connected")

            async def read():
                async for _ in connection:
                    work()

            reading = asyncio.create_task(read())
            count, until = 0, time.monotonic() + arguments.seconds
            while not stop.is_set():
                if arguments.rate and time.monotonic() < until:
                    hand = {"position": [0.1, 0.2, count / 1000], "rotation": [0, 0, 0, 1], "trigger": 0}
                    await connection.send(json.dumps({"left": hand, "right": hand}))
                    did("first" if count == 0 else "sent")
                    count += 1
                elif count > 0 and not arguments.stay:
                    break
                await asyncio.sleep(1 / (arguments.rate or 10))
            reading.cancel()
        did("closed")

    asyncio.run(run())


def http_server(arguments):
    """A page on the web control's port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")
            work()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Page)
    did("ready")
    server.serve_forever()


def health_check(arguments):
    """A request every half second, each through a connection of its own."""
    import urllib.request

    stop = ended()
    did("connected")
    while not stop.wait(0.5):
        work(len(urllib.request.urlopen(f"http://{arguments.host}:8000/health", timeout=2).read()))


def scan(arguments):
    """Connects to every port, and closes at once."""
    stop = ended()
    did("connected")
    while not stop.wait(0.05):
        for port in (5555, 5556, 8000, 8442, 8443):
            try:
                socket.create_connection((arguments.host, port), timeout=1).close()
                work()
            except OSError:
                pass


def rtsp_reader(arguments):
    """Whoever looks at the camera, over TCP."""
    import subprocess

    stop = ended()
    address = f"rtsp://{arguments.host}:8554/camera"
    quiet = ["ffmpeg", "-nostdin", "-loglevel", "error", "-rtsp_transport", "tcp"]
    reader = subprocess.Popen([*quiet, "-i", address, "-progress", "pipe:1", "-f", "null", "-"], stdout=subprocess.PIPE)
    threading.Thread(target=lambda: (stop.wait(), reader.terminate()), daemon=True).start()
    did("connected")
    frames = 0
    for line in reader.stdout:
        if line.startswith(b"frame=") and int(line[6:]) > frames:
            if frames == 0:
                did("first")
            work(int(line[6:]) - frames)
            frames = int(line[6:])


def webrtc_robot(arguments):
    """Pictures over WebRTC, and a data channel that takes commands; offers come as lines on 8889. Its readers are
    told on 9997 as mediamtx 1.9 tells them, with what the connection has really sent, and to where."""
    from aiortc import RTCPeerConnection, RTCSessionDescription, VideoStreamTrack

    taken = {}

    async def signalling(reader, writer):
        connection = RTCPeerConnection()
        session, remote = str(uuid.uuid4()), writer.get_extra_info("peername")[0]
        connection.addTrack(VideoStreamTrack())
        offer = json.loads(await reader.readline())
        await connection.setRemoteDescription(RTCSessionDescription(**offer))
        await connection.setLocalDescription(await connection.createAnswer())
        answer = connection.localDescription
        writer.write(json.dumps({"sdp": answer.sdp, "type": answer.type}).encode() + b"\n")
        taken[session] = connection, remote
        await reader.read()
        del taken[session]
        await connection.close()

    async def sent(connection):
        stats = (await connection.getStats()).values()
        return sum(each.bytesSent for each in stats if each.type == "outbound-rtp")

    async def api(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        readers = list(taken.items()) if b"webrtcsessions" in request else []
        items = [{"id": session, "created": "2026-03-01T10:00:05Z", "remoteAddr": f"{remote}:50000",
                  "peerConnectionEstablished": connection.connectionState == "connected", "state": "read",
                  "path": "front", "query": "", "bytesReceived": 0, "bytesSent": await sent(connection)}
                 for session, (connection, remote) in readers]
        total = sum(item["bytesSent"] for item in items)
        work(max(total - work.count, 0))
        body = json.dumps({"itemCount": len(items), "pageCount": 1, "items": items})
        writer.write(f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async def run():
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        await asyncio.start_server(signalling, "0.0.0.0", 8889)
        await asyncio.start_server(api, "127.0.0.1", 9997)
        did("ready")
        await stop.wait()

    asyncio.run(run())


def webrtc_client(arguments):
    """A browser that looks, and commands by a data channel."""
    from aiortc import RTCPeerConnection, RTCSessionDescription

    async def run():
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        connection, pictures = RTCPeerConnection(), asyncio.get_running_loop().create_future()
        connection.addTransceiver("video", direction="recvonly")
        commands = connection.createDataChannel("commands")
        connection.on("track", pictures.set_result)
        await connection.setLocalDescription(await connection.createOffer())
        reader, writer = await asyncio.open_connection(arguments.host, 8889)
        offer = connection.localDescription
        writer.write(json.dumps({"sdp": offer.sdp, "type": offer.type}).encode() + b"\n")
        answer = RTCSessionDescription(**json.loads(await reader.readline()))
        await connection.setRemoteDescription(answer)
        did("connected")
        track, count = await pictures, 0
        while not stop.is_set():
            await track.recv()
            if count == 0:
                did("first")
            work()
            count += 1
            if commands.readyState == "open":
                commands.send(command(count))
                did("sent")

    asyncio.run(run())


def navigation(arguments):
    """Velocities at 20 Hz between programs of the robot, over UDP as DDS sends them."""
    stop = ended()
    sender, controller = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    controller.bind(("127.0.0.1", 7411))
    controller.settimeout(1)
    did("ready")
    while not stop.wait(1 / 20):
        sender.sendto(b"RTPS" + bytes(92), controller.getsockname())
        work(len(controller.recv(128)))


def main():
    parser = argparse.ArgumentParser()
    kinds = [lerobot_host, lerobot_client, camera, viewer, websocket_server, websocket_client, http_server,
             health_check, scan, rtsp_reader, webrtc_robot, webrtc_client, navigation]
    parser.add_argument("kind", choices=[kind.__name__ for kind in kinds])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--rate", type=float, default=0, help="commands a second; none when absent")
    parser.add_argument("--seconds", type=float, default=1e9, help="how long commands are sent")
    parser.add_argument("--stay", action="store_true", help="stay connected after that")
    parser.add_argument("--blind", action="store_true", help="read no observations")
    arguments = parser.parse_args()
    next(kind for kind in kinds if kind.__name__ == arguments.kind)(arguments)
    sys.exit(0)


main()
