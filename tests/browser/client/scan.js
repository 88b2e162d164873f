/** Look for texts in everything a script of the page can reach without calling the client; returns where they are. */
async (secrets) => {
  const places = [];
  const seen = new Set();
  const queue = [];
  const look = (text, place) => {
    // A part is as good as the whole.
    if (secrets.some((secret) => text.includes(secret) || text.includes(secret.slice(-40)))) places.push(place);
  };
  const visit = (value, place) => {
    if (typeof value === "string") look(value, place);
    else if ((typeof value === "object" && value) || typeof value === "function") {
      if (seen.has(value)) return;
      seen.add(value);
      queue.push([value, place]);
    }
  };
  visit(globalThis, "window");
  while (queue.length && seen.size < 200_000) {
    const [object, place] = queue.shift();
    if (object === secrets) continue;
    for (const key of Reflect.ownKeys(object)) {
      try {
        const value = object[key];
        // Asking a prototype for what only its instances have is refused, by some with a promise.
        if (value instanceof Promise) value.catch(() => {});
        visit(value, `${place}.${String(key)}`);
      } catch {}
    }
    for (const pair of object instanceof Map ? object : []) visit(pair, `${place}<pair>`);
    if (object instanceof Set) for (const value of object) visit(value, `${place}<member>`);
    try {
      visit(Object.getPrototypeOf(object), `${place}.[[Prototype]]`);
    } catch {}
  }
  if (seen.size < 1000) throw new Error("the scan did not get anywhere");
  for (const name of ["localStorage", "sessionStorage"]) look(JSON.stringify({ ...globalThis[name] }), name);
  look(document.cookie, "document.cookie");
  look(document.documentElement.outerHTML, "document");
  look(JSON.stringify(history.state) ?? "", "history");
  look(JSON.stringify(performance.getEntries()), "performance");
  look(JSON.stringify(await indexedDB.databases()), "indexedDB");
  look(JSON.stringify(await caches.keys()), "caches");
  look(location.href + document.referrer + globalThis.name, "addresses");
  if ((await indexedDB.databases()).length || (await caches.keys()).length)
    places.push("a database that holds who knows what");
  return places;
};
