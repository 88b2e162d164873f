/** Runs a subject in a tab: a number of requests at once, and how many of them failed. */
import { make } from "subject";

const subject = make();
const get = async (count) => {
  const outcomes = await Promise.allSettled(Array.from({ length: count }, () => subject.api.get("/api/who")));
  return outcomes.filter(({ status }) => status === "rejected").length;
};
Object.assign(globalThis, { subject, get });

// All tabs at the same time.
new BroadcastChannel("bench").onmessage = async ({ data }) => {
  document.body.dataset.failed = String(await get(data));
};
document.body.dataset.ready = "true";
