/** What is built, not what it is built from. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "tsdown";
import { afterAll, beforeAll, expect, test } from "vitest";

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "keyturn-built-"));
  await build({ outDir: folder, logLevel: "error" });
}, 120_000);

afterAll(() => rm(folder, { recursive: true }));

const files = async (ending: string) =>
  (await readdir(folder, { recursive: true })).filter((name) => name.endsWith(ending));

test("every JavaScript file of the React binding begins with use client, once; no other file says it", async () => {
  const scripts = await files(".js");
  expect(scripts).toContain(join("react", "index.js"));
  for (const name of scripts) {
    const code = await readFile(join(folder, name), "utf8");
    expect([name, code.startsWith('"use client";\n')]).toEqual([name, name.startsWith("react")]);
    expect([name, code.split("use client").length - 1]).toEqual([name, name.startsWith("react") ? 1 : 0]);
  }
});

test("declarations hold no statement", async () => {
  for (const name of await files(".d.ts"))
    expect(await readFile(join(folder, name), "utf8")).not.toContain("use client");
});

test("the bindings import React and axios, and bundle neither", async () => {
  const imports = async (name: string) =>
    [...(await readFile(join(folder, name), "utf8")).matchAll(/^import .* from "([^"]+)";$/gm)].map(([, from]) => from);
  expect(new Set(await imports("react/index.js"))).toEqual(new Set(["react", "react/jsx-runtime"]));
  expect(await imports("axios/index.js")).toEqual(["axios"]);
});

test("what is built names its whole surface", async () => {
  const surface = async (name: string) => Object.keys(await import(/* @vite-ignore */ join(folder, name))).sort();
  const react = await readFile(join(folder, "react/index.js"), "utf8");
  expect(/export \{ (.*) \};/.exec(react)?.[1]?.split(", ").sort()).toEqual([
    "AuthLoading",
    "AuthProvider",
    "RequireAuth",
    "SignedIn",
    "SignedOut",
    "useAuth",
    "useIdle",
    "useSession",
    "useUser",
  ]);
  expect(await surface("index.js")).toEqual(["AuthError", "createAuthClient"]);
});
