// Judges the package as people get it: packed, unpacked, linted, typed, imported and run.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const client = fileURLToPath(new URL("..", import.meta.url));
const installed = join(client, "..", "node_modules");
const folder = mkdtempSync(join(tmpdir(), "keyturn-pack-"));
const run = (command, args, cwd = folder) => execFileSync(command, args, { cwd, stdio: "inherit" });
const tool = (path, ...args) => run(process.execPath, [join(installed, path), ...args]);

try {
  run("npm", ["pack", "--silent", "--ignore-scripts", "--pack-destination", folder], client);
  const tarball = join(
    folder,
    readdirSync(folder).find((name) => name.endsWith(".tgz")),
  );
  tool("publint/src/cli.js", "run", tarball, "--strict");
  tool("@arethetypeswrong/cli/dist/index.js", tarball, "--profile", "esm-only");

  const modules = join(folder, "node_modules");
  mkdirSync(join(modules, "keyturn"), { recursive: true });
  run("tar", ["-xzf", tarball, "-C", join(modules, "keyturn"), "--strip-components=1"]);
  const files = readdirSync(join(modules, "keyturn"), { recursive: true }).map(String).sort();
  const foreign = files.filter((name) => !/^(dist(\/|$)|package\.json$|README\.md$|LICENSE$)/.test(name));
  if (foreign.length) throw new Error(`not for the package: ${foreign}`);
  for (const name of files.filter((file) => /^dist\/(react\/.*|next\/client)\.js$/.test(file))) {
    const text = readFileSync(join(modules, "keyturn", name), "utf8");
    if (!/^["']use client["'];/.test(text)) throw new Error(`${name} does not begin with "use client"`);
  }

  // Peers and types come from the workspace; `keyturn` itself only from the tarball.
  for (const name of ["react", "react-dom", "scheduler", "next", "axios", "@types", "csstype", "jsdom"])
    symlinkSync(join(installed, name), join(modules, name), "dir");
  cpSync(join(client, "test", "packed"), folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module", private: true }));
  // The newest TypeScript that is installed, and the oldest of README.md.
  for (const typescript of ["typescript", "../compat/typescript-5.1/node_modules/typescript"])
    for (const settings of ["tsconfig.json", "tsconfig.node16.json"])
      tool(`${typescript}/bin/tsc`, "-p", join(folder, settings));
  run(process.execPath, ["in-node.mjs"]);
  run(process.execPath, ["in-jsdom.mjs"]);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
