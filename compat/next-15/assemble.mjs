// Puts the application of examples/nextjs together as one for Next.js 15, in ./build: the same files, with the package as
// it is installed (so that it finds this Next.js and not the workspace's), and the gate under its former name.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const example = join(here, "../../examples/nextjs");
const client = join(here, "../../client");
const build = join(here, "build");
const installed = join(build, "node_modules/keyturn");

rmSync(build, { recursive: true, force: true });
mkdirSync(installed, { recursive: true });
for (const name of ["app", ".env", "tsconfig.json"])
  cpSync(join(example, name), join(build, name), { recursive: true });
for (const name of ["dist", "package.json"]) cpSync(join(client, name), join(installed, name), { recursive: true });
// Which files a page needs is asked by who moves a build elsewhere. It takes a third of the build, and `next start` reads none of it.
const config = readFileSync(join(example, "next.config.ts"), "utf8");
const untraced = 'reactStrictMode: true, outputFileTracingExcludes: { "next-server": ["**"] }';
writeFileSync(join(build, "next.config.ts"), config.replace("reactStrictMode: true", untraced));
const gate = readFileSync(join(example, "proxy.ts"), "utf8");
writeFileSync(join(build, "middleware.ts"), gate.replace("export const proxy", "export const middleware"));
// TypeScript 6 asks for a declaration of what is imported for its effect; these types do not have it yet.
writeFileSync(join(build, "css.d.ts"), 'declare module "*.css";\n');
