"""An RTSP server with one audio stream, run with the system's Python: GStreamer has no wheel.

usage: rtsp_server.py ADDRESS PORT RAW RATE CHANNELS [USER PASSWORD]

It plays a file of signed 16-bit samples again and again at rtsp://ADDRESS:PORT/sound, to all
clients the same moment, uncompressed (L16).
"""

import sys

import gi  # type: ignore[import-not-found]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: E402

address, port, raw, rate, channels, *login = sys.argv[1:]
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address(address)
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory()
frame_bytes = 2 * int(channels)
factory.set_launch(
    f"( multifilesrc location={raw} loop=true blocksize={int(rate) // 50 * frame_bytes} "
    f"! rawaudioparse use-sink-caps=false format=pcm pcm-format=s16le sample-rate={rate} "
    f"num-channels={channels} ! audioconvert ! rtpL16pay name=pay0 pt=97 max-ptime=20000000 )"
)
factory.set_shared(True)
if login:
    user, password = login
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)
server.get_mount_points().add_factory("/sound", factory)
if not server.attach(None):
    sys.exit(f"port {port} is in use")
print("ready", flush=True)
GLib.MainLoop().run()
