/**
 * An application with the client in it, that shows what it knows and keeps what happened.
 *
 * Parameters of the address: `manual` starts the client only when told; `pace` runs the client's time faster, as the
 * server's runs; `no` lists what this browser lacks (locks, channel).
 */
import { createAuthClient } from "/keyturn/index.js";

const given = new URLSearchParams(location.search);
const pace = Number(given.get("pace") ?? 1);
const lacks = given.get("no") ?? "";
const environment = {
  fetch: (input, init) => fetch(input, init),
  setTimeout: (callback, milliseconds) => setTimeout(callback, milliseconds / pace),
  setInterval: (callback, milliseconds) => setInterval(callback, milliseconds / pace),
  clearInterval: (timer) => clearInterval(timer),
  performance: { now: () => performance.now() * pace },
  Date: { now: () => Date.now() * pace },
  Math,
  AbortSignal: {
    timeout: (milliseconds) => AbortSignal.timeout(milliseconds / pace),
  },
  addEventListener: (name, listener, options) => addEventListener(name, listener, options),
  document,
  location,
  // Where it is denied, it is the client that has to bear it.
  get localStorage() {
    return localStorage;
  },
  navigator: lacks.includes("locks") ? { onLine: true } : navigator,
  BroadcastChannel: lacks.includes("channel") ? undefined : BroadcastChannel,
};

const auth = createAuthClient(pace !== 1 || lacks ? { environment } : {});
/** Every event, every status with its user, every violation of the policy, all that was thrown; oldest first. */
const log = { events: [], shown: [], violations: [], paints: [], errors: [] };
Object.assign(globalThis, { auth, log });
addEventListener("error", ({ message }) => log.errors.push(message));
addEventListener("unhandledrejection", ({ reason }) => log.errors.push(String(reason)));

for (const name of ["signedIn", "signedOut", "userChanged", "refreshed", "degraded", "idleWarning", "stepUp"]) {
  auth.on(name, (detail) =>
    log.events.push([name, detail.reason ?? detail.user?.email ?? detail.source ?? detail.kind ?? null]),
  );
}
document.addEventListener("securitypolicyviolation", (event) => log.violations.push(event.violatedDirective));

const who = document.querySelector("#who");
const data = document.querySelector("#data");
let user;

const show = () => {
  const state = auth.getSnapshot();
  const email = state.user?.email ?? "";
  if (email !== user) data.textContent = "";
  user = email;
  who.textContent = email;
  Object.assign(document.body.dataset, {
    status: state.status,
    reason: state.reason ?? "",
    warning: state.warning?.kind ?? "",
  });
  note();
  if (state.status === "anonymous" && given.has("tell")) navigator.sendBeacon(`/note?${state.reason}`);
};
const note = () => log.shown.push([document.body.dataset.status, who.textContent, data.textContent]);

/** Ask the API who this is, show it beside what the client says, and tell how it went. */
const load = async () => {
  try {
    const response = await auth.fetch("/api/who");
    const text = response.ok ? (await response.json()).email : "";
    data.textContent = text;
    note();
    return response.status;
  } catch (error) {
    return error.code;
  }
};

auth.subscribe(show);
show();

// What a person has really seen since the page came back from the page cache. A page that has not would paint for nothing.
const paint = () => {
  log.paints.push(who.textContent);
  requestAnimationFrame(paint);
};
addEventListener("pageshow", ({ persisted }) => {
  document.body.dataset.persisted = String(persisted);
  if (persisted) requestAnimationFrame(paint);
});

const orders = {
  start: () => auth.start(),
  load,
};
Object.assign(globalThis, { load });
// Eight tabs do the same thing at the same time.
new BroadcastChannel("orders").onmessage = async ({ data: { order, number } }) => {
  let outcome;
  try {
    outcome = await orders[order]();
  } catch (error) {
    outcome = error.code;
  }
  document.body.dataset.done = `${number}:${outcome ?? "done"}`;
};

if (!given.has("manual")) auth.start();
document.body.dataset.ready = "true";
