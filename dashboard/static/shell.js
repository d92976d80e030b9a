// The service worker: the page opens, and says that it has no connection, while its server is away.
// It keeps the files of the page and nothing else: no result, no answer of the HTTP interface.

const KEPT = "shell-1";
const SHELL = [
  "./", "alerts.js", "announcer.js", "charts.js", "days/card.js", "days/hours.js", "days/list.js", "dimensions.js",
  "dom.js",
  "guide/help.js", "guide/theme.js", "guide/tour.js", "icon.svg", "languages/de.js", "languages/en.js",
  "languages/es.js", "languages/fr.js", "languages/pl.js", "manifest.webmanifest", "mute.js", "network/api.js",
  "network/connection.js", "network/feed.js", "network/shared.js", "network/snapshot.js", "page.css", "page.js",
  "past.js", "pipeline.js", "present.js", "refusal.js", "review-link.js", "state.js", "status.js", "tabs.js", "text.js",
  "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css", "words.js",
].map((path) => new URL(path, self.location).href);

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(KEPT).then((cache) => cache.addAll(SHELL)));
});

self.addEventListener("activate", (event) => {
  const old = async () => {
    for (const name of await caches.keys()) if (name !== KEPT) await caches.delete(name);
    await self.clients.claim();
  };
  event.waitUntil(old());
});

self.addEventListener("fetch", (event) => {
  const address = event.request.url.split(/[?#]/)[0];
  if (event.request.method === "GET" && SHELL.includes(address)) event.respondWith(fetched(event.request, address));
});

/** From the server, so that an update is seen at once; from the store while it is away. */
async function fetched(request, address) {
  const cache = await caches.open(KEPT);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(address, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(address);
    if (!kept) throw error;
    return kept;
  }
}
