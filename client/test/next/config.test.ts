import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { withAuthRewrites } from "../../src/next/config.ts";

const own = { source: "/blog/:path*", destination: "https://blog.example/:path*" };
const ours = (url: string, base = "/auth") => [
  { source: `${base}/:path*`, destination: `${url}${base}/:path*`, basePath: false },
  { source: "/.well-known/jwks.json", destination: `${url}/.well-known/jwks.json`, basePath: false },
];
const rewritesOf = (config: object) => (config as { rewrites: () => Promise<unknown> }).rewrites();

beforeEach(() => vi.stubEnv("KEYTURN_URL", "http://keyturn:8000"));
afterEach(() => vi.unstubAllEnvs());

test("an application without rewrites gets ours, and keeps its other settings", async () => {
  const config = withAuthRewrites({ reactStrictMode: true });
  expect(config.reactStrictMode).toBe(true);
  expect(await rewritesOf(config)).toEqual({ beforeFiles: ours("http://keyturn:8000") });
});

test("a list of its own comes after the files, as it did", async () => {
  const config = withAuthRewrites({ rewrites: async () => [own] });
  expect(await rewritesOf(config)).toEqual({ beforeFiles: ours("http://keyturn:8000"), afterFiles: [own] });
});

test("sorted ones stay where they were, and nothing goes before ours", async () => {
  const config = withAuthRewrites({ rewrites: () => ({ beforeFiles: [own], afterFiles: [own], fallback: [own] }) });
  const expected = { beforeFiles: [...ours("http://keyturn:8000"), own], afterFiles: [own], fallback: [own] };
  expect(await rewritesOf(config)).toEqual(expected);
});

test("options go before the environment; only the origin of the address counts", async () => {
  const config = withAuthRewrites({}, { url: "https://auth.internal/x", basePath: "/api/auth" });
  expect(await rewritesOf(config)).toEqual({ beforeFiles: ours("https://auth.internal", "/api/auth") });
  vi.stubEnv("KEYTURN_BASE_PATH", "/login");
  expect(await rewritesOf(withAuthRewrites({}))).toEqual({ beforeFiles: ours("http://keyturn:8000", "/login") });
});

test("without an address the build says what is missing", async () => {
  vi.stubEnv("KEYTURN_URL", "");
  await expect(rewritesOf(withAuthRewrites({}))).rejects.toThrow("KEYTURN_URL is not set");
});

test("a trailing slash for every address is refused, unless nothing is redirected to it", async () => {
  const refused = rewritesOf(withAuthRewrites({ trailingSlash: true }));
  await expect(refused).rejects.toThrow("set skipTrailingSlashRedirect, too");
  const config = withAuthRewrites({ trailingSlash: true, skipTrailingSlashRedirect: true });
  expect(await rewritesOf(config)).toEqual({ beforeFiles: ours("http://keyturn:8000") });
});
