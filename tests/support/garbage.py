"""Random bytes in place of sound: garbage.py serve|push|answer|send ADDRESS PORT

serve: to each TCP client; push: to a TCP server; answer: to each datagram; send: as datagrams.
"""

import contextlib
import os
import socket
import sys
import time

how, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
BYTES = 1300
PAUSE_S = 0.02


def pour(sink: socket.socket) -> None:
    """Send until the other side is gone."""
    try:
        while True:
            sink.sendall(os.urandom(BYTES))
            time.sleep(PAUSE_S)
    except OSError:
        sink.close()


if how == "serve":
    listener = socket.create_server((address, port))
    while True:
        pour(listener.accept()[0])
elif how == "push":
    while True:
        try:
            pour(socket.create_connection((address, port)))
        except OSError:
            time.sleep(PAUSE_S)
else:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if how == "answer":
        one.bind((address, port))
        while True:
            one.sendto(os.urandom(BYTES), one.recvfrom(65536)[1])
    one.connect((address, port))
    while True:
        with contextlib.suppress(OSError):  # nothing listens
            one.send(os.urandom(BYTES))
        time.sleep(PAUSE_S)
