"""A TCP relay on loopback, between a client and a server that a test wants to separate."""

import socket
import threading
import time


class Relay:
    """An address that stays while what is behind it changes: for new connections; those there are stay where they are.

    `source` is the address of the loopback network that the server sees.
    """

    def __init__(self, port, source="127.0.0.1"):
        self.target, self.source = port, source
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.sockets = []
        # Of what comes from the target, in seconds.
        self.delay = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target), source_address=(self.source, 0))
            except OSError:
                near.close()
                continue
            self.sockets += near, far
            for one in near, far:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in (near, far), (far, near):
                threading.Thread(target=self.pump, args=(source, sink, sink is near), daemon=True).start()

    def pump(self, source, sink, delayed):
        try:
            while data := source.recv(1 << 16):
                time.sleep(self.delay if delayed else 0)
                sink.sendall(data)
        except OSError:
            pass
        hang_up(source, sink)

    def turn_to(self, port):
        """Leads there from now on, also for clients that are connected."""
        self.target = port
        self.drop_connections()

    def drop_connections(self):
        hang_up(*self.sockets)
        self.sockets.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.drop_connections()


def hang_up(*sockets):
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It was closed before.
            pass
