"""A TCP relay that can be cut, as the cable to a server of sound."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class Cable:
    """A TCP relay to a port: it can be cut without a word, garbled, or delayed.

    Attributes:
        cut: relay nothing; connections are accepted and stay open.
        garbage: relay zeros in place of what the server sends.
        jitter_s: longest random delay of what the server sends.
        target: port of the server.
        port: where a client connects.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.cut = False
        self.garbage = False
        self.jitter_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        """Relay nothing from now on; connections stay open."""
        self.cut = True

    def plug(self) -> None:
        """Relay again."""
        self.cut = False

    def drop(self) -> None:
        """Close every connection."""
        with self._lock:
            self._close(*self._open)
            self._open.clear()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._close(self._listener)
        self.drop()
        self.plug()  # ends the threads that wait for it

    def _keep(self, one: socket.socket) -> bool:
        """Keep a connection until `drop`; False and its end where the cable is closed."""
        with self._lock:
            if self._closed:
                one.close()
            else:
                self._open.append(one)
            return not self._closed

    def _close(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._keep(client):
                    threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        while self.cut:  # the connection was accepted, and nothing follows
            time.sleep(0.01)
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        if not self._keep(server):
            return
        for pair in ((client, server, False), (server, client, True)):
            threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        chance = random.Random(0)
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                if self.jitter_s and back:
                    time.sleep(chance.uniform(0.0, self.jitter_s))
                while self.cut:
                    time.sleep(0.01)
                sink.sendall(bytes(len(content)) if back and self.garbage else content)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
