// A worker that all tabs of a browser share: one connection for any number of them. A browser opens
// six connections to a server, so a seventh tab with a connection of its own would get none.

import { Connection } from "./connection.js";
import { Snapshot } from "./snapshot.js";

const QUIET_MS = 2500;
const tabs = new Set();
let connection = null;
let connected = "waiting";
let snapshot = new Snapshot();

function send(kind, data) {
  for (const tab of tabs) tab.postMessage({ kind, data });
}

function open() {
  snapshot = new Snapshot();
  connected = "waiting";
  connection = new Connection(
    (kind, data) => {
      snapshot.take(kind, data);
      send(kind, data);
    },
    (name) => {
      if (name !== connected) send("connection", (connected = name));
    },
  );
}

function follow(tab) {
  tabs.add(tab);
  if (connection) connection.reconnectAfter(QUIET_MS);
  else open();
  tab.postMessage({ kind: "connection", data: connected });
  if (snapshot.state) tab.postMessage({ kind: "state", data: snapshot.state });
}

function leave(tab) {
  tabs.delete(tab);
  if (tabs.size) return;
  connection?.close();
  connection = null;
}

self.onconnect = (event) => {
  const [tab] = event.ports;
  tab.onmessage = ({ data }) => (data === "follow" ? follow(tab) : leave(tab));
};
