"""A server on loopback whose connections are handled byte by byte: an upstream that misbehaves, or a proxy."""

import socket
import threading


class Listener:
    """A TCP server whose connections are each handled by `handle` on a thread of its own, until they end or it is closed."""

    def __init__(self, handle):
        self.handle = handle
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/feeds/videos.xml"
        self.connections, self.closed = [], False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.closed:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            self.handle(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True
        self.socket.close()
        for connection in self.connections:
            connection.close()


def head(connection):
    """The head of the next request, as text; empty if there is none."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        piece = connection.recv(4096)
        if not piece:
            return ""
        seen += piece
    return seen.decode("latin-1")
