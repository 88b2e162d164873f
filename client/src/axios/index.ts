/**
 * The axios binding of Keyturn: `attachAuth`. This is its whole public surface.
 *
 * Owns: how a request of axios gets its token and its one retry. Must not hold: how a token is got (core).
 *
 * It works as an adapter, below interceptors and transformations: each of them sees a request once and an answer once,
 * however often it was sent. A body is transformed once, so the second try sends the same bytes.
 */
import axios, {
  type AxiosAdapter,
  type AxiosInstance,
  type AxiosResponse,
  type InternalAxiosRequestConfig,
} from "axios";
import type { AuthClient } from "../core/types.ts";

// Both as in `limits.ts`. Why not from there: the bundle would get a file more, and the core would outgrow its size.
const CALM = 5_000;
const STREAM_SPARE = 30;

type Config = InternalAxiosRequestConfig;
type Outcome = { readonly response?: AxiosResponse | undefined; readonly error?: unknown };

const attached = new WeakMap<AxiosInstance, () => void>();

/**
 * Let the requests of an axios instance to the API's origins carry the access token, and after a 401 be sent once more
 * with a new one. Attaching again takes the place of what was attached before.
 *
 * A request for which no token can be had fails with an AxiosError `ERR_NETWORK`, whose `cause` is the AuthError. One
 * whose page shows another user by now, or nobody, is cancelled (`axios.isCancel`) with the message `session_changed`. A
 * `timeout` of axios begins when a request goes out: what waits for a token as well is bounded by a `signal`.
 *
 * @returns the function that undoes it.
 *
 * @example
 * ```ts
 * const api = axios.create({ baseURL: "/api" });
 * const detach = attachAuth(api, auth);
 * const { data } = await api.get("/profile");
 * ```
 */
export const attachAuth = (instance: AxiosInstance, auth: AuthClient): (() => void) => {
  let on = true;
  // Why not the instance: it fills in its own `baseURL` where an interceptor has taken that away, as no adapter does.
  const uris = new axios.Axios({});
  /** Until when the 401s of an API start no refresh, by its origin. */
  const calm: Record<string, number> = {};

  const send = async (config: Config, transmit: (config: Config) => Promise<AxiosResponse>): Promise<AxiosResponse> => {
    const { headers, data } = config;
    const api = on && !headers.has("Authorization") && !config.auth && auth.covers(uris.getUri(config));
    if (!api) return transmit(config);

    // A cancelled wait for a token needs no care here: axios turns whatever it brings into its own CanceledError.
    const signal = config.signal as AbortSignal | undefined;
    // A stream cannot be sent twice, so its token has to last.
    const streams = data && (data.pipe || data.getReader);
    const ask = (asked: Promise<string | null>) =>
      asked.catch((error) => {
        throw axios.AxiosError.from(error, "ERR_NETWORK", config);
      });

    // Before anybody is known the page is the first one's.
    const epoch = auth.epoch || 1;
    let token = await ask(auth.getToken(streams ? { signal, minTtl: STREAM_SPARE } : { signal }));
    // What one user's page asks for must neither go out as another or nobody, nor reach a page that shows those.
    const check = () => {
      if (auth.epoch !== epoch || (token && auth.getSnapshot().status === "unknown"))
        throw new axios.CanceledError("session_changed", config);
    };

    let outcome: Outcome = {};
    // Send it, and tell whether another token may help.
    const refused = async () => {
      check();
      // Not every adapter looks at this one before it sends.
      config.cancelToken?.throwIfRequested();
      // Why a copy, and why the answer gets the original: errors are logged with their config, and sent again from it.
      const own = axios.AxiosHeaders.concat(headers, token ? { Authorization: `Bearer ${token}` } : undefined);
      outcome = await transmit({ ...config, headers: own }).then(
        (response) => ({ response }),
        (error) => {
          if (error.config) error.config = config;
          return { error, response: error.response };
        },
      );
      const { response } = outcome;
      if (response) response.config = config;
      // What was asked for as nobody may reach anybody.
      if (token) check();
      return on && response?.status === 401 && !auth.challenged(response.headers["www-authenticate"]);
    };

    if ((await refused()) && token && !streams && !((calm[api] as number) > auth.now())) {
      token = await ask(auth.renew(token, { signal }));
      if (token && (await refused())) calm[api] = auth.now() + CALM;
    }
    if (outcome.error) throw outcome.error;
    return outcome.response as AxiosResponse;
  };

  const id = instance.interceptors.request.use(
    (config) => {
      const adapter = config.adapter as AxiosAdapter;
      config.adapter = (ready) => {
        ready.adapter = adapter;
        return send(ready, axios.getAdapter(adapter, ready));
      };
      return config;
    },
    null,
    { synchronous: true },
  );

  const detach = () => {
    on = false;
    instance.interceptors.request.eject(id);
  };
  attached.get(instance)?.();
  attached.set(instance, detach);
  return detach;
};
