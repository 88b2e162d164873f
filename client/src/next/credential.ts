/**
 * The credential of a render server: an HMAC over what it asks for.
 *
 * Owns: the format, the twin of `keyturn.web.server_credential`. Must not hold: the request, the clock.
 * Spec: `spec/wire.md`, "The credential of a render server"; `spec/vectors/server-credential.json`.
 */

/** What of a request is signed, beside the time. */
export type Signed = {
  /** As the Keyturn server sees it, with the base path. */
  readonly path: string;
  /** The value of `__Host-kt_refresh`: ASCII. */
  readonly cookie: string;
  readonly body: string;
};

const encoder = new TextEncoder();

const hex = (bytes: ArrayBuffer): string =>
  [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const digest = async (text: string): Promise<string> =>
  hex(await crypto.subtle.digest("SHA-256", encoder.encode(text)));

const toBase64url = (bytes: ArrayBuffer): string =>
  btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

const fromBase64url = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));

/**
 * Make the Authorization header of one request.
 *
 * @param key - base64url.
 * @param time - whole seconds since the Unix epoch.
 */
export const authorization = async (keyId: string, key: string, time: number, signed: Signed): Promise<string> => {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const secret = await crypto.subtle.importKey("raw", fromBase64url(key), algorithm, false, ["sign"]);
  const digests = await Promise.all([digest(signed.cookie), digest(signed.body)]);
  const text = ["keyturn-ssr-v1", "POST", signed.path, time, ...digests].join("\n");
  const signature = toBase64url(await crypto.subtle.sign("HMAC", secret, encoder.encode(text)));
  return `Keyturn-HMAC key=${keyId}, time=${time}, signature=${signature}`;
};
