"""A camera at rtsp://…:8554/camera, as GStreamer's server has it. Debian's Python runs it, which has GStreamer. Says on
stdout when it is ready, as the other programs do."""

import json
import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

RAW = "video/x-raw,format=I420,width=320,height=240,framerate=15/1"
PICTURES = f"( videotestsrc is-live=true ! {RAW} ! jpegenc ! rtpjpegpay name=pay0 )"

Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(PICTURES)
factory.set_shared(True)
server = GstRtspServer.RTSPServer()
server.set_service("8554")
server.get_mount_points().add_factory("/camera", factory)
if not server.attach(None):
    sys.exit("expected to serve on 8554")


def did(what, **more):
    print(json.dumps({"did": what, "at": int(time.time() * 1000)} | more), flush=True)


def work():
    """Once a second, while somebody has a session."""
    sessions = server.get_session_pool().get_n_sessions()
    if sessions > 0:
        did("work", count=sessions)
    return True


GLib.timeout_add_seconds(1, work)
did("ready")
GLib.MainLoop().run()
