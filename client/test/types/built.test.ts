/** What is built, not what it is built from. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "tsdown";
import ts from "typescript";
import { afterAll, beforeAll, expect, test } from "vitest";
import config from "../../tsdown.config.ts";

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "keyturn-built-"));
  await build({ outDir: folder, logLevel: "error" });
}, 120_000);

afterAll(() => rm(folder, { recursive: true }));

const files = async (ending: string) =>
  (await readdir(folder, { recursive: true })).filter((name) => name.endsWith(ending));

test("every JavaScript file of the React parts begins with use client, once; no other file says it", async () => {
  const scripts = await files(".js");
  const ours = (name: string) => name.startsWith("react") || name === join("next", "client.js");
  expect(scripts.filter(ours)).toEqual(expect.arrayContaining([join("react", "index.js"), join("next", "client.js")]));
  for (const name of scripts) {
    const code = await readFile(join(folder, name), "utf8");
    expect([name, code.startsWith('"use client";\n')]).toEqual([name, ours(name)]);
    expect([name, code.split('"use client"').length - 1]).toEqual([name, ours(name) ? 1 : 0]);
    // React in a shared file would be rendered on the server as if it were for there.
    if (/from "react(\/.*)?"/.test(code) && name !== join("next", "server.js"))
      expect([name, ours(name)]).toEqual([name, true]);
  }
});

test("declarations hold no statement", async () => {
  for (const name of await files(".d.ts"))
    expect(await readFile(join(folder, name), "utf8")).not.toContain("use client");
});

/** What a file and the files it shares with others import. */
const imports = async (name: string): Promise<Set<string>> => {
  const code = await readFile(join(folder, name), "utf8");
  const from = [...code.matchAll(/^import (?:.* from )?"([^"]+)";$/gm)].map(([, source = ""]) => source);
  const shared = await Promise.all(
    from.filter((one) => one.startsWith(".")).map((one) => imports(join(name, "..", one))),
  );
  return new Set([...from.filter((one) => !one.startsWith(".")), ...shared.flatMap((one) => [...one])]);
};

test("the bindings import React, axios and Next.js, and bundle none of them", async () => {
  const react = ["react", "react/jsx-runtime"];
  expect(await imports("index.js")).toEqual(new Set());
  expect(await imports("react/index.js")).toEqual(new Set(react));
  expect(await imports("axios/index.js")).toEqual(new Set(["axios"]));
  // Nothing of Next.js: next.config imports it, too.
  expect(await imports("next/index.js")).toEqual(new Set(react));
  expect(await imports("next/server.js")).toEqual(new Set(["next/headers", "next/navigation", "react"]));
});

test("what is built is for the browsers that the README names", async () => {
  const text = await readFile(new URL("../../README.md", import.meta.url), "utf8");
  const [, chrome, firefox, safari] = /^Chrome and Edge (\d+), Firefox (\d+) and Safari (\d+)/m.exec(text) ?? [];
  expect(config).toMatchObject({ target: [`chrome${chrome}`, `firefox${firefox}`, `safari${safari}`] });
});

test("the server's part reaches a bundler by `react-server` alone, and anything else throws", async () => {
  const { exports } = JSON.parse(await readFile(new URL("../../package.json", import.meta.url), "utf8"));
  expect(exports["./next/server"]).toEqual({
    types: "./dist/next/server.d.ts",
    "react-server": "./dist/next/server.js",
    default: "./dist/next/server-components-only.js",
  });
  const elsewhere = join(folder, "next/server-components-only.js");
  await expect(import(/* @vite-ignore */ elsewhere)).rejects.toThrow("is for Server Components");
});

test("what is built names its whole surface", async () => {
  const surface = async (name: string) => Object.keys(await import(/* @vite-ignore */ join(folder, name))).sort();
  const exported = async (name: string) =>
    /export \{ (.*) \};/
      .exec(await readFile(join(folder, name), "utf8"))?.[1]
      ?.split(", ")
      .sort();
  expect(await exported("react/index.js")).toEqual([
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
  expect(await exported("next/index.js")).toEqual([
    "Anonymous",
    "AuthProvider",
    "authGate",
    "safeReturnTo",
    "withAuthRewrites",
  ]);
  expect(await exported("next/server.js")).toEqual([
    "AuthError",
    "getSession",
    "requireUser",
    "safeReturnTo",
    "serverFetch",
  ]);
  expect(await surface("index.js")).toEqual(["AuthError", "createAuthClient"]);
});

/** What needs no words: React's, and the browser's own names, or one per kind of a union that says it itself. */
const plain = /\.children$|^(Channel|Environment|Locks)\./;

/** The outermost statement that a declaration stands in. */
const statement = (node: ts.Node): ts.Node => (ts.isSourceFile(node.parent) ? node : statement(node.parent));

test("an editor says what each exported name is, and each member of it", () => {
  const entries = ["index", "react/index", "axios/index", "next/index", "next/server"];
  const program = ts.createProgram(
    entries.map((name) => join(folder, `${name}.d.ts`)),
    { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler },
  );
  const checker = program.getTypeChecker();
  // What is made from the contract says what the server's own description does.
  const isOurs = (member: ts.Symbol) =>
    member.declarations?.some(
      (one) =>
        one.getSourceFile().fileName.startsWith(folder) &&
        !/^interface (paths|components)/.test(statement(one).getText()),
    );
  const silent: string[] = [];
  const judge = (name: string, symbol: ts.Symbol) => {
    if (!symbol.getDocumentationComment(checker).length && !plain.test(name)) silent.push(name);
  };
  for (const name of program.getRootFileNames()) {
    const file = checker.getSymbolAtLocation(program.getSourceFile(name) as ts.SourceFile) as ts.Symbol;
    for (const exported of checker.getExportsOfModule(file)) {
      const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
      judge(exported.name, symbol);
      if (!(symbol.flags & ts.SymbolFlags.Type)) continue;
      const type = checker.getDeclaredTypeOfSymbol(symbol);
      if (!type.isUnion())
        for (const member of type.getProperties()) if (isOurs(member)) judge(`${exported.name}.${member.name}`, member);
    }
  }
  expect(silent).toEqual([]);
}, 60_000);
