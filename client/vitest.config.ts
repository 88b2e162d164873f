import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const react18 = fileURLToPath(new URL("../compat/react-18/node_modules/", import.meta.url));

export default defineConfig({
  test: {
    exclude: ["test/packed/**"],
    environment: "node",
    // Tests in real time wait for conditions, on a machine that may have other things to do.
    testTimeout: 30_000,
    restoreMocks: true,
    unstubGlobals: true,
    maxWorkers: 2,
    projects: [
      { extends: true, test: { name: "client", include: ["test/**/*.test.{ts,tsx}"] } },
      {
        extends: true,
        // The same tests on the oldest React there is support for.
        resolve: { alias: [{ find: /^(react(?:-dom)?(?:\/.*)?)$/, replacement: `${react18}$1` }] },
        test: { name: "react-18", include: ["test/react/**/*.test.{ts,tsx}"] },
      },
    ],
  },
});
