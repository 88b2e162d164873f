/** What `attachAuth` promises, for one adapter of axios: each of them aborts, sends bodies and fails in its own way. */
import axios, { type AxiosAdapter, type AxiosInstance } from "axios";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { attachAuth } from "../../src/axios/index.ts";
import { type AuthClient, AuthError, createAuthClient } from "../../src/index.ts";
import { eventually } from "../eventually.ts";
import { type Browser, makeBrowser, type Server, startServer } from "./server.ts";

const REFRESH = "POST /auth/refresh";

/** Run all of it with the adapter of this name. */
export const behavesWith = (adapter: "xhr" | "http" | "fetch") =>
  describe(`attachAuth with the ${adapter} adapter`, () => {
    let server: Server;
    let browser: Browser;
    let auth: AuthClient;
    let api: AxiosInstance;
    let detach: () => void;

    beforeEach(async () => {
      server = await startServer();
      browser = makeBrowser(server);
      auth = createAuthClient({ environment: browser.environment });
      api = axios.create({ baseURL: `${server.url}/api`, adapter });
      detach = attachAuth(api, auth);
    });

    afterEach(async () => {
      detach();
      auth.stop();
      await server.close();
    });

    const failure = async (promise: Promise<unknown>) => {
      const error = await promise.then(
        () => null,
        (reason: unknown) => reason,
      );
      if (!axios.isAxiosError(error)) throw new Error("That was to fail as axios fails", { cause: error });
      return error;
    };

    test("the first request gets a token", async () => {
      const { data } = await api.get("/profile");
      expect(data).toEqual({ user: "ada" });
      expect(server.last("GET /api/profile")?.headers.authorization).toBe("Bearer token-1");
    });

    test("50 parallel 401s: one refresh, each sent once more, all succeed", async () => {
      await auth.getToken();
      server.expireTokens();
      const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => api.get(`/item-${n}`)));
      expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200));
      expect(server.count(REFRESH)).toBe(2);
      expect(server.hits.filter(({ route }) => route.startsWith("GET /api/item-"))).toHaveLength(100);
    });

    test("50 parallel requests before anything is known: one refresh, each sent once", async () => {
      await Promise.all(Array.from({ length: 50 }, (_, n) => api.get(`/item-${n}`)));
      expect(server.count(REFRESH)).toBe(1);
      expect(server.hits).toHaveLength(51);
    });

    test("a JSON body goes out the second time as the first", async () => {
      await auth.getToken();
      server.expireTokens();
      await api.post("/save", { text: 'a "quoted" word', list: [1, null] });
      const [first, second] = server.hits.filter(({ route }) => route === "POST /api/save");
      expect(second?.body.equals(first?.body ?? Buffer.alloc(0))).toBe(true);
      expect(second?.headers["content-type"]).toBe(first?.headers["content-type"]);
      expect(JSON.parse(second?.body.toString() ?? "")).toEqual({ text: 'a "quoted" word', list: [1, null] });
    });

    test("a FormData body goes out the second time with its file and a boundary that fits", async () => {
      await auth.getToken();
      server.expireTokens();
      const form = new FormData();
      form.append("title", "Notes");
      form.append("file", new Blob(["some bytes"], { type: "text/plain" }), "notes.txt");
      // Outside a browser the fetch adapter has to be told what FormData is.
      await api.post(
        "/upload",
        form,
        adapter === "fetch" ? { headers: { "Content-Type": "multipart/form-data" } } : {},
      );
      const sent = server.hits.filter(({ route }) => route === "POST /api/upload");
      expect(sent).toHaveLength(2);
      for (const { headers, body } of sent) {
        const boundary = /^multipart\/form-data; ?boundary=(.+)$/.exec(headers["content-type"] ?? "")?.[1];
        expect(boundary).toBeTruthy();
        expect(body.toString()).toContain(`--${boundary}`);
        expect(body.toString()).toContain("some bytes");
        expect(body.toString()).toContain('filename="notes.txt"');
      }
    });

    test("an API that always says 401: two hits, then the error as axios gives it, and the session stays", async () => {
      const error = await failure(api.get("/never"));
      expect(server.count("GET /api/never")).toBe(2);
      expect(error.response?.status).toBe(401);
      expect(error.response?.data).toEqual({ detail: "never" });
      expect(error.code).toBe(axios.AxiosError.ERR_BAD_REQUEST);
      expect(error.message).toBe("Request failed with status code 401");
      expect(auth.getSnapshot().status).toBe("authenticated");
    });

    test("an API that always says 401 and is asked again does not have the session refreshed each time", async () => {
      for (let n = 0; n < 5; n++) await failure(api.get("/never"));
      expect(server.count(REFRESH)).toBe(2);
      expect(server.count("GET /api/never")).toBe(6);
    });

    test("an API that always says 401 takes no refresh from another API", async () => {
      const other = await startServer();
      const both = createAuthClient({ environment: browser.environment, apiOrigins: [server.url, other.url] });
      attachAuth(api, both);
      for (const { url } of [server, other, server, other]) await failure(api.get(`${url}/api/never`));
      expect(server.count(REFRESH)).toBe(3);
      expect(server.count("GET /api/never")).toBe(3);
      expect(other.count("GET /api/never")).toBe(3);
      await other.close();
    });

    test("a caller who takes 401 for an answer gets the second one", async () => {
      const response = await api.get("/never", { validateStatus: () => true });
      expect(response.status).toBe(401);
      expect(server.count("GET /api/never")).toBe(2);
    });

    test("403 starts no refresh", async () => {
      await auth.getToken();
      const error = await failure(api.get("/forbidden"));
      expect(error.response?.status).toBe(403);
      expect(server.count(REFRESH)).toBe(1);
      expect(server.count("GET /api/forbidden")).toBe(1);
    });

    test("an API that wants a stronger login is told of as stepUp and starts no refresh", async () => {
      const told = vi.fn();
      auth.on("stepUp", told);
      const error = await failure(api.get("/step-up"));
      expect(error.response?.status).toBe(401);
      expect(told).toHaveBeenCalledExactlyOnceWith({
        challenge: expect.stringContaining("insufficient_user_authentication"),
      });
      expect(server.count(REFRESH)).toBe(1);
    });

    test("an API that wants a stronger login is told of, too, while its other 401s start no refresh", async () => {
      const told = vi.fn();
      auth.on("stepUp", told);
      await failure(api.get("/never"));
      await failure(api.get("/step-up"));
      expect(told).toHaveBeenCalledOnce();
    });

    test("an API that wants a stronger login once it has a token that it takes is told of, and takes no refresh from others", async () => {
      const told = vi.fn();
      auth.on("stepUp", told);
      await api.get("/profile");
      server.expireTokens();
      const error = await failure(api.get("/late-step-up"));
      expect(error.response?.status).toBe(401);
      expect([server.count("GET /api/late-step-up"), told.mock.calls.length]).toEqual([2, 1]);
      server.expireTokens();
      expect((await api.get("/profile")).status).toBe(200);
      expect(server.count(REFRESH)).toBe(3);
    });

    test("the caller's own Authorization is left alone, and its 401 is theirs", async () => {
      const error = await failure(api.get("/profile", { headers: { authorization: "Basic abc" } }));
      expect(error.response?.status).toBe(401);
      expect(server.hits.map(({ headers }) => headers.authorization)).toEqual(["Basic abc"]);
    });

    test("the caller's own user name and password are left alone", async () => {
      await failure(api.get("/profile", { auth: { username: "u", password: "p" } }));
      expect(server.hits.map(({ headers }) => headers.authorization)).toEqual([`Basic ${btoa("u:p")}`]);
    });

    test("an origin that is not on the list gets no token", async () => {
      const other = await startServer();
      await api.get(`${other.url}/api/open`);
      expect(other.last("GET /api/open")?.headers.authorization).toBeUndefined();
      expect(server.hits).toEqual([]);
      await other.close();
    });

    test("the refresh endpoint's own 401 is passed on and starts no refresh", async () => {
      server.identity = null;
      const error = await failure(api.post(`${server.url}/auth/refresh`, {}));
      expect(error.response?.status).toBe(401);
      expect(server.count(REFRESH)).toBe(1);
    });

    test("a wrong password at login is passed on and starts no refresh", async () => {
      await auth.getToken();
      const error = await failure(api.post(`${server.url}/auth/login`, { email: "a@b", password: "wrong" }));
      expect(error.response?.data.code).toBe("invalid_credentials");
      expect(server.count(REFRESH)).toBe(1);
    });

    test("nobody is signed in: the request goes out without a token and its 401 comes back", async () => {
      server.identity = null;
      const error = await failure(api.get("/profile"));
      expect(error.response?.status).toBe(401);
      expect(server.last("GET /api/profile")?.headers.authorization).toBeUndefined();
      expect(server.count("GET /api/profile")).toBe(1);
    });

    test("the session has ended: after the 401 one refresh, then the 401", async () => {
      await auth.getToken();
      server.expireTokens();
      server.identity = null;
      const error = await failure(api.get("/profile"));
      expect(error.response?.status).toBe(401);
      expect(server.count("GET /api/profile")).toBe(1);
      expect(server.count(REFRESH)).toBe(2);
      expect(auth.getSnapshot().status).toBe("anonymous");
    });

    test("the server of sessions is down after a 401: a network error with the cause, and the session stays", async () => {
      await auth.getToken();
      server.expireTokens();
      server.breakDown(REFRESH);
      const error = await failure(api.get("/profile"));
      expect(error.code).toBe(axios.AxiosError.ERR_NETWORK);
      expect(error.response).toBeUndefined();
      expect(error.cause).toBeInstanceOf(AuthError);
      expect(auth.getSnapshot().status).toBe("degraded");
    });

    test("a network error on POST: never sent again", async () => {
      await auth.getToken();
      server.breakDown("POST /api/save");
      const error = await failure(api.post("/save", {}));
      expect(error.response).toBeUndefined();
      expect(server.count("POST /api/save")).toBe(1);
      expect(server.count(REFRESH)).toBe(1);
    });

    test("aborted while the token is refreshed: a CanceledError, and the request never goes out", async () => {
      const release = server.hold(REFRESH);
      const controller = new AbortController();
      const asked = failure(api.get("/profile", { signal: controller.signal }));
      await eventually(() => expect(server.count(REFRESH)).toBe(1));
      controller.abort();
      expect(axios.isCancel(await asked)).toBe(true);
      release();
      await auth.getToken();
      expect(server.count("GET /api/profile")).toBe(0);
    });

    test("aborted between the 401 and the second try: a CanceledError, and no second try", async () => {
      await auth.getToken();
      server.expireTokens();
      const release = server.hold(REFRESH);
      const controller = new AbortController();
      const asked = failure(api.get("/profile", { signal: controller.signal }));
      await eventually(() => expect(server.count(REFRESH)).toBe(2));
      controller.abort();
      expect(axios.isCancel(await asked)).toBe(true);
      release();
      await auth.getToken();
      expect(server.count("GET /api/profile")).toBe(1);
    });

    test("aborted under way: a CanceledError, and the connection is given up", async () => {
      await auth.getToken();
      const release = server.hold("GET /api/profile");
      const controller = new AbortController();
      const asked = failure(api.get("/profile", { signal: controller.signal }));
      await eventually(() => expect(server.count("GET /api/profile")).toBe(1));
      controller.abort();
      expect(axios.isCancel(await asked)).toBe(true);
      await eventually(() => expect(server.last("GET /api/profile")?.aborted()).toBe(true));
      release();
      expect(server.count("GET /api/profile")).toBe(1);
    });

    test("cancelled by the older CancelToken while the token is refreshed: the request never goes out", async () => {
      const release = server.hold(REFRESH);
      const source = axios.CancelToken.source();
      const asked = failure(api.get("/profile", { cancelToken: source.token }));
      await eventually(() => expect(server.count(REFRESH)).toBe(1));
      source.cancel();
      release();
      expect(axios.isCancel(await asked)).toBe(true);
      expect(server.count("GET /api/profile")).toBe(0);
    });

    test("another user signs in while an answer is under way: it is discarded", async () => {
      await auth.getToken();
      const release = server.hold("GET /api/profile");
      const asked = failure(api.get("/profile"));
      await eventually(() => expect(server.count("GET /api/profile")).toBe(1));
      await auth.login({ email: "bob@example.org", password: "a long enough one" });
      release();
      const error = await asked;
      expect(axios.isCancel(error)).toBe(true);
      expect(error.response).toBeUndefined();
    });

    test("the page comes back from the page cache, and it is not known yet for whom: the answer is discarded", async () => {
      auth.start();
      await auth.getToken();
      const release = server.hold("GET /api/profile");
      const asked = failure(api.get("/profile"));
      await eventually(() => expect(server.count("GET /api/profile")).toBe(1));
      browser.happen("pagehide", { persisted: true });
      release();
      expect(axios.isCancel(await asked)).toBe(true);
    });

    test("another user signs in while a request waits for a token: it never goes out", async () => {
      await auth.getToken();
      browser.pass(700_000);
      const release = server.hold("POST /auth/login");
      const login = auth.login({ email: "bob@example.org", password: "a long enough one" });
      await eventually(() => expect(server.count("POST /auth/login")).toBe(1));
      const asked = failure(api.post("/save", { of: "ada" }));
      release();
      expect(await login).toMatchObject({ name: "bob" });
      expect(axios.isCancel(await asked)).toBe(true);
      expect(server.count("POST /api/save")).toBe(0);
    });

    test("the session ends while a request waits for a token: it does not go out as nobody's", async () => {
      await auth.getToken();
      browser.pass(700_000);
      server.identity = null;
      expect(axios.isCancel(await failure(api.post("/save", { of: "ada" })))).toBe(true);
      expect(server.count("POST /api/save")).toBe(0);
    });

    test("the instance's own interceptors see a request once and an answer once", async () => {
      const seen: string[] = [];
      api.interceptors.request.use((config) => {
        seen.push("request");
        config.headers.set("X-Once", `${seen.length}`);
        return config;
      });
      api.interceptors.response.use((response) => {
        seen.push(`response ${response.status}`);
        return response;
      });
      await auth.getToken();
      server.expireTokens();
      await api.get("/profile");
      expect(seen).toEqual(["request", "response 200"]);
      const sent = server.hits.filter(({ route }) => route === "GET /api/profile");
      expect(sent.map(({ headers }) => headers["x-once"])).toEqual(["1", "1"]);
    });

    test("an interceptor that was there before and is asynchronous may set the caller's own Authorization", async () => {
      const other = axios.create({ baseURL: `${server.url}/api`, adapter });
      other.interceptors.request.use(async (config) => {
        config.headers.set("Authorization", "Bearer own");
        return config;
      });
      const undo = attachAuth(other, auth);
      await failure(other.get("/profile"));
      expect(server.hits.map(({ headers }) => headers.authorization)).toEqual(["Bearer own"]);
      undo();
    });

    test("the config that an error or an answer carries is the caller's: no token, the same adapter", async () => {
      const error = await failure(api.get("/never"));
      expect(error.config?.adapter).toBe(adapter);
      const response = await api.get("/profile");
      for (const config of [error.config, error.response?.config, response.config])
        expect(JSON.stringify([config?.headers, config])).not.toContain("token-");
    });

    test("a request that is sent again from the error's config gets a token of its own", async () => {
      await auth.getToken();
      const repair = server.breakDown("GET /api/profile");
      const error = await failure(api.get("/profile"));
      repair();
      server.expireTokens();
      const { status } = await api.request(error.config ?? {});
      expect(status).toBe(200);
      expect(server.last("GET /api/profile")?.headers.authorization).toBe("Bearer token-2");
    });

    test("attached twice: still one retry", async () => {
      const again = attachAuth(api, auth);
      await failure(api.get("/never"));
      expect(server.count("GET /api/never")).toBe(2);
      detach();
      await api.get("/profile");
      again();
      const error = await failure(api.get("/profile"));
      expect(error.response?.status).toBe(401);
    });

    test("detached: nothing is added, nothing is sent twice, no interceptor is left", async () => {
      await auth.getToken();
      detach();
      const error = await failure(api.get("/profile"));
      expect(error.response?.status).toBe(401);
      expect(server.count("GET /api/profile")).toBe(1);
      expect(server.last("GET /api/profile")?.headers.authorization).toBeUndefined();
      let left = 0;
      // `forEach` visits what is not ejected; axios does not type it.
      (api.interceptors.request as unknown as { forEach: (visit: () => void) => void }).forEach(() => {
        left++;
      });
      expect(left).toBe(0);
      expect(api.defaults.adapter).toBe(adapter);
    });

    test("detached while a request is under way: its 401 starts no refresh", async () => {
      await auth.getToken();
      server.expireTokens();
      const release = server.hold("GET /api/profile");
      const asked = failure(api.get("/profile"));
      await eventually(() => expect(server.count("GET /api/profile")).toBe(1));
      detach();
      release();
      expect((await asked).response?.status).toBe(401);
      expect(server.count(REFRESH)).toBe(1);
    });

    test("attached to a second client: the first one's token is not used any more", async () => {
      const second = createAuthClient({ environment: makeBrowser(server, { hint: false }).environment });
      await api.get("/profile");
      attachAuth(api, second);
      await failure(api.get("/profile"));
      expect(server.last("GET /api/profile")?.headers.authorization).toBeUndefined();
      attachAuth(api, auth)();
    });

    test("an adapter of the instance's own is used", async () => {
      const own = vi.fn(axios.getAdapter(adapter) satisfies AxiosAdapter);
      const other = axios.create({ baseURL: `${server.url}/api`, adapter: own });
      const undo = attachAuth(other, auth);
      await other.get("/profile");
      expect(own).toHaveBeenCalledOnce();
      undo();
    });
  });
