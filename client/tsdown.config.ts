import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { index: "src/index.ts", "react/index": "src/react/index.ts", "axios/index": "src/axios/index.ts" },
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: true,
  sourcemap: false,
  clean: true,
  fixedExtension: false,
  deps: { neverBundle: ["react", "axios"] },
  // Server components may import the binding; its files say that they are for the browser. Its types must not: a
  // statement in a declaration file is an error to whoever checks their libraries.
  outputOptions: { banner: ({ fileName }) => (/^react\/.*\.js$/.test(fileName) ? '"use client";' : "") },
});
