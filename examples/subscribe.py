"""A whole subscriber in plain pyzmq: python examples/subscribe.py [ENDPOINT [STREAM]]"""

import sys

try:
    import msgpack
    import zmq
except ModuleNotFoundError as error:
    print(f"subscribe: {error.name} is missing; pip install pyzmq msgpack", file=sys.stderr)
    sys.exit(2)

if {"-h", "--help"} & {*sys.argv}:
    print(f"usage: {__doc__}")
    sys.exit()
endpoint, stream = sys.argv[1:] + ["tcp://127.0.0.1:5555", "main"][len(sys.argv) - 1 :]
socket = zmq.Context().socket(zmq.SUB)
socket.connect(endpoint)
socket.subscribe(f"result/{stream}")
while True:
    topic, payload = socket.recv_multipart()
    if topic != f"result/{stream}".encode():
        continue  # a subscription is a prefix: main gets main-2 as well
    result = msgpack.unpackb(payload)
    if result["v"] != 1:
        sys.exit(f"protocol version {result['v']}; this program knows 1")
    words = f"{result['state']} {result['emotion']}".encode("unicode_escape").decode()
    print(result["seq"], words, result["confidence"], flush=True)
