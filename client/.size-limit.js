/**
 * The budgets. Measured as ES modules, which is what the package is and what an application's bundler joins: by default
 * a shim for `require` would be counted wherever React or axios is left out.
 */
const modifyEsbuildConfig = (config) => ({ ...config, format: "esm" });

export default [
  {
    name: "core",
    path: "dist/index.js",
    import: "{ createAuthClient }",
    limit: "4.0 kB",
    gzip: true,
    modifyEsbuildConfig,
  },
  {
    name: "core + React",
    path: ["dist/index.js", "dist/react/index.js"],
    import: { "dist/index.js": "{ createAuthClient }", "dist/react/index.js": "*" },
    ignore: ["react"],
    limit: "5.0 kB",
    gzip: true,
    modifyEsbuildConfig,
  },
  {
    name: "core + React + Next.js",
    path: ["dist/next/index.js", "dist/react/index.js"],
    import: { "dist/next/index.js": "{ AuthProvider, Anonymous }", "dist/react/index.js": "*" },
    ignore: ["react"],
    limit: "5.35 kB",
    gzip: true,
    modifyEsbuildConfig,
  },
  {
    name: "axios",
    path: "dist/axios/index.js",
    import: "{ attachAuth }",
    ignore: ["axios"],
    limit: "0.7 kB",
    gzip: true,
    modifyEsbuildConfig,
  },
];
