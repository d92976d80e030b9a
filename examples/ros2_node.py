"""Publishes results as ROS 2 messages. UNTESTED: no test of this project has run it with ROS 2.

source /opt/ros/jazzy/setup.bash
pip install speech-emotion-client
python3 examples/ros2_node.py --ros-args -p endpoint:=tcp://127.0.0.1:5555

speech_emotion/STREAM/utterance    std_msgs/String: each utterance as JSON (docs/PROTOCOL.md)
speech_emotion/STREAM/emotion      std_msgs/String: the label of each window with speech
speech_emotion/STREAM/confidence   std_msgs/Float32: its confidence, 0 to 1
speech_emotion/STREAM/fresh        std_msgs/Bool: whether results are up to date, each second
"""

import argparse
import dataclasses
import json
import sys

try:
    import rclpy
    from rclpy.node import Node
    from std_msgs.msg import Bool, Float32, String

    from speech_emotion import Freshness, Result, Results, Utterance
except ModuleNotFoundError as error:
    print(
        f"ros2_node: {error.name} is missing; install ROS 2 and source its setup.bash, and "
        "pip install ./deploy/client",
        file=sys.stderr,
    )
    sys.exit(2)

TURN_S = 0.05
FRESH_S = 1.0


class EmotionNode(Node):
    """Publishes from a timer; one subscription, one thread."""

    def __init__(self) -> None:
        super().__init__("speech_emotion")
        endpoint = self.declare_parameter("endpoint", "tcp://127.0.0.1:5555").value
        self._results = Results(endpoint)
        self._topics = {}
        self._streams = set()
        self.create_timer(TURN_S, self._take)
        self.create_timer(FRESH_S, self._fresh)

    def destroy_node(self) -> None:
        self._results.close()
        super().destroy_node()

    def _take(self) -> None:
        while (event := self._results.receive(0.0)) is not None:
            if event.replay:
                continue
            match event.message:
                case Utterance() as utterance:
                    text = json.dumps(dataclasses.asdict(utterance))
                    self._publish(String, utterance.stream, "utterance", text)
                case Result() as result:
                    self._streams.add(result.stream)
                    if result.emotion is not None and result.confidence is not None:
                        self._publish(String, result.stream, "emotion", result.emotion)
                        self._publish(Float32, result.stream, "confidence", result.confidence)

    def _fresh(self) -> None:
        for stream in self._streams:
            fresh = self._results.status(stream).state in (Freshness.FRESH, Freshness.DEGRADED)
            self._publish(Bool, stream, "fresh", fresh)

    def _publish(self, kind: type, stream: str, name: str, value: object) -> None:
        # A name in ROS has no hyphen.
        topic = f"speech_emotion/{stream.replace('-', '_')}/{name}"
        if topic not in self._topics:
            self._topics[topic] = self.create_publisher(kind, topic, 10)
        self._topics[topic].publish(kind(data=value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, help="parameters of ROS: endpoint")
    parser.parse_args()
    rclpy.init(args=sys.argv)
    node = EmotionNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
