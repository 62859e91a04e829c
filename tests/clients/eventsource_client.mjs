// The `eventsource` package: it reconnects by itself, and says which event was its last.
import { EventSource } from "eventsource";

const [url, name, secret, last] = process.argv.slice(2);
const authorization = `Basic ${btoa(`${name}:${secret}`)}`;
const source = new EventSource(`${url}/events`, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, authorization } }),
});
for (const kind of ["ready", "gap", "issued", "fenced", "revoked", "ended"]) {
  source.addEventListener(kind, (event) => {
    console.log(JSON.stringify({ kind, data: JSON.parse(event.data) }));
    if (kind === last) source.close();
  });
}
