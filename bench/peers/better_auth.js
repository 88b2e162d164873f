// better-auth over PostgreSQL, as its guide sets it up for Node: a session cookie, and the plugin that turns it into a JWT.
//
//   node better_auth.js prepare 1000    makes its tables and so many users; prints each one's session cookie
//   node better_auth.js serve           prints the port and serves
//
// The environment says where the database is (PEER_DATABASE_URL), what signs cookies (PEER_SECRET) and after how many
// seconds a session is written anew (PEER_UPDATE_AGE; better-auth's default is a day).

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";
import pg from "pg";

const PASSWORD = "violet otters juggle quietly";
const database = new pg.Pool({ connectionString: process.env.PEER_DATABASE_URL, max: 10 });

// What is measured is no login, so the users need no hash that takes a while to make.
const quick = (password) => createHash("sha256").update(password).digest("hex");

const auth = betterAuth({
  baseURL: "http://127.0.0.1",
  secret: process.env.PEER_SECRET,
  database,
  emailAndPassword: {
    enabled: true,
    password: {
      hash: async (password) => quick(password),
      verify: async ({ hash, password }) => hash === quick(password),
    },
  },
  session: { updateAge: Number(process.env.PEER_UPDATE_AGE) },
  plugins: [jwt({ jwks: { keyPairConfig: { alg: "ES256" } } })],
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  logger: { level: "error" },
});

async function prepare(count) {
  const { runMigrations } = await getMigrations(auth.options);
  await runMigrations();
  for (let number = 0; number < count; number += 1) {
    const email = `user${number}@example.com`;
    const { headers } = await auth.api.signUpEmail({
      body: { email, password: PASSWORD, name: "Ada Lovelace" },
      returnHeaders: true,
    });
    console.log(headers.getSetCookie()[0].split(";")[0]);
  }
  await database.end();
}

function serve() {
  const handle = toNodeHandler(auth);
  const server = createServer((request, response) =>
    request.url === "/healthz" ? response.end("ok") : handle(request, response),
  );
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
  process.on("SIGTERM", () => process.exit(0));
}

if (process.argv[2] === "prepare") await prepare(Number(process.argv[3]));
else serve();
