"""Sends and receives one large message through a lone node, from Python: the local API is plain gRPC.

usage: roundtrip.py SOCKET ADDRESS BYTES

Compiles proto/schema/local.proto itself (grpcio-tools) and talks to the application socket with grpcio. Ends with 0
when the bytes that came back are the bytes that were sent.
"""

import hashlib
import os
import pathlib
import queue
import sys
import tempfile
import time

import grpc
from grpc_tools import protoc

SCHEMA = pathlib.Path(__file__).resolve().parents[2] / "proto" / "schema"
PART = 1024 * 1024
DEADLINE_SECONDS = 120


def stubs(out):
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{SCHEMA}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*arguments, str(SCHEMA / "local.proto")]) != 0:
        sys.exit("local.proto does not compile")
    sys.path.insert(0, out)
    import local_pb2
    import local_pb2_grpc

    return local_pb2, local_pb2_grpc


def payload(size):
    """Fresh random parts: repeated ones could be stored once."""
    left = size
    while left > 0:
        part = os.urandom(min(PART, left))
        left -= len(part)
        yield part


def send(pb, app, address, size, digest):
    def steps():
        yield pb.SendRequest(header=pb.SendHeader(to=[address], subject="Kiểm tra", file_name="từ Python.bin"))
        for part in payload(size):
            digest.update(part)
            yield pb.SendRequest(part=part)
        yield pb.SendRequest(end=True)

    return app.Send(steps(), timeout=DEADLINE_SECONDS).id


def receive(pb, app, inbox, digest):
    steps = queue.Queue()
    steps.put(pb.ReceiveRequest(open=pb.ReceiveOpen(inbox=inbox)))
    steps.put(pb.ReceiveRequest(credit=1))
    header, size = None, 0
    call = app.Receive(iter(steps.get, None), timeout=DEADLINE_SECONDS)
    for event in call:
        step = event.WhichOneof("step")
        if step == "message":
            header = event.message
        elif step == "part":
            size += len(event.part)
            digest.update(event.part)
        elif step == "end":
            steps.put(pb.ReceiveRequest(ack=event.end.delivery))
        elif step == "acked":
            if not event.acked.held:
                sys.exit("the lease ended before the acknowledgement")
            steps.put(None)
            return header, size
    sys.exit("the stream ended without a message")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    socket, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with tempfile.TemporaryDirectory(prefix="tram-stubs-") as out:
        pb, pb_grpc = stubs(out)
    # The server's HTTP/2 refuses a socket path as authority.
    options = [("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", 2 * PART)]
    with grpc.insecure_channel(f"unix:{os.path.abspath(socket)}", options=options) as channel:
        app = pb_grpc.AppStub(channel)
        began, sent, received = time.monotonic(), hashlib.sha256(), hashlib.sha256()
        message = send(pb, app, address, size, sent)
        middle = time.monotonic()
        header, got = receive(pb, app, address.split("@")[0], received)
        ended = time.monotonic()
        if header.id != message or header.size != size or header.file_name != "từ Python.bin":
            sys.exit(f"another message came: {header}")
        if got != size or received.digest() != sent.digest():
            sys.exit(f"other bytes came back: {got} of {size}")
        rate = size / (1 << 20)
        print(f"{size} bytes: sent at {rate / (middle - began):.0f} MiB/s, received at {rate / (ended - middle):.0f} MiB/s")


if __name__ == "__main__":
    main()
