import { defineConfig } from "tsdown";

export default defineConfig({
  entry: {
    index: "src/index.ts",
    "react/index": "src/react/index.ts",
    "axios/index": "src/axios/index.ts",
    "next/index": "src/next/index.ts",
    "next/client": "src/next/client.tsx",
    "next/server": "src/next/server.ts",
    "next/server-components-only": "src/next/server-components-only.ts",
  },
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: true,
  sourcemap: false,
  clean: true,
  fixedExtension: false,
  deps: { neverBundle: ["react", "axios", /^next\//] },
  // How long the declarations take says nothing about the package, and stood as a warning in `make demo`.
  inputOptions: { checks: { pluginTimings: false } },
  outputOptions: {
    // Server components may import the React parts; their files say that they are for the browser, the one that entries
    // share too. Their types must not: a statement in a declaration file is an error to whoever checks their libraries.
    banner: ({ fileName }) => (/^(react\/.*|next\/client)\.js$/.test(fileName) ? '"use client";' : ""),
    chunkFileNames: ({ moduleIds }) =>
      moduleIds.some((id) => /[\\/]src[\\/]react[\\/]/.test(id)) ? "react/[name]-[hash].js" : "[name]-[hash].js",
  },
});
