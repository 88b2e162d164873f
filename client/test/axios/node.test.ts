import { Readable } from "node:stream";
import axios from "axios";
import { describe, expect, test } from "vitest";
import { attachAuth } from "../../src/axios/index.ts";
import { createAuthClient } from "../../src/index.ts";
import { behavesWith } from "./behaviours.ts";
import { makeBrowser, startServer } from "./server.ts";

behavesWith("http");
behavesWith("fetch");

describe("a body that is a stream", () => {
  const streams = {
    http: () => Readable.from(["once"]),
    fetch: () => new Blob(["once"]).stream(),
  };
  test.each(["http", "fetch"] as const)(
    "goes out once with the %s adapter, and its 401 comes back",
    async (adapter) => {
      const server = await startServer();
      const auth = createAuthClient({ environment: makeBrowser(server).environment });
      const api = axios.create({ baseURL: `${server.url}/api`, adapter });
      attachAuth(api, auth);
      await auth.getToken();
      server.expireTokens();
      await expect(api.post("/upload", streams[adapter]())).rejects.toMatchObject({ response: { status: 401 } });
      expect(server.count("POST /api/upload")).toBe(1);
      expect(server.count("POST /auth/refresh")).toBe(1);
      await server.close();
    },
  );

  test("waits for a token that lasts", async () => {
    const server = await startServer();
    server.expiresIn = 1000;
    const browser = makeBrowser(server);
    const auth = createAuthClient({ environment: browser.environment });
    const api = axios.create({ baseURL: `${server.url}/api` });
    attachAuth(api, auth);
    await auth.getToken();
    browser.pass(975_000);
    await api.post("/upload", Readable.from(["once"]));
    expect(server.last("POST /api/upload")?.headers.authorization).toBe("Bearer token-2");
    await server.close();
  });
});

describe("a base address that an interceptor takes away", () => {
  const api = "https://api.example";
  test.each([
    ["no token for the page", [api], undefined],
    ["the page's token", undefined, "Bearer token-1"],
  ])("leaves a request %s", async (_, apiOrigins, authorization) => {
    const server = await startServer();
    const auth = createAuthClient({ environment: makeBrowser(server).environment, apiOrigins });
    let sent: unknown;
    const instance = axios.create({
      baseURL: api,
      adapter: async (config) => {
        sent = config.headers.get("Authorization");
        return { data: null, status: 200, statusText: "", headers: {}, config };
      },
    });
    instance.interceptors.request.use((config) => {
      delete config.baseURL;
      return config;
    });
    attachAuth(instance, auth);
    await instance.get("/own");
    await server.close();
    expect(sent).toBe(authorization);
  });
});
