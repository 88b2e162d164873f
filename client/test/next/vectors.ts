/** The vectors that both sides run. */
import { readFileSync } from "node:fs";

type Vectors = {
  "cookie.json": { cookie: string; read: { name: string; headers: string[]; values: string[] }[] };
  "server-credential.json": {
    keys: { [id: string]: string };
    signed: {
      name: string;
      key_id: string;
      time: number;
      path: string;
      cookie: string;
      body: string;
      authorization: string;
    }[];
  };
};

export const load = <Name extends keyof Vectors>(name: Name): Vectors[Name] =>
  JSON.parse(readFileSync(new URL(`../../../spec/vectors/${name}`, import.meta.url), "utf8"));
