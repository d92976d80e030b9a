// Announcements for screen readers: at most one in five seconds, and then the newest one.

import { $, setText } from "./dom.js";

const INTERVAL_MS = 5000;
let lastAnnounced = -Infinity;
let pending = "";
let timer = null;

export function announce(sentence) {
  pending = sentence;
  if (timer !== null) return;
  timer = setTimeout(() => {
    timer = null;
    lastAnnounced = performance.now();
    setText($("announcer"), pending);
  }, Math.max(0, lastAnnounced + INTERVAL_MS - performance.now()));
}
