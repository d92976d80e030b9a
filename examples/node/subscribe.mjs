// A whole subscriber in Node.js: npm ci && node subscribe.mjs [ENDPOINT [STREAM]]
import { decode } from "@msgpack/msgpack";
import { Subscriber } from "zeromq";

const [endpoint = "tcp://127.0.0.1:5555", stream = "main"] = process.argv.slice(2);
const socket = new Subscriber({ linger: 0 });
socket.connect(endpoint);
socket.subscribe(`result/${stream}`);

for await (const [topic, payload] of socket) {
  if (topic.toString() !== `result/${stream}`) continue; // a subscription is a prefix
  const result = decode(payload);
  if (result.v !== 1) throw new Error(`protocol version ${result.v}; this program knows 1`);
  const words = `${result.state} ${result.emotion}`.replace(/\p{C}/gu, "?"); // terminal escapes
  console.log(result.seq, words, result.confidence);
}
