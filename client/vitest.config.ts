import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.{ts,tsx}"],
    exclude: ["test/packed/**", "test/react-18/node_modules/**"],
    environment: "node",
    restoreMocks: true,
    unstubGlobals: true,
    pool: "threads",
    maxWorkers: 2,
  },
});
