"""A proxy that stands between clients and a broker and keeps some of the requests, as seeds for the fuzzers.

Of each API, version and client the shortest and the longest request are kept, as `KEY-VERSION-CLIENT-N`: the frame without
its length. What is longer than the fuzzers' inputs is not kept.
"""

import socket
import socketserver
import struct
import threading
from contextlib import contextmanager

REQUEST_BYTES_MAX = 4096  # as -max_len in fuzz/run
HOST = b"@" + socket.gethostname().encode()  # as kafka-go calls itself; seeds name no machine


class Recorder:
    """Listens at `address`, which the broker must advertise, for the broker at `broker`."""

    def __init__(self, address, broker):
        self.kept = {}
        self.lock = threading.Lock()
        recorder = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.create_connection(broker) as upstream:
                    threading.Thread(target=pump, args=(upstream, self.request), daemon=True).start()
                    requests = self.request.makefile("rb")
                    try:
                        while len(length := requests.read(4)) == 4:
                            frame = requests.read(struct.unpack(">i", length)[0])
                            upstream.sendall(length + frame)
                            recorder.see(frame)
                    except OSError:
                        pass  # one side is gone, and so is the connection

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True
            request_queue_size = 128

        threading.Thread(target=Server(address, Connection).serve_forever, daemon=True).start()

    def see(self, frame):
        if not 4 <= len(frame) <= REQUEST_BYTES_MAX:
            return
        kind = struct.unpack_from(">hh", frame)
        frame = frame.replace(HOST, b"@" + b"h" * (len(HOST) - 1))
        with self.lock:
            frames = [*self.kept.get(kind, []), frame]
            self.kept[kind] = [min(frames, key=len), max(frames, key=len)]

    @contextmanager
    def keeping(self, client, folder):
        """Whose requests come meanwhile, and where they are kept."""
        self.kept = {}
        yield
        folder.mkdir(parents=True, exist_ok=True)
        with self.lock:
            for (key, version), frames in self.kept.items():
                for number, frame in enumerate(dict.fromkeys(frames), 1):
                    (folder / f"{key}-{version}-{client}-{number}").write_bytes(frame)


def pump(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
