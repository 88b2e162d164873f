import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

/** Where `keyturn demo` listens while the page is worked on with `npm run dev`. */
const SERVER = "http://localhost:8000";

export default defineConfig({
  plugins: [react()],
  build: {
    // The Python package serves it, so that nobody needs Node to run the demo.
    outDir: "../../src/keyturn/demo/static",
    emptyOutDir: true,
    // The page's policy allows neither data: addresses nor inline scripts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    proxy: {
      // The server of the demo takes a login from its own address alone.
      "/auth": { target: SERVER, headers: { origin: SERVER } },
      "/demo": { target: SERVER },
    },
  },
});
