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
  // Server components may import the binding; its files say that they are for the browser.
  outputOptions: { banner: (chunk) => (chunk.fileName.startsWith("react/") ? '"use client";' : "") },
});
