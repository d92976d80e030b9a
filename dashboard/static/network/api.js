// Requests to the HTTP interface of the page's server (docs/API_HTTP.md).

const BASE = new URL("../api/v1/", import.meta.url);

/** The address of an operation; parameters that are null are left out. */
export function address(path, parameters = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(parameters)) if (value !== null) url.searchParams.set(name, value);
  return url.href;
}

/** The response of the server; null where it does not answer. */
export const ask = (path, parameters, options) => fetch(address(path, parameters), options).catch(() => null);
