import { defineConfig } from "tsdown";

/**
 * A comment belongs to the member below it only where it begins a line: an editor shows no other. The printer of
 * declarations puts one that fits behind the member before.
 */
const ownLines = (code: string): string => code.replace(/^( *)(.*\S) (\/\*\* .* \*\/)$/gm, "$1$2\n$1$3");

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
  // The oldest browsers of README.md, by `AbortSignal.timeout`. The names of a language newer than ES2022 do not type.
  target: ["chrome103", "firefox100", "safari16"],
  dts: true,
  sourcemap: false,
  clean: true,
  fixedExtension: false,
  plugins: [
    {
      name: "own-lines",
      generateBundle(_, bundle) {
        for (const file of Object.values(bundle))
          if (file.type === "chunk" && file.fileName.endsWith(".d.ts")) file.code = ownLines(file.code);
      },
    },
  ],
  deps: { neverBundle: ["react", "axios", /^next\//] },
  inputOptions: {
    // How long the declarations take says nothing about the package, and stood as a warning in `make demo`.
    checks: { pluginTimings: false },
    // A name for each number and text that is used in few places costs more than it saves.
    optimization: { inlineConst: { mode: "all", pass: 2 } },
  },
  outputOptions: {
    // Server components may import the React parts; their files say that they are for the browser, the one that entries
    // share too. Their types must not: a statement in a declaration file is an error to whoever checks their libraries.
    banner: ({ fileName }) => (/^(react\/.*|next\/client)\.js$/.test(fileName) ? '"use client";' : ""),
    chunkFileNames: ({ moduleIds }) =>
      moduleIds.some((id) => /[\\/]src[\\/]react[\\/]/.test(id)) ? "react/[name]-[hash].js" : "[name]-[hash].js",
  },
});
